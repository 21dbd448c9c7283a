//! G8, measured: does the duration of a compare or of a sweep depend on which row matched, or on
//! whether a row matched?
//!
//! The method is dudect's (Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE
//! 2017). Two classes of inputs are timed in random alternation. Welch's t-test compares the two
//! sets of durations, whole and cropped at several percentiles. |t| of 4.5 or more shows that the
//! classes differ. The compare and the sweep have twins here that exit early. The instrument must
//! detect the twins: an instrument that detects nothing proves nothing.
//!
//! Each measurement is a separate process, with its own digests and addresses. Addresses change how
//! a processor executes the same code: docs/assurance.md describes a difference that one process of
//! four showed. Each case is therefore measured in twelve processes. The classes of a case differ
//! if they differ in three processes. Other load on the machine can push one process over the
//! threshold.
//!
//! `cargo bench --bench constant_time` takes a million samples of each class. The exit code is 1 if
//! a verdict is not the expected one. `--test` only checks that the benchmark runs.

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use fastrand::Rng;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use trust_key_cache::{KeyHash, Sweep, sweep};

const SAMPLES: usize = 1_000_000;
const THRESHOLD: f64 = 4.5;
/// The number of processes that measure each case.
const PROCESSES: u64 = 12;
/// The number of processes with different classes that the verdict "differ" needs.
const ENOUGH: usize = 3;
/// Compares in a sample, so that a sample takes longer than reading the clock.
const COMPARES: usize = 64;
const ROWS: usize = 256;
/// Candidates of a sweep in steps: four that are compared together, and one that is compared alone.
const CANDIDATES: usize = 5;
/// The first argument of a process that measures. The case, the seed and the samples follow.
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
        "{samples} samples of each class in each of {PROCESSES} processes; \
         the classes differ where |t| >= {THRESHOLD} in {ENOUGH}"
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
            "{:<72} |t| = {:>8.2} to {:>8.2}, {beyond:>2} beyond   {}",
            case.what,
            all[0],
            all[all.len() - 1],
            if right { "as it should be" } else { "WRONG" }
        );
        sound &= right;
    }
    Ok(if sound || samples < SAMPLES { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs [`measure`] in a new process.
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

/// A subject, and two classes of inputs whose durations are compared.
struct Case {
    what: String,
    expected_to_differ: bool,
    classes: [KeyHash; 2],
    subject: Box<dyn Fn(&KeyHash) -> usize>,
}

fn cases(random: &mut Rng) -> Vec<Case> {
    let mut digest = || KeyHash::from_bytes(std::array::from_fn(|_| random.u8(..)));
    let equal = digest();
    let flipped = |byte: usize| {
        let mut bytes = equal.to_bytes();
        bytes[byte] ^= 0x10;
        KeyHash::from_bytes(bytes)
    };
    let (first, last) = (flipped(0), flipped(31));
    let mut rows: Vec<_> = (0..ROWS).map(|_| digest()).collect();
    let (head, tail, unknown) = (rows[0], rows[ROWS - 1], equal);
    // The relatives of the first row follow it, and the relatives of the last row precede it.
    for at in 1..CANDIDATES {
        rows[at] = relative(&head, at);
        rows[ROWS - 1 - at] = relative(&tail, at);
    }
    let rows: &'static [KeyHash] = rows.leak();

    let constant = |a: &KeyHash, b: &KeyHash| bool::from(a.ct_eq(b));
    let compare = |equals: fn(&KeyHash, &KeyHash) -> bool| {
        move |other: &KeyHash| {
            (0..COMPARES).filter(|_| equals(black_box(&equal), black_box(other))).count()
        }
    };
    let sweep_rows = move |candidate: &KeyHash| {
        sweep(black_box(candidate), black_box(rows)).map_or(0, |index| index + 1)
    };
    let hurried_sweep = move |candidate: &KeyHash| {
        black_box(rows)
            .iter()
            .position(|row| hurried(black_box(candidate), row))
            .map_or(0, |index| index + 1)
    };
    let steps = move |blocks: usize, waiting: &[KeyHash; CANDIDATES]| {
        let mut sweep = Sweep::new(black_box(waiting));
        for block in black_box(rows).chunks(ROWS / blocks) {
            sweep.extend(block);
        }
        black_box(sweep.finish()).len()
    };
    // Two of the candidates match: one of the four, and the last one.
    let two_match = move |blocks| {
        move |candidate: &KeyHash| steps(blocks, &[first, *candidate, last, first, *candidate])
    };
    // Each candidate matches another row. All of these rows are in one block.
    let all_match = move |blocks| {
        move |candidate: &KeyHash| steps(blocks, &std::array::from_fn(|at| relative(candidate, at)))
    };

    let mut cases = Vec::new();
    let mut case = |what: &str, expected_to_differ, classes, subject| {
        cases.push(Case { what: what.to_owned(), expected_to_differ, classes, subject });
    };
    case("compare: equal, first byte differs", false, [equal, first], Box::new(compare(constant)));
    case(
        "compare: first byte differs, last byte differs",
        false,
        [first, last],
        Box::new(compare(constant)),
    );
    case(
        "early-exiting compare: equal, first byte differs",
        true,
        [equal, first],
        Box::new(compare(hurried)),
    );
    case("sweep: first row matches, last row matches", false, [head, tail], Box::new(sweep_rows));
    case("sweep: first row matches, no row matches", false, [head, unknown], Box::new(sweep_rows));
    for (what, classes) in
        [("in first block, in last block", [head, tail]), ("in first block, none", [head, unknown])]
    {
        for blocks in [2, 8] {
            case(
                &format!("{blocks} steps, 2 of 5 candidates match: {what}"),
                false,
                classes,
                Box::new(two_match(blocks)),
            );
            case(
                &format!("{blocks} steps, 5 of 5 candidates match: {what}"),
                false,
                classes,
                Box::new(all_match(blocks)),
            );
        }
    }
    case(
        "early-exiting sweep: first row matches, last row matches",
        true,
        [head, tail],
        Box::new(hurried_sweep),
    );
    cases
}

/// Returns another digest for each number, and `digest` itself for zero.
fn relative(digest: &KeyHash, number: usize) -> KeyHash {
    let mut bytes = digest.to_bytes();
    bytes[8] ^= number as u8;
    KeyHash::from_bytes(bytes)
}

/// Compares byte by byte and stops at the first byte that differs. No compare of secrets may do
/// that.
fn hurried(a: &KeyHash, b: &KeyHash) -> bool {
    a.to_bytes().iter().zip(&b.to_bytes()).all(|(a, b)| black_box(*a) == black_box(*b))
}

/// Returns the t of largest magnitude between the durations of the two classes, over all crops.
fn measure(
    samples: usize,
    random: &mut Rng,
    classes: &[KeyHash; 2],
    subject: &dyn Fn(&KeyHash) -> usize,
) -> f64 {
    let mut durations = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    let classes = classes.map(KeyHash::to_bytes);
    // The first rounds are not counted: caches and branch predictors settle.
    for round in 0..samples * 2 + samples / 10 {
        let class = random.bool();
        // Both digests are read for either class. The cache lines that were touched last must not
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
            // A crop may contain no sample of the slower class.
            (left.count.min(right.count) >= 2.0).then(|| left.welch(&right))
        })
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap_or_default()
}

/// Holds count, mean and sum of squared deviations, by Welford's method.
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

    /// Returns Welch's t. Returns zero if neither class varies and both agree, which may occur on a
    /// coarse timer.
    fn welch(&self, other: &Self) -> f64 {
        let error = |moments: &Self| moments.squares / (moments.count - 1.0) / moments.count;
        let difference = self.mean - other.mean;
        if difference == 0.0 { 0.0 } else { difference / (error(self) + error(other)).sqrt() }
    }
}
