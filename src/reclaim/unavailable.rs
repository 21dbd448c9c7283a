//! Replaces `asymmetric.rs` on platforms without `membarrier(2)`, by types without values.

use std::convert::Infallible;

pub(crate) struct Guard(Infallible);

pub(crate) struct Grace(Infallible);

#[inline]
pub(super) fn pin_registered() -> Option<Guard> {
    None
}

pub(super) fn pin() -> Guard {
    unreachable!("without membarrier there is nothing to pin")
}

impl Grace {
    /// # Safety
    ///
    /// None: this panics.
    pub(super) unsafe fn start() -> Self {
        unreachable!("without membarrier there is no such grace period")
    }

    /// # Safety
    ///
    /// None: this cannot be called.
    pub(super) unsafe fn is_over(&self, _horizon: Horizon) -> bool {
        match self.0 {}
    }

    pub(super) fn wants_fence(&self, _horizon: Horizon) -> Option<Fence> {
        match self.0 {}
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fence(Infallible);

impl Fence {
    pub(super) fn make(self) -> Option<Horizon> {
        match self.0 {}
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Horizon(Infallible);

impl Horizon {
    pub(super) fn furthest(&self, _fence: bool) -> u64 {
        match self.0 {}
    }
}

pub(super) fn horizon() -> Horizon {
    unreachable!("without membarrier there is no such grace period")
}
