//! Counts the instructions of a lookup one by one: these figures repeat where times do not.
//!
//! The benchmark runs itself as a child, steps through the child by `ptrace(2)`, and writes
//! `instructions.json` next to criterion's figures. Where `ptrace` is refused, and on other systems
//! than Linux, it writes a note. The child calls [`lookups`] with a number of lookups and then with
//! twice the number. The difference of the two counts belongs to the lookups alone. The child runs
//! the clock of the vDSO and the reclamation that ships. Callgrind hides the vDSO and refuses
//! `membarrier`, so it would count the other reclamation.

mod peers;
mod workload;

use std::env;
use std::hint::black_box;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use peers::{
    ClockAlone, Limit, LimitAsWritten, LimitConstantTime, LoopAlone, Peer, for_each_shared,
};
use workload::{LASTING, Probes, is_test, keys, save, unknown_keys};

const KEYS: usize = 1_000;
const LOOKUPS: usize = 200;
/// The environment variable that names the subject of the counted process.
const SUBJECT: &str = "TRUST_KEY_CACHE_COUNTED";

fn main() -> ExitCode {
    match env::var(SUBJECT) {
        Ok(subject) => {
            for_each_peer(|name, run| {
                for hit in [true, false] {
                    if subject == label(name, hit) {
                        run(hit);
                    }
                }
            });
            ExitCode::SUCCESS
        }
        Err(_) if is_test() => {
            for_each_peer(|_, run| run(true));
            ExitCode::SUCCESS
        }
        Err(_) => count_all(),
    }
}

fn for_each_peer(mut each: impl FnMut(&str, fn(bool))) {
    fn one<P: Peer>(each: &mut impl FnMut(&str, fn(bool))) {
        each(P::NAME, run::<P>);
    }
    let each = &mut each;
    for_each_shared!(one(each));
    one::<Limit>(each);
    one::<LimitConstantTime>(each);
    one::<LimitAsWritten>(each);
    one::<ClockAlone>(each);
    one::<LoopAlone>(each);
}

fn label(name: &str, hit: bool) -> String {
    format!("{name} {}", if hit { "hit" } else { "miss" })
}

fn run<P: Peer>(hit: bool) {
    let keys = keys::<P::Key>(KEYS);
    let peer = P::filled(&keys, LASTING);
    let mut probes = Probes::new(&if hit { keys } else { unknown_keys(KEYS) });
    // The first lookup does the work of a first use, such as the thread's registration.
    lookups(&peer, &mut probes, 1);
    stepper::meet();
    lookups(&peer, &mut probes, LOOKUPS);
    stepper::meet();
    lookups(&peer, &mut probes, 2 * LOOKUPS);
    stepper::meet();
}

#[inline(never)]
fn lookups<P: Peer>(peer: &P, probes: &mut Probes<P::Key>, count: usize) {
    for _ in 0..count {
        black_box(peer.get(black_box(probes.next())));
    }
}

fn count_all() -> ExitCode {
    let mut figures = Map::new();
    let mut failure = None;
    for_each_peer(|name, _| {
        let mut counts = Map::new();
        for what in ["hit", "miss"] {
            if failure.is_some() {
                return;
            }
            match stepper::count(&label(name, what == "hit")) {
                Ok(count) => {
                    println!("{name:<42} {what:<5} {count:>8.1} instructions");
                    counts.insert(what.into(), json!(count));
                }
                Err(error) => failure = Some(error),
            }
        }
        figures.insert(name.into(), Value::Object(counts));
    });
    match failure {
        None => {
            save("instructions", &Value::Object(figures));
            ExitCode::SUCCESS
        }
        Some(why) => {
            println!("instructions: left out: {why}");
            save("instructions", &json!({ "missing": why }));
            ExitCode::SUCCESS
        }
    }
}

#[cfg(target_os = "linux")]
mod stepper {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    use nix::sys::ptrace;
    use nix::sys::signal::{Signal, raise};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::{LOOKUPS, SUBJECT};

    /// Stops the child, so that the parent can count. The first call waits until the parent traces.
    pub(super) fn meet() {
        if std::env::var_os(SUBJECT).is_none() {
            return;
        }
        static TRACED: std::sync::Once = std::sync::Once::new();
        TRACED.call_once(|| {
            std::io::stdin().read_exact(&mut [0]).expect("the parent writes a byte when it traces");
        });
        raise(Signal::SIGSTOP).expect("a process may stop itself");
    }

    /// Runs this program again as `subject`. Returns the instructions of a lookup, or the reason
    /// why they cannot be counted.
    pub(super) fn count(subject: &str) -> Result<f64, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .env(SUBJECT, subject)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let counted = trace(&mut child);
        child.kill().ok();
        child.wait().ok();
        counted.map_err(|error| format!("ptrace: {error}"))
    }

    fn trace(child: &mut Child) -> Result<f64, String> {
        let pid = Pid::from_raw(child.id() as i32);
        ptrace::seize(pid, ptrace::Options::PTRACE_O_EXITKILL)
            .map_err(|error| error.to_string())?;
        let go = child.stdin.as_mut().expect("its input is a pipe").write_all(b"!");
        go.map_err(|error| error.to_string())?;
        if waitpid(pid, None) != Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)) {
            return Err("the child did not stop".into());
        }
        let once = steps(pid)?;
        let twice = steps(pid)?;
        Ok((twice as f64 - once as f64) / LOOKUPS as f64)
    }

    /// Steps to the next stop of the child.
    fn steps(pid: Pid) -> Result<u64, String> {
        for steps in 1.. {
            ptrace::step(pid, None).map_err(|error| error.to_string())?;
            match waitpid(pid, None).map_err(|error| error.to_string())? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(steps),
                other => return Err(format!("the child did not continue: {other:?}")),
            }
        }
        unreachable!("the child stops")
    }
}

#[cfg(not(target_os = "linux"))]
mod stepper {
    pub(super) fn meet() {}

    pub(super) fn count(_subject: &str) -> Result<f64, String> {
        Err("counting needs Linux's ptrace".into())
    }
}
