//! A feed whose answers are a test's, for the order of a holder's steps.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use uuid::Uuid;

use super::feed::{Answer, ChangeFeed, Difference, Ended, FeedSession, Settled, Waiting};
use crate::error::StoreError;
use crate::trust::Trust;

type Step = Box<dyn FnOnce() -> Answer + Send>;

/// A feed whose answers, and what happens before them, are the test's.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Steps>>);

#[derive(Default)]
pub(super) struct Steps {
    pub(super) at_load: Option<Box<dyn FnMut() + Send>>,
    pub(super) at_leave: Option<Box<dyn FnMut() + Send>>,
    /// Runs at each call of `hint`. The hint has come if it returns `true`.
    pub(super) at_hint: Option<Box<dyn FnMut() -> bool + Send>>,
    /// What each load returns.
    pub(super) trusts: Vec<Trust>,
    at_looks: VecDeque<Step>,
    pub(super) at_renewals: VecDeque<Step>,
    pub(super) registered: usize,
    pub(super) place: Option<&'static str>,
}

impl Script {
    pub(super) fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap()
    }

    pub(super) fn renewal(&self, step: impl FnOnce() -> Answer + Send + 'static) {
        self.steps().at_renewals.push_back(Box::new(step));
    }
}

impl Script {
    pub(super) fn look(&self, step: impl FnOnce() -> Answer + Send + 'static) {
        self.steps().at_looks.push_back(Box::new(step));
    }
}

impl ChangeFeed for Script {
    type Session = Self;

    async fn open(&self, _: Duration) -> Result<Self, StoreError> {
        Ok(self.clone())
    }

    async fn settle(&self, _: &str, _: Waiting) -> Result<Settled, StoreError> {
        Ok(Settled::NOTHING_HELD)
    }

    async fn leave(&self, _: Uuid) -> Result<(), StoreError> {
        self.steps().at_leave.iter_mut().for_each(|step| step());
        Ok(())
    }
}

impl FeedSession for Script {
    async fn load(&mut self) -> Result<Vec<Trust>, StoreError> {
        self.steps().at_load.iter_mut().for_each(|step| step());
        Ok(self.steps().trusts.clone())
    }

    fn place(&self) -> Option<&str> {
        self.steps().place
    }

    async fn register(&mut self, _: &str) -> Result<Uuid, StoreError> {
        self.steps().registered += 1;
        Ok(Uuid::from_u128(self.steps().registered as u128))
    }

    async fn renew(&mut self, _: Uuid) -> Result<Answer, StoreError> {
        let step = self.steps().at_renewals.pop_front();
        match step {
            Some(step) => Ok(step()),
            None => pending().await,
        }
    }

    async fn look(&mut self) -> Result<Answer, StoreError> {
        let step = self.steps().at_looks.pop_front();
        match step {
            Some(step) => Ok(step()),
            None => pending().await,
        }
    }

    async fn hint(&mut self) -> Result<(), StoreError> {
        let has_come = self.steps().at_hint.as_mut().is_some_and(|step| step());
        if has_come { Ok(()) } else { pending().await }
    }

    async fn upkeep(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn leave(&mut self, _: Uuid) -> Result<(), StoreError> {
        self.steps().at_leave.iter_mut().for_each(|step| step());
        Ok(())
    }
}

pub(super) fn difference(ended: Vec<Ended>) -> Answer {
    Answer::Difference(Difference { has_records: !ended.is_empty(), ended })
}
