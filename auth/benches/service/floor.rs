//! What a stranger learns from how long a refusal takes.
//!
//! One who asks as well as one can: over a connection that is kept, one request at a time, on a machine of the service's own. Two services, with 10
//! trusts and with 10,000, are asked in random order, and after random pauses: the runtime wakes up by the millisecond, and each service at
//! moments of its own, so that a fixed rhythm would measure where one service's moments lie among the other's.

use std::hint::spin_loop;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::asker::Asker;
use crate::populate::{populate, runtime};
use crate::server::Server;
use crate::welch::welch;
use crate::{Effort, Verdict};

const TRUSTS: [usize; 2] = [10, 10_000];
/// Longer than a walk over the larger of the two, and short, so that many samples fit into a minute.
const FLOOR: &str = "10ms";
const SAMPLES: usize = 2_000;
/// |t| from which the two differ, as in dudect.
const THRESHOLD: f64 = 4.5;

/// With the floor the two are alike; without it they are not.
pub(crate) fn measure(effort: Effort) -> Option<Verdict> {
    let samples = if effort == Effort::Full { SAMPLES } else { 20 };
    let folder = tempfile::tempdir().unwrap();
    let files = TRUSTS.map(|trusts| {
        let file = folder.path().join(format!("{trusts}.db"));
        populate(&file, trusts);
        file
    });
    let t = |floor: &str| {
        let servers =
            files.each_ref().map(|file| runtime().block_on(Server::on(file, &["--reject-floor", floor])));
        let durations = refusals(servers.each_ref().map(|server| server.main), samples);
        let mean = |durations: &[f64]| durations.iter().sum::<f64>() / durations.len() as f64 * 1e3;
        (welch(&durations[0], &durations[1]).abs(), durations.each_ref().map(|durations| mean(durations)))
    };
    let ((without, bare), (with, floored)) = (t("0s"), t(FLOOR));
    let told = format!(
        "refusals at {} and {} trusts: |t| = {with:.2} with a floor of {FLOOR} ({:.3} ms and {:.3} ms; below {THRESHOLD}), {without:.2} without ({:.3} ms and {:.3} ms; above), {samples} samples each",
        TRUSTS[0], TRUSTS[1], floored[0], floored[1], bare[0], bare[1]
    );
    Some(Verdict { told, met: with < THRESHOLD && without >= THRESHOLD })
}

/// How long each refusal took, in seconds.
fn refusals(addresses: [SocketAddr; 2], samples: usize) -> [Vec<f64>; 2] {
    let mut askers = addresses.map(Asker::new);
    let mut durations = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    let warm_up = samples / 20;
    let mut order: Vec<usize> = (0..2 * (samples + warm_up)).map(|number| number % 2).collect();
    shuffle(&mut order);
    let mut asked = [0; 2];
    for (number, which) in order.into_iter().enumerate() {
        pause();
        let key = format!("unknown-{number}");
        let begun = Instant::now();
        assert_eq!(askers[which].verify(&key), 401);
        let duration = begun.elapsed().as_secs_f64();
        asked[which] += 1;
        if asked[which] > warm_up {
            durations[which].push(duration);
        }
    }
    durations
}

/// For up to 2 ms. Not by sleeping, which the kernel rounds.
fn pause() {
    let until = Instant::now() + Duration::from_micros(random() % 2_000);
    while Instant::now() < until {
        spin_loop();
    }
}

fn shuffle(order: &mut [usize]) {
    for last in (1..order.len()).rev() {
        order.swap(last, (random() % (last as u64 + 1)) as usize);
    }
}

fn random() -> u64 {
    u64::from_le_bytes(Uuid::new_v4().as_bytes()[..8].try_into().unwrap_or_default()) >> 16
}
