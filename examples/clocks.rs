//! Shows how to choose the clock that counts the time-to-live, or a read lease:
//!
//! ```text
//! cargo run --release --example clocks
//! ```
//!
//! * [`CoarseClock`], the default, for a time-to-live of seconds or more. On Linux, the kernel
//!   refreshes this clock once a tick, and its resolution is 100 ms or more.
//! * [`Precise`] below, over [`Instant`], for a time-to-live below a second. Its resolution is
//!   zero, and a read takes longer.
//! * [`ManualClock`] for tests, which then wait for nothing. Its resolution is zero.
//! * [`BootClock`], for a read lease. It counts suspended time, and its resolution is zero.
//!
//! The *resolution* is the most that a clock can lag behind the true time. The cache subtracts it
//! from the lifetime of each value. A value may therefore expire early by the resolution, and never
//! late. A time-to-live must be longer than the resolution.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use trust_key_cache::{
    BootClock, BuildError, Clock, CoarseClock, KeyCache, KeyHash, ManualClock, ReadLease,
};

/// Reads the time since the process made the clock, to the nanosecond.
struct Precise(Instant);

impl Clock for Precise {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let hash = KeyHash::of("key");

    // The default. A time-to-live that this clock cannot count is refused when the cache is built.
    let resolution = CoarseClock.resolution();
    let coarse = KeyCache::<u64>::builder().ttl(Duration::from_secs(60)).build()?;
    println!(
        "CoarseClock: a value lives for {:?} to {:?}",
        coarse.ttl() - resolution,
        coarse.ttl()
    );
    if resolution > Duration::ZERO {
        let refused = KeyCache::<u64>::builder().ttl(resolution).build().map(|_| ());
        assert!(matches!(refused, Err(BuildError::TtlBelowResolution { .. })), "{refused:?}");
    }

    // A time-to-live of 5 ms needs a precise clock.
    let ttl = Duration::from_millis(5);
    let precise = Precise(Instant::now());
    let short = KeyCache::<u64>::builder().ttl(ttl).clock(precise).build()?;
    let begun = Instant::now();
    assert!(short.lease(&hash).remember(7));
    while short.lookup(&hash).is_some() {
        std::thread::yield_now();
    }
    assert!(begun.elapsed() >= ttl, "expired early");
    println!(
        "Precise:     a value with a time-to-live of {ttl:?} was gone after {:?}",
        begun.elapsed()
    );

    // A test moves the time itself, to the nanosecond before and at the end.
    let clock = ManualClock::new();
    let tested = KeyCache::<u64>::builder().clock(clock.clone()).build()?;
    assert!(tested.lease(&hash).remember(7));
    clock.advance(tested.ttl() - Duration::from_nanos(1));
    assert_eq!(tested.lookup(&hash), Some(7));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(tested.lookup(&hash), None);
    println!("ManualClock: a value expired after exactly {:?}, without waiting", tested.ttl());

    // A read lease has a clock of its own. The lease is valid for four fifths of its length.
    let held = ReadLease::with_clock(Duration::from_secs(10), clock.clone());
    held.begin().complete();
    assert_eq!(held.remaining(), Duration::from_secs(8));
    clock.advance(Duration::from_secs(8));
    assert!(!held.is_valid());
    let held = ReadLease::new(Duration::from_secs(10));
    held.begin().complete();
    assert_eq!(held.is_valid(), BootClock::IS_SUPPORTED);
    println!("BootClock:   a lease of {:?} is valid for {:?}", held.length(), held.remaining());

    // Each lookup reads its clock once, so the price of a read is paid by each request.
    if cfg!(debug_assertions) {
        println!("\nWith --release, this program also prints what a read of each clock costs.");
    } else {
        println!("\nA read of CoarseClock takes {:.1} ns", nanoseconds_of_a_read(&CoarseClock));
        println!(
            "A read of Precise takes {:.1} ns",
            nanoseconds_of_a_read(&Precise(Instant::now()))
        );
        println!("A read of BootClock takes {:.1} ns", nanoseconds_of_a_read(&BootClock));
    }
    Ok(())
}

fn nanoseconds_of_a_read(clock: &impl Clock) -> f64 {
    const READS: u32 = 1_000_000;
    let begun = Instant::now();
    for _ in 0..READS {
        black_box(clock.now());
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
}
