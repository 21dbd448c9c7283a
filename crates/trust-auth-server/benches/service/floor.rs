//! What an unauthenticated client learns from the duration of a refusal.
//!
//! A client sends unknown keys to two services, with 10 trusts and with 10,000, in random order. It
//! sends one request at a time, over connections that are kept, on the same machine: no client
//! elsewhere can measure better. To finish within a minute, several such pairs run at the same
//! time. They run in rounds, so that no scan is under way when an answer is due.
//!
//! Each request follows a random pause. The runtime of each service wakes up by the millisecond,
//! with an offset of its own. A fixed rhythm would measure the difference of these offsets.
//!
//! Each client has a pair of its own. A service that works for other clients begins later with the
//! next request, and the floor is not meant to hide this.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::asker::Asker;
use crate::populate::{populate, runtime};
use crate::server::Server;
use crate::welch::welch;
use crate::{Effort, Figure};

const TRUSTS: [usize; 2] = [10, 10_000];
/// Longer than two scans of the larger service, also on a busy machine.
const FLOOR: &str = "80ms";
const SAMPLES: usize = 2_000;
/// The number of pairs.
const LANES: usize = 4;
/// The longest pause before a request, in microseconds.
const PAUSE: u64 = 5_000;
/// The smallest |t| of two sets of durations that count as different, as in dudect.
const THRESHOLD: f64 = 4.5;

/// Measures that the durations of the two services are alike with the floor, and differ without it.
pub(crate) fn measure(effort: Effort) -> Option<Figure> {
    let samples = if effort == Effort::Full { SAMPLES } else { LANES };
    let folder = tempfile::tempdir().unwrap();
    let files = TRUSTS.map(|trusts| {
        let file = folder.path().join(format!("{trusts}.db"));
        populate(&file, trusts);
        file
    });
    let measured = |floor: &str| {
        let serve = |file| runtime().block_on(Server::on(file, &["--reject-floor", floor]));
        let pairs: Vec<[Server; 2]> = (0..LANES).map(|_| files.each_ref().map(serve)).collect();
        let addresses = pairs.iter().map(|pair| pair.each_ref().map(|server| server.main));
        let durations = refusals(addresses.collect(), samples);
        let mean =
            |durations: &Vec<f64>| durations.iter().sum::<f64>() / durations.len() as f64 * 1e3;
        (welch(&durations[0], &durations[1]).abs(), durations.each_ref().map(mean))
    };
    let ((without, bare), (with, floored)) = (measured("0s"), measured(FLOOR));
    let text = format!(
        "refusals at {} and {} trusts, {samples} of each: |t| = {with:.2} with a floor of {FLOOR} \
         ({:.3} ms and {:.3} ms; below {THRESHOLD}), {without:.2} without ({:.3} ms and {:.3} ms; \
         at least {THRESHOLD})",
        TRUSTS[0], TRUSTS[1], floored[0], floored[1], bare[0], bare[1]
    );
    Some(Figure { text, met: with < THRESHOLD && without >= THRESHOLD })
}

/// Returns how long each refusal took, in seconds, for each of the two services.
fn refusals(pairs: Vec<[SocketAddr; 2]>, samples: usize) -> [Vec<f64>; 2] {
    let round = &Barrier::new(pairs.len());
    let each = samples / pairs.len();
    let lanes = thread::scope(|scope| {
        let running: Vec<_> =
            pairs.into_iter().map(|pair| scope.spawn(move || ask(pair, each, round))).collect();
        running.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
    });
    [0, 1].map(|which| lanes.iter().flat_map(|durations| &durations[which]).copied().collect())
}

/// Returns the same for one pair.
fn ask(pair: [SocketAddr; 2], samples: usize, round: &Barrier) -> [Vec<f64>; 2] {
    let mut askers = pair.map(Asker::new);
    for asker in &mut askers {
        asker.verify("unknown");
    }
    let mut order: Vec<usize> = (0..2 * samples).map(|number| number % 2).collect();
    shuffle(&mut order);
    let mut durations = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    for which in order {
        let key = Uuid::new_v4().to_string();
        round.wait();
        thread::sleep(Duration::from_micros(random() % PAUSE));
        let begun = Instant::now();
        assert_eq!(askers[which].verify(&key), 401);
        durations[which].push(begun.elapsed().as_secs_f64());
    }
    durations
}

fn shuffle(order: &mut [usize]) {
    for last in (1..order.len()).rev() {
        order.swap(last, (random() % (last as u64 + 1)) as usize);
    }
}

fn random() -> u64 {
    // These bits do not include the version and the variant of the UUID.
    Uuid::new_v4().as_u64_pair().0 >> 16
}
