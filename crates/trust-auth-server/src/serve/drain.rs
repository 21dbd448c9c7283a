//! [`Drain`]: the end of the service, in an order in which no request is lost.
//!
//! A request to terminate makes `/readyz` say no and every answer say `Connection: close`, while
//! connections are still taken, so that whoever balances goes elsewhere. Then nothing more is
//! accepted, and what was begun is finished, within a bound. A second signal ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::connections::Connections;
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// How far the end has come. A clone means the same end.
#[derive(Clone)]
pub(crate) struct Drain {
    draining: Arc<AtomicBool>,
    stop: Arc<watch::Sender<bool>>,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self { draining: Arc::default(), stop: Arc::new(watch::Sender::new(false)) }
    }

    /// Whether the end has begun.
    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: it orders nothing. A response that misses it by a moment keeps its connection
        // open, and that is closed later.
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves when nothing more is to be accepted.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as this does.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Ends the service, after a first signal. A second one ends it at once.
    pub(crate) async fn end(
        self,
        mut interrupt: Interrupt,
        listeners: Vec<JoinHandle<()>>,
        connections: &Connections,
        delay: Duration,
        timeout: Duration,
    ) -> Result<(), Failure> {
        tracing::info!("draining: answering what was asked, and telling clients to go elsewhere");
        // Relaxed: as in `is_draining`.
        self.draining.store(true, Ordering::Relaxed);
        let in_order = async {
            sleep(delay).await;
            self.stop.send_replace(true);
            for listener in listeners {
                // A listener that panicked accepts nothing either.
                let _ = listener.await;
            }
            connections.finish(timeout).await
        };
        let unfinished = tokio::select! {
            unfinished = in_order => unfinished,
            () = interrupt.received() => return Err(Failure::interrupted()),
        };
        if unfinished > 0 {
            return Err(Failure::new(
                "drain",
                format!(
                    "{unfinished} connections were cut: they did not finish within {timeout:?}"
                ),
            ));
        }
        tracing::info!("drained: every answer that was owed is given");
        Ok(())
    }
}
