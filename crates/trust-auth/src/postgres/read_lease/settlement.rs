//! The wait of a revocation after its commit: until no holder grants what it revoked (R3, R12).
//!
//! In every doubt the changer waits. It never returns early because a statement failed.

use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::inquiry::{Inquiry, LONGEST_LEASE};
use super::run_watch::RunWatch;
use super::source::LeaseSource;
use crate::error::StoreError;
use crate::postgres::pool::Lent;
use crate::read_lease::{Settled, Waiting};
use crate::time_limit::within;

/// The pause between two inquiries is a quarter of the time waited so far, within these bounds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause where no acknowledgement ends the wait.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// How much longer than the leases a watch may take, and a revocation with it.
const WATCHING: Duration = Duration::from_millis(800);

/// Failures that do not look as if they pass end the wait if they last this long.
const LASTING: Duration = Duration::from_secs(1);

/// How long a revocation prunes before it returns.
const PRUNING: Duration = Duration::from_millis(200);

/// A holder that lives acknowledges within this time, as a rule.
const ALIVE: Duration = Duration::from_millis(100);

/// The barrier of a transaction (R11), as `trust_auth_barrier()` returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Barrier {
    id: u64,
    run: String,
}

impl Barrier {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (id, run) = text.split_once(' ')?;
        // Another version's function makes another text.
        // The last two parts are names, which may have slashes.
        let is_of_this_version = run.split('/').count() >= 5;
        Some(Self { id: id.parse().ok()?, run: run.to_owned() }).filter(|_| is_of_this_version)
    }
}

/// What one inquiry decides.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done(Settled),
    /// Nothing is certain before this much has passed since the commit.
    Until(Duration),
}

/// Judges an inquiry as a whole (RL29). `waited` is the time from the return of the commit until
/// before the inquiry was sent.
fn judge(inquiry: &Inquiry, barrier: &Barrier, acknowledges: bool, waited: Duration) -> Verdict {
    if inquiry.run != barrier.run {
        return Verdict::Done(Settled::Repeat);
    }
    let was_unsettled = !inquiry.is_settled;
    if was_unsettled || !acknowledges {
        if waited < inquiry.max_lease {
            return Verdict::Until(inquiry.max_lease);
        }
        let late = inquiry.holders.iter().filter(|holder| !holder.has_barrier);
        let silent = late.map(|holder| holder.name.clone()).collect();
        return Verdict::Done(Settled::Everywhere {
            holders: Some(inquiry.holders.len()),
            silent,
            was_unsettled,
        });
    }
    let late = || inquiry.holders.iter().filter(|holder| !holder.has_barrier);
    match late().map(|holder| holder.lease).filter(|lease| waited < *lease).max() {
        Some(lease) => Verdict::Until(lease),
        None => Verdict::Done(Settled::Everywhere {
            holders: Some(inquiry.holders.len()),
            silent: late().map(|holder| holder.name.clone()).collect(),
            was_unsettled: false,
        }),
    }
}

/// Returns whether no process that lives watches the run and the registrations. A holder that has
/// acknowledged lives, and strikes the silent ones off.
fn is_unwatched(inquiry: &Inquiry) -> bool {
    let none_lives = || !inquiry.holders.iter().any(|holder| holder.has_barrier);
    !inquiry.is_settled || (!inquiry.holders.is_empty() && none_lives())
}

impl LeaseSource {
    /// Waits until no process grants what the barrier's transaction revoked. The commit has
    /// returned before the call.
    ///
    /// Where no holder lives that would settle the run, and would strike off what is left behind,
    /// one of the revocations that wait does so. Where none is registered, the revocation prunes.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] if the database does not answer for longer than the longest lease of all.
    pub(super) async fn settle(
        &self,
        barrier: &Barrier,
        waiting: Waiting,
    ) -> Result<Settled, StoreError> {
        let begun = Instant::now();
        let acknowledges = waiting == Waiting::ForAcknowledgements;
        let mut watched = Watched::default();
        // Since when each inquiry fails for a reason that does not look as if it passes.
        let mut lasting = None;
        loop {
            let waited = begun.elapsed();
            let mut pause = (waited / 4).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            match self.inquire_once(barrier).await {
                Ok(inquiry) => match judge(&inquiry, barrier, acknowledges, waited) {
                    Verdict::Done(settled) => {
                        if inquiry.may_prune && inquiry.holders.is_empty() {
                            // If this fails, a later revocation or a holder prunes.
                            tokio::time::timeout(PRUNING, self.prune_once()).await.ok();
                        }
                        return Ok(watched.added_to(settled));
                    }
                    Verdict::Until(least) => {
                        lasting = None;
                        let is_due = !inquiry.is_settled || waited >= ALIVE;
                        if is_due
                            && is_unwatched(&inquiry)
                            && let Ok(_alone) = self.watching.try_lock()
                        {
                            let left = least.saturating_sub(begun.elapsed()) + WATCHING;
                            let watching = self.watch(barrier, &mut watched);
                            // Cut short, the watch has concluded nothing.
                            tokio::time::timeout(left, watching).await.ok();
                            continue;
                        }
                        if !inquiry.is_settled || !acknowledges {
                            let left = least.saturating_sub(begun.elapsed());
                            pause = left.clamp(FIRST_PAUSE, LONG_PAUSE);
                        }
                    }
                },
                Err(error) => {
                    let since = match error.is_transient() {
                        true => None,
                        false => Some(lasting.unwrap_or(waited)),
                    };
                    lasting = since;
                    if waited > LONGEST_LEASE || since.is_some_and(|since| waited > since + LASTING)
                    {
                        return Err(error);
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Inquires on a connection of the pool, which is given back before the next pause.
    pub(super) async fn inquire_once(&self, barrier: &Barrier) -> Result<Inquiry, StoreError> {
        within(self.limit(), async {
            let mut lent = Lent::from(&self.readers).await?;
            let inquiry = self.inquire(lent.connection()?, Some(barrier.id)).await?;
            if inquiry.run == barrier.run && !inquiry.shows_barrier {
                // A holder may have registered since (RL29). The connection is not given back.
                return Err(self.unusable(
                    "a connection shows a state before the change was committed; call `settle` \
                     after the commit, and return no connection to the application's pool within a \
                     transaction",
                ));
            }
            lent.give_back();
            Ok(inquiry)
        })
        .await
    }

    async fn prune_once(&self) -> Result<(), StoreError> {
        within(self.limit(), async {
            let mut lent = Lent::from(&self.readers).await?;
            self.prune(lent.connection()?).await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    /// Watches until the run is settled, and each silent holder is struck off or another lives. If
    /// this fails, the caller inquires again, and nothing was concluded.
    async fn watch(&self, barrier: &Barrier, watched: &mut Watched) {
        let Ok(mut connection) = self.connector.named("lease").connect().await else {
            return tokio::time::sleep(LONGEST_PAUSE).await;
        };
        if self.watch_on(&mut connection, barrier, watched).await.is_err() {
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
        let _ = within(self.limit(), async {
            connection.close().await.map_err(|error| self.failed(&error))
        })
        .await;
    }

    async fn watch_on(
        &self,
        connection: &mut PgConnection,
        barrier: &Barrier,
        watched: &mut Watched,
    ) -> Result<(), StoreError> {
        let mut watch = RunWatch::default();
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let barrier_id = Some(barrier.id);
            let inquiry = within(self.limit(), self.inquire(connection, barrier_id)).await?;
            let is_over = begun.elapsed() > inquiry.max_lease + LONG_PAUSE;
            if inquiry.run != barrier.run || !is_unwatched(&inquiry) || is_over {
                return Ok(());
            }
            watched.was_unsettled |= !inquiry.is_settled;
            let conclusions = watch.note(&inquiry, asked, Instant::now());
            if conclusions.settles {
                within(self.limit(), self.record_settled(connection, &inquiry.run)).await?;
            }
            for (id, renewals) in conclusions.silent {
                let struck = self.strike_off(connection, id, renewals, &inquiry.run);
                if within(self.limit(), struck).await? {
                    let holders = inquiry.holders.iter().filter(|holder| holder.id == id);
                    watched.silent.extend(holders.map(|holder| holder.name.clone()));
                }
            }
            let pause = match inquiry.is_settled {
                true => LONGEST_PAUSE,
                false => inquiry.max_lease.saturating_sub(begun.elapsed()),
            };
            tokio::time::sleep(pause.clamp(FIRST_PAUSE, LONG_PAUSE)).await;
        }
    }
}

/// What a revocation has seen while it watched, and what a later inquiry no longer shows.
#[derive(Default)]
struct Watched {
    was_unsettled: bool,
    /// The names of the holders that were struck off.
    silent: Vec<String>,
}

impl Watched {
    fn added_to(self, settled: Settled) -> Settled {
        let Settled::Everywhere { holders, silent, was_unsettled } = settled else {
            return settled;
        };
        Settled::Everywhere {
            holders: holders.map(|number| number + self.silent.len()),
            was_unsettled: was_unsettled || self.was_unsettled,
            silent: [self.silent, silent].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::inquiry::Registered;
    use super::*;

    const MAX: Duration = Duration::from_secs(10);
    const OWN: Duration = Duration::from_secs(2);

    fn barrier() -> Barrier {
        Barrier::parse("7 1.5/2/3/a b/public").unwrap()
    }

    fn inquiry(holders: &[(&str, bool)], is_settled: bool) -> Inquiry {
        let holders = holders.iter().enumerate().map(|(number, &(name, has_barrier))| Registered {
            id: Uuid::from_u128(number as u128),
            name: name.into(),
            lease: OWN,
            renewals: 1,
            has_barrier,
        });
        Inquiry {
            run: "1.5/2/3/a b/public".into(),
            is_settled,
            max_lease: MAX,
            may_prune: false,
            holders: holders.collect(),
            shows_barrier: true,
        }
    }

    fn over(holders: usize, silent: &[&str], was_unsettled: bool) -> Verdict {
        let silent = silent.iter().map(|&name| name.to_owned()).collect();
        Verdict::Done(Settled::Everywhere { holders: Some(holders), silent, was_unsettled })
    }

    #[test]
    fn rl29_each_holder_has_acknowledged_or_its_own_lease_is_over() {
        let zero = Duration::ZERO;
        let both = inquiry(&[("a", true), ("b", true)], true);
        assert_eq!(judge(&both, &barrier(), true, zero), over(2, &[], false));
        let one = inquiry(&[("a", true), ("b", false)], true);
        assert_eq!(judge(&one, &barrier(), true, zero), Verdict::Until(OWN));
        assert_eq!(judge(&one, &barrier(), true, OWN), over(2, &["b"], false));
        assert_eq!(judge(&inquiry(&[], true), &barrier(), true, zero), over(0, &[], false));
    }

    #[test]
    fn rl25_an_unsettled_run_and_no_acknowledgements_wait_out_the_longest_lease() {
        let acknowledged = [("a", true)];
        for (is_settled, acknowledges) in [(false, true), (true, false), (false, false)] {
            let inquiry = inquiry(&acknowledged, is_settled);
            let judge = |waited| judge(&inquiry, &barrier(), acknowledges, waited);
            assert_eq!(judge(OWN), Verdict::Until(MAX));
            assert_eq!(judge(MAX), over(1, &[], !is_settled));
        }
    }

    #[test]
    fn another_run_repeats_the_revocation_whatever_was_acknowledged() {
        let mut inquiry = inquiry(&[("a", true)], true);
        inquiry.run = "1.5/2/3/other/public".into();
        assert_eq!(judge(&inquiry, &barrier(), true, MAX), Verdict::Done(Settled::Repeat));
    }

    #[test]
    fn a_text_that_is_no_barrier_is_none() {
        for text in [
            "",
            "7",
            "7 1.5",
            "7 1.5/2/3",
            "x 1.5/2/3/a/b",
            "-1 1.5/2/3/a/b",
            "18446744073709551616 1/2/3/a/b",
        ] {
            assert_eq!(Barrier::parse(text), None, "{text}");
        }
    }
}
