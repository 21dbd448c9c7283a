//! Lets contestants take turns in short slices, and reports the ratios within the rounds.
//!
//! A machine whose speed drifts slows all contestants of a round alike, so the median of the
//! per-round ratios repeats where times do not. The next round starts with the next contestant.
//! Where one thread works, its own processor time counts.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

pub(crate) mod hits;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::workload::{is_test, save};

/// The keys between two readings of the clock. Ten divides it: see `called` in `ratios`.
pub(crate) const BATCH: usize = 4_000;

/// The largest number of lookups that warm the processor's caches before a slice is timed. Twice
/// as many lines fill a last-level cache of 32 MiB.
const WARM: usize = 200_000;

const HELP: &str = "\
Measures this cache and its peers in alternating slices, and prints the ratios.

Usage: cargo bench --bench NAME -- [FILTER] [--quick] [--json FILE]

  FILTER       measures only the rows whose names contain it, such as `hit` or `1,000 keys`
  --quick      makes 5 rounds of 5 ms, up to 100,000 keys: shows that everything works
  --json FILE  writes the figures to FILE; without FILTER and FILE, they go to NAME.json next to
               criterion's figures
  --help       prints this text

Exit code: 0; 2 for wrong arguments.";

/// One side of a row. `slice` measures for about a duration, from the keys of a round on, and
/// returns the figure: nanoseconds an operation, in most rows.
pub(crate) struct Contestant<'a> {
    pub(crate) name: &'static str,
    slice: Box<dyn FnMut(usize, Duration) -> f64 + 'a>,
}

impl<'a> Contestant<'a> {
    pub(crate) fn new(name: &'static str, slice: impl FnMut(usize, Duration) -> f64 + 'a) -> Self {
        Self { name, slice: Box::new(slice) }
    }

    /// A contestant that takes the keys of `order` in turn, and `distinct` different ones.
    /// `operate` is the loop: it performs one operation a key.
    pub(crate) fn of_keys<K>(
        name: &'static str,
        order: Vec<K>,
        distinct: usize,
        mut operate: impl FnMut(&[K]) + 'a,
    ) -> Self
    where
        K: 'a,
    {
        Self::new(name, move |round, length| {
            for batch in order.as_chunks::<BATCH>().0.iter().take(distinct.min(WARM) / BATCH + 1) {
                operate(batch);
            }
            time_each(&order, round, length, thread_time, &mut operate)
        })
    }
}

/// Operates on the keys from a place on that depends on `round`, for about `length`. Returns the
/// nanoseconds an operation, by the clock `now`.
pub(crate) fn time_each<K>(
    keys: &[K],
    round: usize,
    length: Duration,
    now: impl Fn() -> Duration,
    mut operate: impl FnMut(&[K]),
) -> f64 {
    let batches = keys.as_chunks::<BATCH>().0;
    let next = batches.iter().cycle().skip(7 * round % batches.len());
    let start = now();
    for (operations, batch) in (BATCH..).step_by(BATCH).zip(next) {
        operate(batch);
        let taken = now() - start;
        if taken >= length {
            return taken.as_secs_f64() * 1e9 / operations as f64;
        }
    }
    unreachable!("a cycle has no end")
}

/// Returns how long this thread has run: other processes on the processor do not count.
#[cfg(target_os = "linux")]
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

#[cfg(not(target_os = "linux"))]
use wall_time as thread_time;

/// Returns the time since the first call: the clock for threads that may wait for each other.
pub(crate) fn wall_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// Quartiles: a quarter of the values is at or below the first one, and so on.
#[derive(Clone, Copy)]
pub(crate) struct Quartiles([f64; 3]);

impl Quartiles {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self([0.25, 0.5, 0.75].map(|share| {
            let place = share * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[place as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        }))
    }

    pub(crate) fn median(self) -> f64 {
        self.0[1]
    }
}

/// The options of the command line, and the figures so far.
pub(crate) struct Rounds {
    /// The name of the benchmark.
    bench: &'static str,
    filter: Option<String>,
    quick: bool,
    json: Option<PathBuf>,
    figures: Map<String, Value>,
}

impl Rounds {
    /// Reads the command line. Exits where it asks for help or is wrong.
    pub(crate) fn from_arguments(bench: &'static str) -> Self {
        let mut rounds =
            Self { bench, filter: None, quick: false, json: None, figures: Map::new() };
        let refuse = |why: &str| refuse(bench, why);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--help" | "-h" => {
                    println!("{}", HELP.replace("NAME", bench));
                    std::process::exit(0);
                }
                "--quick" => rounds.quick = true,
                "--json" => match arguments.next() {
                    Some(file) => rounds.json = Some(file.into()),
                    None => refuse("--json needs a file"),
                },
                // Cargo passes the first to each benchmark, and `is_test` reads the second.
                "--bench" | "--test" => {}
                option if option.starts_with('-') => refuse(&format!("unknown option {option}")),
                _ if rounds.filter.is_some() => refuse("only one filter is possible"),
                filter => rounds.filter = Some(filter.into()),
            }
        }
        rounds
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.quick || is_test()
    }

    /// Returns whether the filter selects the row with this title.
    pub(crate) fn wants(&self, title: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| title.contains(filter))
    }

    /// Measures a row of `keys` keys, unless the filter leaves it out. The first contestant is the
    /// dividend of all ratios.
    pub(crate) fn row<'a>(
        &mut self,
        name: &str,
        keys: usize,
        contestants: impl FnOnce() -> Vec<Contestant<'a>>,
    ) {
        let title = format!("{name}, {} keys", grouped(keys));
        if !self.wants(&title) {
            return;
        }
        let mut contestants = contestants();
        let (rounds, length) = if is_test() {
            (1, Duration::ZERO)
        } else if self.quick {
            (5, Duration::from_millis(5))
        } else {
            (31, Duration::from_millis(25))
        };
        let mut values = vec![Vec::with_capacity(rounds); contestants.len()];
        for round in 0..rounds {
            for turn in 0..contestants.len() {
                let at = (round + turn) % contestants.len();
                values[at].push((contestants[at].slice)(round, length));
            }
        }
        let names: Vec<_> = contestants.iter().map(|contestant| contestant.name).collect();
        self.report(&title, name, &keys.to_string(), &names, &values);
    }

    fn report(&mut self, title: &str, name: &str, keys: &str, names: &[&str], values: &[Vec<f64>]) {
        let (ours, others) = values.split_first().expect("a row has contestants");
        let (our_name, names) = names.split_first().expect("a row has contestants");
        let our_figure = Quartiles::of(ours.iter().copied());
        println!("{title}: {:.1} ns ({our_name})", our_figure.median());
        let mut figures = json!({ *our_name: our_figure.0 });
        let mut ratios = Map::new();
        for (name, theirs) in names.iter().zip(others) {
            let ratio = Quartiles::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs));
            let figure = Quartiles::of(theirs.iter().copied());
            println!(
                "    {:.3} ({:.3} to {:.3}) over {:.1} ns ({name})",
                ratio.0[1],
                ratio.0[0],
                ratio.0[2],
                figure.median(),
            );
            figures[*name] = json!(figure.0);
            ratios.insert((*name).into(), json!(ratio.0));
        }
        self.figures.entry(name).or_insert_with(|| json!({}))[keys] =
            json!({ "rounds": ours.len(), "ns": figures, "ratios": ratios });
    }

    /// Notes a figure that no rounds measure.
    pub(crate) fn note(&mut self, name: &str, keys: usize, contestant: &str, value: f64) {
        println!("{name}, {} keys: {value:.1} ({contestant})", grouped(keys));
        self.figures.entry(name).or_insert_with(|| json!({}))[keys.to_string()][contestant] =
            json!(value);
    }

    /// Writes the figures to a file.
    pub(crate) fn finish(mut self) {
        if self.figures.is_empty() {
            println!("no row has such a name");
            return;
        }
        self.figures.insert("quick".into(), json!(self.quick));
        let figures = Value::Object(self.figures);
        if let Some(file) = self.json {
            std::fs::write(&file, format!("{figures:#}\n"))
                .unwrap_or_else(|error| panic!("{} cannot be written: {error}", file.display()));
        } else if self.filter.is_none() {
            save(self.bench, &figures);
        }
    }
}

fn refuse(bench: &str, why: &str) -> ! {
    eprintln!("{bench}: {why}\n\n{}", HELP.replace("NAME", bench));
    std::process::exit(2);
}

/// Returns the number with a comma before each group of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(str::from_utf8).collect();
    groups.into_iter().map(|group| group.expect("digits")).collect::<Vec<_>>().join(",")
}
