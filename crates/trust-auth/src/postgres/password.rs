//! [`PasswordSource`]: finds the password of a new connection. Each connection reads the source
//! again, so a password may change while the process runs.
//!
//! No error and no log line contains a password, or anything that a command prints.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::location::{Host, Location};

/// The longest password: a token of a cloud has some thousand characters.
const MAX_LENGTH: u64 = 64 * 1024;

/// How long the output of a command is reused. Connections that are opened together share one run.
const COMMAND_HOLDS: Duration = Duration::from_secs(5);

/// The default folders of sockets. A password file has `localhost` for them.
const DEFAULT_SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

pub(super) type Password = Zeroizing<String>;

/// Where passwords are read.
#[derive(Clone)]
pub(super) enum PasswordSource {
    /// The connection string, the service, `PGPASSWORD`, or the file of passwords.
    Location,
    /// A file that contains the password and nothing else.
    File(PathBuf),
    /// The standard output of a program.
    Command {
        program: OsString,
        arguments: Vec<OsString>,
        last: Arc<Mutex<Option<(Instant, Password)>>>,
    },
}

/// Leaves out the command's arguments, which may be secret.
impl fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Location => "Location",
            Self::File(_) => "File",
            Self::Command { .. } => "Command",
        })
    }
}

/// A password, or why there is none.
#[derive(Default)]
pub(super) struct Found {
    pub(super) password: Option<Password>,
    /// Why the file of passwords was left out. The error contains this if the server requires a
    /// password.
    pub(super) hint: Option<&'static str>,
}

impl PasswordSource {
    /// Returns the password for a connection to `host`.
    ///
    /// # Errors
    ///
    /// Why the file or the command gives no password, and what to do.
    pub(super) async fn password(
        &self,
        location: &Location,
        host: &Host,
        limit: Duration,
    ) -> Result<Found, String> {
        let given = |password| Found { password: Some(password), hint: None };
        match self {
            Self::Location => {
                if let Some(password) = &location.password {
                    return Ok(given(password.clone().into()));
                }
                let Some(file) = location.passfile.clone() else { return Ok(Found::default()) };
                let wanted = Wanted::of(location, host);
                blocking(move || from_passfile(&file, &wanted)).await
            }
            Self::File(file) => {
                let file = file.clone();
                blocking(move || from_file(&file)).await?.map(given)
            }
            Self::Command { program, arguments, last } => {
                let mut last = last.lock().await;
                if let Some((_, password)) =
                    last.as_ref().filter(|(at, _)| at.elapsed() < COMMAND_HOLDS)
                {
                    return Ok(given(password.clone()));
                }
                let password = from_command(program, arguments, limit).await?;
                *last = Some((Instant::now(), password.clone()));
                Ok(given(password))
            }
        }
    }

    /// Discards the last output of the command, because the server refused it.
    pub(super) async fn refused(&self) {
        if let Self::Command { last, .. } = self {
            *last.lock().await = None;
        }
    }
}

/// Reads on a thread that may block: a file system may hang, and must not block a worker.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| "the password could not be read; try again".to_owned())
}

fn from_file(path: &Path) -> Result<Password, String> {
    let shown = path.display();
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).and_then(|file| file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)).map_err(
        |error| {
            format!("the password file {shown} cannot be read: {error}; check its path and mode")
        },
    )?;
    one_line(&bytes).map_err(|what| {
        format!("the password file {shown} {what}; write the password and nothing else")
    })
}

async fn from_command(
    program: &OsString,
    arguments: &[OsString],
    limit: Duration,
) -> Result<Password, String> {
    // Standard error may contain secrets, too.
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            format!("the password command cannot be started: {error}; check its path and mode")
        })?;
    let output = child.stdout.take();
    let run = async {
        let mut bytes = Zeroizing::new(Vec::new());
        if let Some(output) = output {
            output.take(MAX_LENGTH + 1).read_to_end(&mut bytes).await?;
        }
        std::io::Result::Ok((child.wait().await?, bytes))
    };
    let (status, bytes) = match tokio::time::timeout(limit, run).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            return Err(format!("the password command failed: {error}; run it by hand"));
        }
        Err(_) => {
            return Err(format!(
                "the password command did not end within {limit:?}; make it faster, or raise \
                 connect_timeout"
            ));
        }
    };
    if !status.success() {
        return Err(format!("the password command failed ({status}); run it by hand to see why"));
    }
    one_line(&bytes).map_err(|what| {
        format!("the output of the password command {what}; print the password and nothing else")
    })
}

/// Removes one newline at the end of the output of a file or a command.
fn one_line(bytes: &[u8]) -> Result<Password, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is no UTF-8")?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if bytes.len() as u64 > MAX_LENGTH {
        Err("is longer than 64 KiB")
    } else if text.is_empty() {
        Err("is empty")
    } else if text.contains('\0') {
        Err("contains a NUL character")
    } else {
        Ok(text.to_owned().into())
    }
}

/// The fields that a line of a password file must match.
struct Wanted {
    fields: [String; 4],
    /// Whether the line may have `localhost` for the host.
    is_default_socket: bool,
}

impl Wanted {
    fn of(location: &Location, host: &Host) -> Self {
        let name = match host.address {
            Some(address) if host.name.is_empty() => address.to_string(),
            _ => host.name.clone(),
        };
        Self {
            is_default_socket: host.is_socket() && DEFAULT_SOCKET_FOLDERS.contains(&&*name),
            fields: [name, host.port.to_string(), location.database.clone(), location.user.clone()],
        }
    }
}

/// Finds a password as libpq does: in the first line `host:port:database:user:password` that
/// matches. A file that others can read is left out.
fn from_passfile(path: &Path, wanted: &Wanted) -> Found {
    let left_out = |hint| Found { password: None, hint: Some(hint) };
    let Ok(metadata) = fs::metadata(path) else { return Found::default() };
    if !metadata.is_file() {
        return left_out("the password file is no plain file, so it was left out");
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return left_out(
            "the password file can be read by others, so it was left out; give it the mode 0600",
        );
    }
    let Ok(text) = fs::read_to_string(path).map(Zeroizing::new) else {
        return left_out("the password file cannot be read, or is no UTF-8, so it was left out");
    };
    let first = text.lines().find_map(|line| password_of(line, wanted));
    Found { password: first.filter(|password| !password.is_empty()), hint: None }
}

fn password_of(line: &str, wanted: &Wanted) -> Option<Password> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for (index, wanted_field) in wanted.fields.iter().enumerate() {
        let (field, after) = field(rest)?;
        let is_localhost = index == 0 && wanted.is_default_socket && field == "localhost";
        if field != "*" && unescaped(field) != *wanted_field && !is_localhost {
            return None;
        }
        rest = after;
    }
    Some(unescaped(rest).into())
}

/// Splits a line at the first `:` without a backslash before it.
fn field(line: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, character)| {
        let ends = *character == ':' && !escaped;
        escaped = *character == '\\' && !escaped;
        ends
    });
    end.map(|(at, _)| (&line[..at], &line[at + 1..]))
}

fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut unescaped = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        unescaped.push(if character == '\\' {
            characters.next().unwrap_or('\\')
        } else {
            character
        });
    }
    unescaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up(line: &str) -> Option<String> {
        let fields = ["::1", "5432", "d:b", "me"].map(str::to_owned);
        let wanted = Wanted { fields, is_default_socket: false };
        password_of(line, &wanted).map(|password| password.to_string())
    }

    #[test]
    fn a_line_of_a_password_file_matches_by_its_fields_and_wildcards() {
        assert_eq!(looked_up(r"\:\:1:5432:d\:b:me:a\:b\\c").as_deref(), Some(r"a:b\c"));
        assert_eq!(looked_up("*:*:*:*:p:q ").as_deref(), Some("p:q "));
        for line in ["#*:*:*:*:p", "*:*:*:you:p", "*:5433:*:*:p", "*:*:*:me", ""] {
            assert_eq!(looked_up(line), None, "{line}");
        }
    }

    #[test]
    fn only_one_newline_is_removed() {
        assert_eq!(one_line(b"p \r\n").unwrap().as_str(), "p ");
        assert_eq!(one_line(b"p\n\n").unwrap().as_str(), "p\n");
        assert_eq!(one_line(b"p").unwrap().as_str(), "p");
        for (bytes, what) in [(&b"\n"[..], "empty"), (b"a\0", "NUL"), (b"\xff", "UTF-8")] {
            assert!(one_line(bytes).unwrap_err().contains(what));
        }
    }
}
