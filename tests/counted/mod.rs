//! A value that counts itself, for the tests and the models of reclamation (G7).

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// A value that counts its live copies, and that detects a torn read or a read after its drop.
pub(crate) struct Counted {
    pub(crate) parts: [u64; 8],
    alive: Arc<AtomicIsize>,
}

impl Counted {
    pub(crate) fn new(part: u64, alive: &Arc<AtomicIsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self { parts: [part; 8], alive: alive.clone() }
    }

    pub(crate) fn check(&self) {
        assert_ne!(self.parts[0], u64::MAX, "read or dropped after it was dropped");
        assert!(self.parts.iter().all(|part| *part == self.parts[0]), "torn: {:?}", self.parts);
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.check();
        Self::new(self.parts[0], &self.alive)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.check();
        self.parts = [u64::MAX; 8];
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}
