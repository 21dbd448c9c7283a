//! [`RunWatch`]: what one session has seen of the server's run and of the registrations, and which
//! conclusions its own clock permits.
//!
//! A watch must never outlive its session: a crash of the server may set a count back (R13, R14).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::inquiry::Inquiry;

/// What one session has seen since its first inquiry.
#[derive(Debug, Default)]
pub(super) struct RunWatch {
    run: Option<SeenRun>,
    holders: HashMap<Uuid, SeenCount>,
}

#[derive(Debug)]
struct SeenRun {
    run: String,
    since: Instant,
    /// The longest `max_lease_ms` that was seen.
    longest: Duration,
}

#[derive(Debug)]
struct SeenCount {
    renewals: i64,
    since: Instant,
    /// Whether the count has moved since the watch began.
    has_moved: bool,
}

/// What may be done after an inquiry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Conclusions {
    /// The run was watched for long enough, and is not settled (R14).
    pub(super) settles: bool,
    /// The registrations whose count stood still for their whole lease (R13), with the count.
    pub(super) silent: Vec<(Uuid, i64)>,
}

impl RunWatch {
    /// Notes an inquiry that was answered at `now`, the time after its answer arrived.
    ///
    /// The time before the next inquiry counts from after this answer to before the next statement
    /// is sent, `asked`. So no delay of a message counts as silence.
    pub(super) fn note(&mut self, inquiry: &Inquiry, asked: Instant, now: Instant) -> Conclusions {
        let mut conclusions = Conclusions::default();
        match &mut self.run {
            Some(seen) if seen.run == inquiry.run => {
                seen.longest = seen.longest.max(inquiry.max_lease);
                let watched = asked.saturating_duration_since(seen.since);
                conclusions.settles = !inquiry.is_settled && watched >= seen.longest;
            }
            run => {
                let longest = inquiry.max_lease;
                *run = Some(SeenRun { run: inquiry.run.clone(), since: now, longest });
                self.holders.clear();
            }
        }
        let mut holders = HashMap::with_capacity(inquiry.holders.len());
        for holder in &inquiry.holders {
            let seen = match self.holders.remove(&holder.id) {
                Some(seen) if seen.renewals == holder.renewals => seen,
                former => {
                    SeenCount { renewals: holder.renewals, since: now, has_moved: former.is_some() }
                }
            };
            if asked.saturating_duration_since(seen.since) >= holder.lease {
                conclusions.silent.push((holder.id, holder.renewals));
            }
            holders.insert(holder.id, seen);
        }
        self.holders = holders;
        conclusions
    }

    /// Returns whether this registration has renewed while it was watched.
    pub(super) fn has_renewed(&self, holder: Uuid) -> bool {
        self.holders.get(&holder).is_some_and(|seen| seen.has_moved)
    }
}

#[cfg(test)]
mod tests {
    use super::super::inquiry::Registered;
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn inquiry(run: &str, renewals: i64) -> Inquiry {
        let holder = Registered {
            id: Uuid::from_u128(1),
            name: "a".into(),
            lease: LEASE,
            renewals,
            has_barrier: false,
        };
        Inquiry {
            run: run.into(),
            is_settled: false,
            max_lease: LEASE,
            may_prune: false,
            holders: vec![holder],
            shows_barrier: true,
        }
    }

    #[test]
    fn rl24_a_count_is_silent_after_its_lease_and_a_renewal_starts_the_watch_again() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = RunWatch::default();
        let mut note = |renewals, seconds| {
            watch.note(&inquiry("1", renewals), at(seconds), at(seconds)).silent
        };
        assert_eq!(note(1, 0), []);
        assert_eq!(note(1, 9), []);
        assert_eq!(note(2, 10), []);
        assert_eq!(note(2, 19), []);
        assert_eq!(note(2, 20), [(Uuid::from_u128(1), 2)]);
    }

    #[test]
    fn rl25_a_run_settles_after_the_longest_lease_and_another_run_starts_again() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = RunWatch::default();
        let mut note =
            |run, seconds| watch.note(&inquiry(run, 1), at(seconds), at(seconds)).settles;
        assert!(!note("1", 0) && !note("1", 9));
        assert!(!note("2", 10) && !note("2", 19));
        assert!(note("2", 20));
    }

    #[test]
    fn the_delay_of_an_answer_counts_as_no_silence() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = RunWatch::default();
        // The statement took 9 s; the count may have been read at its end.
        watch.note(&inquiry("1", 1), at(0), at(9));
        assert_eq!(watch.note(&inquiry("1", 1), at(10), at(30)), Conclusions::default());
    }
}
