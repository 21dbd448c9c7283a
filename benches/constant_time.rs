//! G8, measured: does the duration of a compare or a sweep tell where, or whether, something
//! matched?
//!
//! The method is dudect's (Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE
//! 2017): time two classes of inputs in random alternation, and apply Welch's t-test to the two
//! sets of durations, whole and cropped at several percentiles. |t| of 4.5 or more says that the
//! classes differ. The compare and the sweep have twins here that exit early, which must be found
//! out: an instrument that sees nothing proves nothing.
//!
//! Each measurement is a process of its own, with digests and addresses of its own, since what a
//! processor makes of one code and one input depends on where they lie: docs/assurance.md tells of
//! a difference that one process of four showed. So each case is measured in twelve processes, and
//! its classes differ if they do in three. A machine that does something else meanwhile can push
//! one over the threshold.
//!
//! `cargo bench --bench constant_time` takes a million samples of each class and exits with 1 if a
//! verdict is not the expected one. With `--test` it only shows that it runs.

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use fastrand::Rng;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use trust_key_cache::{KeyHash, sweep, sweep_all};

const SAMPLES: usize = 1_000_000;
const THRESHOLD: f64 = 4.5;
/// How many processes measure each case, and in how many of them the classes have to differ.
const PROCESSES: u64 = 12;
const ENOUGH: usize = 3;
/// Compares in a sample, so that one takes longer than reading the clock.
const COMPARES: usize = 64;
const ROWS: usize = 256;
/// What the processes that measure are started with, before the case, the seed and the samples.
const MEASURE: &str = "--measure";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, first, case, seed, samples] = &arguments[..]
        && first == MEASURE
    {
        let mut random = Rng::with_seed(seed.parse()?);
        let case = &cases(&mut random)[case.parse::<usize>()?];
        println!("{}", measure(samples.parse()?, &mut random, &case.classes, &*case.subject).abs());
        return Ok(ExitCode::SUCCESS);
    }

    let samples =
        if arguments.iter().any(|argument| argument == "--test") { 1_000 } else { SAMPLES };
    println!(
        "{samples} samples of each class in each of {PROCESSES} processes; the classes differ where |t| >= {THRESHOLD} in {ENOUGH}"
    );
    let mut sound = true;
    for (index, case) in cases(&mut Rng::with_seed(0)).iter().enumerate() {
        let mut all = (0..PROCESSES)
            .map(|seed| measure_elsewhere(index, seed, samples))
            .collect::<Result<Vec<_>, _>>()?;
        all.sort_by(f64::total_cmp);
        let beyond = all.iter().filter(|t| **t >= THRESHOLD).count();
        let right = (beyond >= ENOUGH) == case.expected_to_differ;
        println!(
            "{:<58} |t| = {:>8.2} to {:>8.2}, {beyond:>2} beyond   {}",
            case.what,
            all[0],
            all[all.len() - 1],
            if right { "as it should be" } else { "WRONG" }
        );
        sound &= right;
    }
    Ok(if sound || samples < SAMPLES { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// [`measure`] in a new process.
fn measure_elsewhere(case: usize, seed: u64, samples: usize) -> Result<f64, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args([MEASURE, &case.to_string(), &seed.to_string(), &samples.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the process that measures ended with {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// A subject, and two classes of inputs that it may or may not tell apart by its duration.
struct Case {
    what: &'static str,
    expected_to_differ: bool,
    classes: [KeyHash; 2],
    subject: Box<dyn Fn(&KeyHash) -> usize>,
}

fn cases(random: &mut Rng) -> [Case; 8] {
    let mut digest = || KeyHash::from_bytes(std::array::from_fn(|_| random.u8(..)));
    let equal = digest();
    let flipped = |byte: usize| {
        let mut bytes = equal.to_bytes();
        bytes[byte] ^= 0x10;
        KeyHash::from_bytes(bytes)
    };
    let (first, last) = (flipped(0), flipped(31));
    let rows: Vec<_> = (0..ROWS).map(|_| digest()).collect();
    let (head, tail, stranger) = (rows[0], rows[ROWS - 1], equal);

    let constant = |a: &KeyHash, b: &KeyHash| bool::from(a.ct_eq(b));
    let compare = |equals: fn(&KeyHash, &KeyHash) -> bool| {
        move |other: &KeyHash| {
            (0..COMPARES).filter(|_| equals(black_box(&equal), black_box(other))).count()
        }
    };
    let rows_of_one = rows.clone();
    let sweep_rows = move |candidate: &KeyHash| {
        sweep(black_box(candidate), black_box(&rows_of_one)).map_or(0, |index| index + 1)
    };
    // The one that is measured waits among others, which match nothing: among four, and left alone.
    // Where all five match, a difference below a nanosecond is not gone: docs/assurance.md.
    let rows_of_many = rows.clone();
    let sweep_waiting = move |candidate: &KeyHash| {
        let waiting = [first, *candidate, last, first, *candidate];
        black_box(sweep_all(black_box(&waiting), black_box(&rows_of_many))).len()
    };
    let hurried_sweep = move |candidate: &KeyHash| {
        black_box(&rows)
            .iter()
            .position(|row| hurried(black_box(candidate), row))
            .map_or(0, |index| index + 1)
    };

    let case = |what, expected_to_differ, classes, subject| Case {
        what,
        expected_to_differ,
        classes,
        subject,
    };
    [
        case(
            "compare: equal, first byte differs",
            false,
            [equal, first],
            Box::new(compare(constant)),
        ),
        case(
            "compare: first byte differs, last byte differs",
            false,
            [first, last],
            Box::new(compare(constant)),
        ),
        case(
            "early-exiting compare: equal, first byte differs",
            true,
            [equal, first],
            Box::new(compare(hurried)),
        ),
        case(
            "sweep: first row matches, last row matches",
            false,
            [head, tail],
            Box::new(sweep_rows.clone()),
        ),
        case(
            "sweep: first row matches, no row matches",
            false,
            [head, stranger],
            Box::new(sweep_rows),
        ),
        case(
            "sweep for many: first row matches, last row matches",
            false,
            [head, tail],
            Box::new(sweep_waiting.clone()),
        ),
        case(
            "sweep for many: first row matches, no row matches",
            false,
            [head, stranger],
            Box::new(sweep_waiting),
        ),
        case(
            "early-exiting sweep: first row matches, last row matches",
            true,
            [head, tail],
            Box::new(hurried_sweep),
        ),
    ]
}

/// What nobody should do: stops at the first byte that differs.
fn hurried(a: &KeyHash, b: &KeyHash) -> bool {
    a.to_bytes().iter().zip(&b.to_bytes()).all(|(a, b)| black_box(*a) == black_box(*b))
}

/// The t of largest magnitude between the durations of the two classes, over all crops.
fn measure(
    samples: usize,
    random: &mut Rng,
    classes: &[KeyHash; 2],
    subject: &dyn Fn(&KeyHash) -> usize,
) -> f64 {
    let mut durations = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    let classes = classes.map(KeyHash::to_bytes);
    // As many again to begin with, which are not counted: caches and branch predictors settle.
    for round in 0..samples * 2 + samples / 10 {
        let class = random.bool();
        // Both are read, whichever it is: which lines of the cache were touched last must not
        // depend on the class.
        let [left, right] = &classes;
        let choice = Choice::from(u8::from(class));
        let input = KeyHash::from_bytes(std::array::from_fn(|at| {
            u8::conditional_select(&left[at], &right[at], choice)
        }));
        let start = Instant::now();
        black_box(subject(&input));
        let duration = start.elapsed().as_nanos() as f64;
        if round >= samples / 10 {
            durations[usize::from(class)].push(duration);
        }
    }
    let mut all: Vec<f64> = durations.concat();
    all.sort_by(f64::total_cmp);
    [0.5, 0.75, 0.9, 0.99, 1.0]
        .into_iter()
        .filter_map(|share| {
            let limit = all[((all.len() - 1) as f64 * share) as usize];
            let [left, right] = durations
                .each_ref()
                .map(|durations| Moments::of(durations.iter().filter(|d| **d <= limit)));
            // A crop may hold nothing of the slower class.
            (left.count.min(right.count) >= 2.0).then(|| left.welch(&right))
        })
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap_or_default()
}

/// Count, mean and sum of squared deviations, by Welford's method.
#[derive(Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn of<'a>(durations: impl Iterator<Item = &'a f64>) -> Self {
        let mut moments = Self::default();
        for duration in durations {
            moments.count += 1.0;
            let deviation = duration - moments.mean;
            moments.mean += deviation / moments.count;
            moments.squares += deviation * (duration - moments.mean);
        }
        moments
    }

    /// Welch's t; zero where neither class varies and both agree, as durations on a coarse timer
    /// may.
    fn welch(&self, other: &Self) -> f64 {
        let error = |moments: &Self| moments.squares / (moments.count - 1.0) / moments.count;
        let difference = self.mean - other.mean;
        if difference == 0.0 { 0.0 } else { difference / (error(self) + error(other)).sqrt() }
    }
}
