//! Finds which cache lines a lookup writes, and which of them another thread's lookup touches.
//!
//! A line that one thread writes and another thread reads moves between their processors with each
//! lookup. Lookups without such lines do not slow each other down, on any number of processors. So
//! lemma G5.3 of `docs/guarantees.md`, which this measures, is the argument for scaling beyond the
//! processors of a benchmark's machine.
//!
//! The benchmark runs itself as a child and steps through two threads of the child by `ptrace(2)`,
//! one after the other. Each thread looks the same keys up in the same cache. The benchmark decodes
//! each instruction and records the lines that it reads or writes. A store is one of three kinds:
//!
//! * *shared*: the other thread's lookups touch the line;
//! * *stack*: the line belongs to the thread's stack or thread-local storage;
//! * *own*: any other line, such as the thread's record in a reclamation.
//!
//! It writes `lines.json` next to criterion's figures. What the kernel writes in a system call is
//! not seen. Where `ptrace` is refused, and on other systems than Linux on x86-64, the file has a
//! note. The row of the mutex is a control: without a shared store in it, the benchmark fails.

mod peers;
mod workload;

use std::env;
use std::hint::black_box;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use peers::{Limit, MutexStd, Peer, for_each_shared};
use workload::{LASTING, Probes, is_test, keys, save};

const KEYS: usize = 1_000;
const LOOKUPS: usize = 50;
/// The environment variable that names what the traced process runs.
const SUBJECT: &str = "TRUST_KEY_CACHE_TRACED";

/// What the lookups of both threads did, per lookup, and the lines that they wrote.
struct Found {
    stores: Stores,
    /// Lines of a thread that the other thread does not touch, outside of its stack.
    own_lines: usize,
    shared_lines: usize,
    /// Instructions that lock a line, per lookup.
    locked: f64,
}

#[derive(Default)]
struct Stores {
    stack: f64,
    own: f64,
    shared: f64,
}

fn main() -> ExitCode {
    match env::var(SUBJECT) {
        Ok(subject) => {
            for_each_peer(|name, run| {
                if subject == name {
                    run();
                }
            });
            ExitCode::SUCCESS
        }
        // The control row is enough to see that everything works.
        Err(_) if is_test() => trace_all(|name| name == MutexStd::NAME),
        Err(_) => trace_all(|_| true),
    }
}

fn for_each_peer(mut each: impl FnMut(&str, fn())) {
    fn one<P: Peer>(each: &mut impl FnMut(&str, fn())) {
        each(P::NAME, run::<P>);
    }
    let each = &mut each;
    for_each_shared!(one(each));
    one::<Limit>(each);
}

fn trace_all(wanted: impl Fn(&str) -> bool) -> ExitCode {
    let (mut figures, mut code) = (Map::new(), ExitCode::SUCCESS);
    for_each_peer(|name, _| {
        if !wanted(name) || figures.contains_key("missing") {
            return;
        }
        match tracer::trace(name) {
            Ok(Found { stores, own_lines, shared_lines, locked }) => {
                println!(
                    "{name:<42} stores: {:>5.1} stack {:>5.1} own {:>5.1} shared; \
                     lines: {own_lines:>4} own {shared_lines:>4} shared; {locked:>4.1} locked",
                    stores.stack, stores.own, stores.shared,
                );
                figures.insert(
                    name.into(),
                    json!({
                        "stores": {
                            "stack": stores.stack,
                            "own": stores.own,
                            "shared": stores.shared,
                        },
                        "lines": { "own": own_lines, "shared": shared_lines },
                        "locked": locked,
                    }),
                );
                if name == MutexStd::NAME && shared_lines == 0 {
                    println!("lines: the control failed: a mutex without a shared line");
                    code = ExitCode::FAILURE;
                }
            }
            Err(why) => {
                println!("lines: left out: {why}");
                figures = Map::from_iter([("missing".into(), json!(why))]);
            }
        }
    });
    save("lines", &Value::Object(figures));
    code
}

/// Makes the lookups of two threads, one thread after the other. Both threads are registered when
/// the first begins, and remain until the second ends.
fn run<P: Peer>() {
    tracer::wait_for_parent();
    let keys = keys::<P::Key>(KEYS);
    // On the heap, as a program shares it. On this stack it would share lines with local variables.
    let peer = &*Box::new(P::filled(&keys, LASTING));
    let probes = Probes::new(&keys);
    let (mut first, mut second) = (probes.starting_at(0.0), probes.starting_at(0.0));
    let (is_ready, ready) = std::sync::mpsc::channel();
    let (start, started) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            look_up(peer, &mut second, 1);
            is_ready.send(()).expect("the first thread waits");
            started.recv().expect("the first thread starts this one");
            traced(peer, &mut second);
        });
        look_up(peer, &mut first, 1);
        ready.recv().expect("the second thread gets ready");
        traced(peer, &mut first);
        start.send(()).expect("the second thread waits");
    });
}

fn traced<P: Peer>(peer: &P, probes: &mut Probes<P::Key>) {
    tracer::meet();
    look_up(peer, probes, LOOKUPS);
    tracer::meet();
}

#[inline(never)]
fn look_up<P: Peer>(peer: &P, probes: &mut Probes<P::Key>, count: usize) {
    for _ in 0..count {
        black_box(peer.get(black_box(probes.next())));
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tracer {
    use std::collections::{HashMap, HashSet};
    use std::fs::{self, File};
    use std::io::{self, Read, Write};
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::process::{Child, Command, Stdio};

    use iced_x86::{
        Code, Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, Register,
        UsedMemory,
    };
    use nix::sys::ptrace::{self, Options};
    use nix::sys::signal::{Signal, raise};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::{Found, LOOKUPS, SUBJECT, Stores};

    const LINE: u64 = 64;
    /// The longest instruction, in bytes.
    const LONGEST: usize = 15;
    /// Thread-local storage is at most as far from the thread's pointer as this.
    const NEAR: u64 = 4096;

    type Result<T> = std::result::Result<T, String>;

    /// Waits until the parent traces this process.
    pub(super) fn wait_for_parent() {
        io::stdin().read_exact(&mut [0]).expect("the parent writes when it traces");
    }

    /// Stops this thread alone, and lets the parent begin or end. The parent withholds the signal.
    pub(super) fn meet() {
        raise(Signal::SIGUSR1).expect("a thread may signal itself");
    }

    /// Runs this program again as `subject`.
    pub(super) fn trace(subject: &str) -> Result<Found> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .env(SUBJECT, subject)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let found = trace_threads(&mut child);
        child.kill().ok();
        // A process has ended only when the tracer has waited for each thread.
        while waitpid(None, Some(WaitPidFlag::__WALL)).is_ok() {}
        child.wait().ok();
        let [first, second] = found.map_err(|error| format!("ptrace: {error}"))?;
        Ok(compare(&first, &second))
    }

    fn trace_threads(child: &mut Child) -> Result<[Trace; 2]> {
        let pid = Pid::from_raw(child.id() as i32);
        ptrace::seize(pid, Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACECLONE)
            .map_err(|error| error.to_string())?;
        let input = child.stdin.as_mut().expect("its input is a pipe");
        input.write_all(b"!").map_err(|error| error.to_string())?;
        Ok([next_trace(pid)?, next_trace(pid)?])
    }

    /// Waits until a thread meets, and records until the thread meets again.
    fn next_trace(process: Pid) -> Result<Trace> {
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)).map_err(|error| error.to_string())? {
                WaitStatus::Stopped(thread, Signal::SIGUSR1) => {
                    let trace = Trace::record(process, thread)?;
                    resume(thread, None)?;
                    return Ok(trace);
                }
                WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal))?,
                // A thread starts.
                WaitStatus::PtraceEvent(thread, ..) => resume(thread, None)?,
                other => return Err(format!("the child did not go on: {other:?}")),
            }
        }
    }

    fn resume(thread: Pid, signal: Option<Signal>) -> Result<()> {
        ptrace::cont(thread, signal).map_err(|error| error.to_string())
    }

    /// What the lookups of one thread touched.
    struct Trace {
        touched: HashSet<u64>,
        /// Stores by line.
        stores: HashMap<u64, u64>,
        locked: u64,
        /// The lines of the thread's stack and thread-local storage.
        stack: [Range<u64>; 2],
    }

    /// What an instruction does to memory.
    struct Decoded {
        memory: Vec<UsedMemory>,
        locked: bool,
    }

    impl Trace {
        /// Steps the thread to its next meeting.
        fn record(process: Pid, thread: Pid) -> Result<Self> {
            let memory =
                File::open(format!("/proc/{process}/mem")).map_err(|error| error.to_string())?;
            let registers = ptrace::getregs(thread).map_err(|error| error.to_string())?;
            let near = registers.fs_base.saturating_sub(NEAR)..registers.fs_base + NEAR;
            let mut trace = Self {
                touched: HashSet::new(),
                stores: HashMap::new(),
                locked: 0,
                stack: [mapping(process, registers.rsp)?, near],
            };
            let (mut decoded, mut factory) = (HashMap::new(), InstructionInfoFactory::new());
            loop {
                let registers = ptrace::getregs(thread).map_err(|error| error.to_string())?;
                let at = registers.rip;
                let instruction = match decoded.entry(at) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(new) => {
                        new.insert(decode(&memory, at, &mut factory)?)
                    }
                };
                trace.note(instruction, |register| match register.full_register() {
                    Register::RAX => Some(registers.rax),
                    Register::RBX => Some(registers.rbx),
                    Register::RCX => Some(registers.rcx),
                    Register::RDX => Some(registers.rdx),
                    Register::RSI => Some(registers.rsi),
                    Register::RDI => Some(registers.rdi),
                    Register::RBP => Some(registers.rbp),
                    Register::RSP => Some(registers.rsp),
                    Register::R8 => Some(registers.r8),
                    Register::R9 => Some(registers.r9),
                    Register::R10 => Some(registers.r10),
                    Register::R11 => Some(registers.r11),
                    Register::R12 => Some(registers.r12),
                    Register::R13 => Some(registers.r13),
                    Register::R14 => Some(registers.r14),
                    Register::R15 => Some(registers.r15),
                    Register::FS => Some(registers.fs_base),
                    Register::GS => Some(registers.gs_base),
                    Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
                    _ => None,
                })?;
                ptrace::step(thread, None).map_err(|error| error.to_string())?;
                let status = waitpid(thread, Some(WaitPidFlag::__WALL));
                match status.map_err(|error| error.to_string())? {
                    WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                    WaitStatus::Stopped(_, Signal::SIGUSR1) => return Ok(trace),
                    other => return Err(format!("the thread did not go on: {other:?}")),
                }
            }
        }

        fn note(
            &mut self,
            instruction: &Decoded,
            register: impl Fn(Register) -> Option<u64>,
        ) -> Result<()> {
            self.locked += u64::from(instruction.locked);
            for used in &instruction.memory {
                let start = used
                    .virtual_address(0, |of, _, _| register(of))
                    .ok_or_else(|| format!("an address is not known: {used:?}"))?;
                let size = used.memory_size().size().max(1) as u64;
                for line in start / LINE..=(start + size - 1) / LINE {
                    let (reads, writes) = match used.access() {
                        OpAccess::Read | OpAccess::CondRead => (true, false),
                        OpAccess::Write | OpAccess::CondWrite => (false, true),
                        OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
                        OpAccess::None | OpAccess::NoMemAccess => (false, false),
                    };
                    if reads || writes {
                        self.touched.insert(line);
                    }
                    if writes {
                        *self.stores.entry(line).or_default() += 1;
                    }
                }
            }
            Ok(())
        }

        fn is_stack(&self, line: u64) -> bool {
            self.stack.iter().any(|range| range.contains(&(line * LINE)))
        }
    }

    fn compare(first: &Trace, second: &Trace) -> Found {
        let (mut stores, mut own, mut shared) = (Stores::default(), HashSet::new(), HashSet::new());
        for (trace, other) in [(first, second), (second, first)] {
            for (&line, &count) in &trace.stores {
                let each = count as f64 / (2 * LOOKUPS) as f64;
                if other.touched.contains(&line) {
                    stores.shared += each;
                    shared.insert(line);
                } else if trace.is_stack(line) {
                    stores.stack += each;
                } else {
                    stores.own += each;
                    own.insert(line);
                }
            }
        }
        let locked = (first.locked + second.locked) as f64 / (2 * LOOKUPS) as f64;
        Found { stores, own_lines: own.len(), shared_lines: shared.len(), locked }
    }

    fn decode(memory: &File, at: u64, factory: &mut InstructionInfoFactory) -> Result<Decoded> {
        let mut bytes = [0; LONGEST];
        // The instruction may be the last of its mapping.
        let length = memory.read_at(&mut bytes, at).map_err(|error| error.to_string())?;
        let mut decoder = Decoder::with_ip(64, &bytes[..length], at, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.code() == Code::INVALID {
            return Err(format!("the instruction at {at:#x} is not known"));
        }
        let memory = factory.info(&instruction).used_memory().to_vec();
        // An exchange with memory locks without the prefix.
        let locked = instruction.has_lock_prefix()
            || instruction.mnemonic() == Mnemonic::Xchg && !memory.is_empty();
        Ok(Decoded { memory, locked })
    }

    /// Returns the mapping that contains the address.
    fn mapping(process: Pid, address: u64) -> Result<Range<u64>> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps"))
            .map_err(|error| error.to_string())?;
        maps.lines()
            .filter_map(|line| {
                let (start, rest) = line.split_once('-')?;
                let (end, _) = rest.split_once(' ')?;
                let number = |text| u64::from_str_radix(text, 16).ok();
                Some(number(start)?..number(end)?)
            })
            .find(|range| range.contains(&address))
            .ok_or_else(|| "a thread without a stack".into())
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod tracer {
    pub(super) fn wait_for_parent() {}

    pub(super) fn meet() {}

    pub(super) fn trace(_subject: &str) -> Result<super::Found, String> {
        Err("tracing needs Linux's ptrace on x86-64".into())
    }
}
