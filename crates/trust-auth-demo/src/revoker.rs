//! The task that changes trusts while other tasks authenticate with their keys. It rotates,
//! disables, enables and deletes trusts at a steady pace.
//!
//! No other task changes the same trusts, because the oracle relies on this task's record of each
//! key. Every second round acts as another process: its registry has a cache of its own, so the
//! service's cache is not invalidated. The live row alone then refuses the revoked key; under the
//! read lease, the wait of the revocation does.
//!
//! Under the read lease each revocation waits, so several revokers share the rounds.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trust_auth::{RegistryError, SqliteStore, Trust, TrustRef, TrustRegistry};

use crate::demo_error::DemoError;
use crate::keyring::{Keyring, WatchedKey};
use crate::oracle::State;
use crate::traffic::{Client, Tally};

/// How many trusts a round changes: one is rotated, one disabled and enabled again, one deleted.
const TRUSTS_PER_ROUND: usize = 3;

/// How many changes a round makes.
const STEPS_PER_ROUND: u32 = 4;

/// At most one trust in this many is changed.
const ONE_TRUST_OF: usize = 10;

/// The largest number of rounds a second. The demo measures the traffic, not the changes.
const ROUNDS_PER_SECOND: usize = 20;

/// How many changes were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) rotated: u64,
    pub(crate) disabled: u64,
    pub(crate) enabled: u64,
    pub(crate) deleted: u64,
    /// How many of these were made as another process, without an invalidation of the cache.
    pub(crate) elsewhere: u64,
}

impl Changes {
    pub(crate) fn add(&mut self, other: Self) {
        self.rotated += other.rotated;
        self.disabled += other.disabled;
        self.enabled += other.enabled;
        self.deleted += other.deleted;
        self.elsewhere += other.elsewhere;
    }

    fn all(&self) -> u64 {
        self.rotated + self.disabled + self.enabled + self.deleted
    }
}

/// Changes trusts, and presents each revoked key at once.
pub(crate) struct Revoker {
    pub(crate) client: Client,
    pub(crate) keyring: Arc<Keyring>,
    /// Shares the service's cache.
    pub(crate) same_process: TrustRegistry<SqliteStore>,
    /// Has the same database, and a cache of its own.
    pub(crate) other_process: TrustRegistry<SqliteStore>,
    /// The number of this revoker, and how many there are. Each makes its share of the rounds.
    pub(crate) share: (usize, usize),
}

impl Revoker {
    /// Spreads the changes over `duration`. Makes at least one whole round, however short
    /// `duration` is.
    pub(crate) async fn run(mut self, duration: Duration) -> Result<(Changes, Tally), DemoError> {
        let rounds = rounds(self.keyring.len(), duration);
        let mine = (self.share.0..rounds).step_by(self.share.1);
        let steps = u32::try_from(mine.len()).unwrap_or(u32::MAX).saturating_mul(STEPS_PER_ROUND);
        let pace = duration / steps.saturating_add(1);
        let end = Instant::now() + duration;
        let mut ticks = tokio::time::interval_at(Instant::now() + pace, pace);

        let mut changes = Changes::default();
        for (count, round) in mine.enumerate() {
            if count > 0 && Instant::now() >= end {
                break;
            }
            let registry =
                if round % 2 == 0 { self.same_process.clone() } else { self.other_process.clone() };
            let [rotated, disabled, deleted] = [0, 1, 2]
                .map(|nth| victim(round * TRUSTS_PER_ROUND + nth, rounds, self.keyring.len()));

            let before = changes.all();
            ticks.tick().await;
            changes.rotated += self.rotate(&registry, rotated).await?;
            ticks.tick().await;
            changes.disabled += self.disable(&registry, disabled).await?;
            ticks.tick().await;
            changes.enabled += self.enable(&registry, disabled).await?;
            ticks.tick().await;
            changes.deleted += self.delete(&registry, deleted).await?;
            if round % 2 == 1 {
                changes.elsewhere += changes.all() - before;
            }
        }
        Ok((changes, self.client.into_tally()))
    }

    async fn rotate(
        &mut self,
        registry: &TrustRegistry<SqliteStore>,
        slot: usize,
    ) -> Result<u64, DemoError> {
        let Some(old) = self.keyring.current(slot) else { return Ok(0) };
        old.standing.begin_change();
        let begun = Instant::now();
        let (trust, key) = registry.rotate(&TrustRef::Id(old.trust)).await?;
        self.client.record_revocation(begun.elapsed());
        old.standing.end_change(State::Revoked);
        let new = WatchedKey::issued(trust.id, key);
        self.keyring.retire(slot, Arc::clone(&old), Some(Arc::clone(&new)));
        // Immediately: requests that began before the revocation may still run, and could undo it.
        self.client.present(&old).await;
        self.client.present(&new).await;
        Ok(1)
    }

    async fn disable(
        &mut self,
        registry: &TrustRegistry<SqliteStore>,
        slot: usize,
    ) -> Result<u64, DemoError> {
        let Some(key) = self.keyring.current(slot) else { return Ok(0) };
        let id = TrustRef::Id(key.trust);
        self.change(&key, registry.disable(&id), State::Revoked).await
    }

    async fn enable(
        &mut self,
        registry: &TrustRegistry<SqliteStore>,
        slot: usize,
    ) -> Result<u64, DemoError> {
        let Some(key) = self.keyring.current(slot) else { return Ok(0) };
        let id = TrustRef::Id(key.trust);
        self.change(&key, registry.enable(&id), State::Valid).await
    }

    async fn delete(
        &mut self,
        registry: &TrustRegistry<SqliteStore>,
        slot: usize,
    ) -> Result<u64, DemoError> {
        let Some(key) = self.keyring.current(slot) else { return Ok(0) };
        let id = TrustRef::Id(key.trust);
        let deleted = self.change(&key, registry.delete(&id), State::Revoked).await?;
        self.keyring.retire(slot, key, None);
        Ok(deleted)
    }

    async fn change(
        &mut self,
        key: &WatchedKey,
        change: impl Future<Output = Result<Trust, RegistryError>>,
        state: State,
    ) -> Result<u64, DemoError> {
        key.standing.begin_change();
        let begun = Instant::now();
        change.await?;
        if state == State::Revoked {
            self.client.record_revocation(begun.elapsed());
        }
        key.standing.end_change(state);
        self.client.present(key).await;
        Ok(1)
    }
}

/// Returns the number of rounds that the share of trusts and the pace allow, and at least one.
fn rounds(trusts: usize, duration: Duration) -> usize {
    let by_share = trusts / (ONE_TRUST_OF * TRUSTS_PER_ROUND);
    let milliseconds = usize::try_from(duration.as_millis()).unwrap_or(usize::MAX);
    let by_pace = milliseconds.saturating_mul(ROUNDS_PER_SECOND) / 1_000;
    by_share.min(by_pace).max(1)
}

/// Returns the slot of victim number `nth`. Victims are spread evenly over all trusts. If there are
/// enough trusts, each is a victim at most once.
fn victim(nth: usize, rounds: usize, trusts: usize) -> usize {
    nth * trusts / (rounds * TRUSTS_PER_ROUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_trusts_gives_a_round_that_changes_at_most_a_tenth() {
        for trusts in [1, 2, 3, 29, 30, 59, 60, 999, 1_000, 100_000] {
            for milliseconds in [500, 1_500, 5_000, 3_600_000] {
                let rounds = rounds(trusts, Duration::from_millis(milliseconds));
                assert!(rounds >= 1);
                assert!(rounds == 1 || rounds * TRUSTS_PER_ROUND * ONE_TRUST_OF <= trusts);
                assert!(rounds as u64 * 1_000 <= milliseconds * ROUNDS_PER_SECOND as u64);

                let victims: Vec<_> =
                    (0..rounds * TRUSTS_PER_ROUND).map(|nth| victim(nth, rounds, trusts)).collect();
                assert!(victims.iter().all(|&slot| slot < trusts));
                assert!(victims.is_sorted());
                if trusts >= TRUSTS_PER_ROUND {
                    assert!(
                        victims.windows(2).all(|pair| pair[0] != pair[1]),
                        "{trusts} {milliseconds}"
                    );
                }
            }
        }
    }
}
