//! Checks every answer. The oracle has its own record of the valid keys, and reads neither the
//! cache nor the database.
//!
//! A request that overlaps a change of its key may get either answer, so the oracle does not check
//! such a request. The oracle must check every other request.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a key is valid. One task alone changes a key, and records its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The change that made it valid has returned.
    Valid,
    /// The revocation has returned, or the key was never issued.
    Revoked,
}

/// A key's state and the number of its changes, in one word, so that a reader gets both at once.
///
/// Orderings: stores are Release, loads are Acquire. A request that observes `Revoked` therefore
/// happens-after the return of the revocation. The call of [`begin_change`](Self::begin_change)
/// precedes the change in the database. A request that has read the changed row happens-after the
/// change through the database's own locks. Its second observation therefore sees `begin_change`.
#[derive(Debug)]
pub(crate) struct Standing(AtomicU64);

const CHANGING: u64 = 0;
const VALID: u64 = 1;
const REVOKED: u64 = 2;
const ONE_CHANGE: u64 = 4;

impl Standing {
    pub(crate) fn new(state: State) -> Self {
        Self(AtomicU64::new(code(state)))
    }

    /// Records that a change of the key begins. Must be called before the change.
    pub(crate) fn begin_change(&self) {
        let changes = self.0.load(Ordering::Relaxed) & !(ONE_CHANGE - 1);
        self.0.store(changes + ONE_CHANGE + CHANGING, Ordering::Release);
    }

    /// Records the state after a change. Must be called after the change has succeeded. After a
    /// change that failed, the key's state is unknown, and the oracle no longer checks the key.
    pub(crate) fn end_change(&self, state: State) {
        let changes = self.0.load(Ordering::Relaxed) & !(ONE_CHANGE - 1);
        self.0.store(changes + code(state), Ordering::Release);
    }

    /// Returns the state at this moment.
    pub(crate) fn observe(&self) -> Observation {
        Observation(self.0.load(Ordering::Acquire))
    }
}

fn code(state: State) -> u64 {
    match state {
        State::Valid => VALID,
        State::Revoked => REVOKED,
    }
}

/// The state of a key, and the number of its changes, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation(u64);

impl Observation {
    /// Returns the state that held from `self` to `later`, or `None` if the key changed in between.
    fn held_until(self, later: Self) -> Option<State> {
        match self.0 % ONE_CHANGE {
            _ if self != later => None,
            VALID => Some(State::Valid),
            REVOKED => Some(State::Revoked),
            _ => None,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Granted, to the key's own trust.
    Granted,
    /// Granted, to another trust.
    GrantedToAnother,
    /// Refused, for any reason.
    Refused,
}

/// How many answers were right and wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Requests with a key that was revoked before they started.
    pub(crate) revoked_presented: u64,
    /// How many of these were granted, which is wrong.
    pub(crate) revoked_grants: u64,
    /// Requests with a key that was valid from before they started until after they ended.
    pub(crate) valid_presented: u64,
    /// How many of these were refused, which is wrong.
    pub(crate) valid_refused: u64,
    /// Requests that were granted to another trust than the key's own, which is wrong.
    pub(crate) wrong_trust: u64,
    /// Requests that overlapped a change of their key, so that either answer is right.
    pub(crate) undecided: u64,
}

impl Verdict {
    /// Checks one answer. `before` was observed before the request started, and `after` when the
    /// request had ended.
    pub(crate) fn judge(&mut self, before: Observation, after: Observation, outcome: Outcome) {
        if outcome == Outcome::GrantedToAnother {
            self.wrong_trust += 1;
        }
        match before.held_until(after) {
            Some(State::Valid) => {
                self.valid_presented += 1;
                self.valid_refused += u64::from(outcome == Outcome::Refused);
            }
            Some(State::Revoked) => {
                self.revoked_presented += 1;
                self.revoked_grants += u64::from(outcome != Outcome::Refused);
            }
            None => self.undecided += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.revoked_presented += other.revoked_presented;
        self.revoked_grants += other.revoked_grants;
        self.valid_presented += other.valid_presented;
        self.valid_refused += other.valid_refused;
        self.wrong_trust += other.wrong_trust;
        self.undecided += other.undecided;
    }

    /// Returns whether every checked answer was right. Returns false if no valid key, or no revoked
    /// key, was checked, because such a run shows nothing.
    pub(crate) fn held(&self) -> bool {
        self.revoked_grants == 0
            && self.valid_refused == 0
            && self.wrong_trust == 0
            && self.revoked_presented > 0
            && self.valid_presented > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a verdict that holds, so that one bad answer makes the difference.
    fn after_good_answers() -> Verdict {
        let mut verdict = Verdict::default();
        for (state, outcome) in
            [(State::Valid, Outcome::Granted), (State::Revoked, Outcome::Refused)]
        {
            let now = Standing::new(state).observe();
            verdict.judge(now, now, outcome);
        }
        assert!(verdict.held());
        verdict
    }

    fn revoked() -> Standing {
        let standing = Standing::new(State::Valid);
        standing.begin_change();
        standing.end_change(State::Revoked);
        standing
    }

    #[test]
    fn a_grant_after_the_revocation_returned_is_found() {
        let key = revoked();
        let mut verdict = after_good_answers();
        verdict.judge(key.observe(), key.observe(), Outcome::Granted);
        assert_eq!((verdict.revoked_grants, verdict.revoked_presented), (1, 2));
        assert!(!verdict.held());
    }

    #[test]
    fn a_grant_to_a_key_that_was_never_issued_is_found() {
        let key = Standing::new(State::Revoked);
        let mut verdict = after_good_answers();
        verdict.judge(key.observe(), key.observe(), Outcome::Granted);
        assert_eq!(verdict.revoked_grants, 1);
        assert!(!verdict.held());
    }

    #[test]
    fn a_refusal_of_a_key_that_was_valid_throughout_is_found() {
        let key = Standing::new(State::Valid);
        let mut verdict = after_good_answers();
        verdict.judge(key.observe(), key.observe(), Outcome::Refused);
        assert_eq!((verdict.valid_refused, verdict.valid_presented), (1, 2));
        assert!(!verdict.held());
    }

    #[test]
    fn a_refusal_after_the_key_was_enabled_again_is_found() {
        let key = revoked();
        key.begin_change();
        key.end_change(State::Valid);
        let mut verdict = after_good_answers();
        verdict.judge(key.observe(), key.observe(), Outcome::Refused);
        assert_eq!(verdict.valid_refused, 1);
        assert!(!verdict.held());
    }

    #[test]
    fn a_grant_to_another_trust_is_found_whatever_the_key() {
        for (key, revoked_grants) in [(Standing::new(State::Valid), 0), (revoked(), 1)] {
            let mut verdict = after_good_answers();
            verdict.judge(key.observe(), key.observe(), Outcome::GrantedToAnother);
            assert_eq!((verdict.wrong_trust, verdict.revoked_grants), (1, revoked_grants));
            assert!(!verdict.held());
        }
        let key = Standing::new(State::Valid);
        let before = key.observe();
        key.begin_change();
        let mut verdict = after_good_answers();
        verdict.judge(before, key.observe(), Outcome::GrantedToAnother);
        assert!(!verdict.held());
    }

    #[test]
    fn either_answer_is_right_while_the_key_changes() {
        for outcome in [Outcome::Granted, Outcome::Refused] {
            let key = Standing::new(State::Valid);
            let valid = key.observe();
            key.begin_change();
            let revoking = key.observe();
            key.end_change(State::Revoked);
            let revoked = key.observe();
            key.begin_change();
            let enabling = key.observe();
            key.end_change(State::Valid);
            let valid_again = key.observe();

            let mut verdict = Verdict::default();
            for (before, after) in [
                (valid, revoking),
                (valid, revoked),
                // Valid at both ends, and revoked in between.
                (valid, valid_again),
                (revoking, revoking),
                (revoking, revoked),
                (revoked, enabling),
                (revoked, valid_again),
                (enabling, valid_again),
            ] {
                verdict.judge(before, after, outcome);
            }
            assert_eq!(verdict, Verdict { undecided: 8, ..Verdict::default() });
        }
    }

    #[test]
    fn a_change_that_failed_leaves_the_key_undecided() {
        let key = Standing::new(State::Valid);
        key.begin_change();
        let mut verdict = Verdict::default();
        verdict.judge(key.observe(), key.observe(), Outcome::Granted);
        assert_eq!(verdict.undecided, 1);
    }

    #[test]
    fn a_verdict_over_nothing_does_not_hold() {
        assert!(!Verdict::default().held());
        let mut only_valid = Verdict::default();
        let key = Standing::new(State::Valid);
        only_valid.judge(key.observe(), key.observe(), Outcome::Granted);
        assert!(!only_valid.held());
    }

    #[test]
    fn adding_verdicts_loses_no_bad_answer() {
        let bad = Verdict {
            revoked_presented: 1,
            revoked_grants: 2,
            valid_presented: 3,
            valid_refused: 4,
            wrong_trust: 5,
            undecided: 6,
        };
        let mut sum = bad;
        sum.add(&bad);
        let twice = Verdict {
            revoked_presented: 2,
            revoked_grants: 4,
            valid_presented: 6,
            valid_refused: 8,
            wrong_trust: 10,
            undecided: 12,
        };
        assert_eq!(sum, twice);
    }
}
