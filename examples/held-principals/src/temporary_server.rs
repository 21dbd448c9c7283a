//! A PostgreSQL server for the time of the example: in a temporary folder, on a socket there.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Failure;

/// Makes and starts a server, prints its folder, and waits for the end of standard input. That ends
/// also if the example was killed. `$1` is the folder of PostgreSQL's programs.
const SCRIPT: &str = r#"
    set -e
    folder=$(mktemp -d /tmp/held-principals.XXXXXX)
    end() {
        "$1/pg_ctl" stop -s -D "$folder/data" -m immediate >>"$folder/log" 2>&1
        rm -rf "$folder"
    }
    trap 'set +e; end "$1"' EXIT
    trap 'exit 1' HUP INT PIPE TERM
    "$1/initdb" -D "$folder/data" --username=postgres --auth=trust --encoding=UTF8 --no-locale \
        --no-sync >>"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
    "$1/pg_ctl" start -s --wait -D "$folder/data" -o "-c listen_addresses= -c port=5432 \
        -c unix_socket_directories=$folder -c fsync=off" </dev/null >>"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; exit 1; }
    echo "$folder"
    cat >/dev/null
"#;

/// A server, which is stopped and removed when this is dropped.
pub(crate) struct TemporaryServer {
    folder: String,
    shell: Child,
}

impl TemporaryServer {
    /// Starts a server. `None` if PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Self>, Failure> {
        let Some(binaries) = binaries() else { return Ok(None) };
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(binaries).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // In a group of its own: the terminal's Ctrl-C ends the example alone.
        command.process_group(0);
        if let Some((user, group)) = other_user()? {
            command.uid(user).gid(group);
        }
        let shell = command.spawn()?;
        // Stopped from here on, whatever happens.
        let mut server = Self { folder: String::new(), shell };
        if let Some(output) = &mut server.shell.stdout {
            BufReader::new(output).read_line(&mut server.folder)?;
        }
        if server.folder.is_empty() {
            return Err("the server does not start".into());
        }
        Ok(Some(server))
    }

    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost:5432/postgres?sslmode=disable&host={}",
            self.folder.trim_end()
        )
    }
}

impl Drop for TemporaryServer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Returns the folder of PostgreSQL's programs: on the path, or Debian's folder of the newest
/// version.
fn binaries() -> Option<PathBuf> {
    let has_all = |folder: &PathBuf| {
        ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file())
    };
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).find(has_all).or_else(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
        folders.filter(has_all).max_by_key(|folder| version(folder))
    })
}

fn version(binaries: &Path) -> Option<u32> {
    binaries.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Returns the ids of another user and group if this process is root: PostgreSQL refuses to run as
/// root.
fn other_user() -> Result<Option<(u32, u32)>, Failure> {
    if fs::metadata("/proc/self").map_or(1, |process| process.uid()) != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |wanted: &str| {
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(wanted)).then_some(fields))?;
        fields.next();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = ids("postgres").or_else(|| ids("daemon"));
    Ok(Some(found.ok_or("root needs a user `postgres` or `daemon` to run PostgreSQL")?))
}
