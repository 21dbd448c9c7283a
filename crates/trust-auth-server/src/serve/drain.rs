//! [`Drain`] and [`Connections`]: the end of the service, in an order that loses no request.
//!
//! A request to terminate makes `/readyz` answer 503 and each answer carry `Connection: close`. For
//! a while the service still accepts connections, so that the load balancer has time to choose
//! another server. Then the listeners stop, and the connections are finished within a limit. A
//! second signal ends the service at once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::client_stream::PendingOutput;
use crate::command_error::CommandError;
use crate::interrupt::Interrupt;

/// How long a new connection has to send its request before it counts as idle and is closed.
pub(crate) const FIRST_REQUEST_LIMIT: Duration = Duration::from_millis(500);

/// The time that a client has to send the rest of a request once connections are to close.
const REST_OF_REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// The interval of the checks whether all connections are closed.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The state of the end. A clone means the same service.
#[derive(Clone)]
pub(crate) struct Drain {
    draining: Arc<AtomicBool>,
    stop: Arc<watch::Sender<bool>>,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self { draining: Arc::default(), stop: Arc::new(watch::Sender::new(false)) }
    }

    /// Returns whether the end has begun.
    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: orders nothing. A response that misses the flag by a moment keeps its connection
        // open, and the connection is closed later.
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves when the listeners are to stop.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as `self`.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Ends the service after a first signal. A second signal ends it at once.
    ///
    /// # Errors
    ///
    /// If connections were cut, or a second signal was received.
    pub(crate) async fn end(
        self,
        mut interrupt: Interrupt,
        listeners: Vec<JoinHandle<()>>,
        connections: &Connections,
        delay: Duration,
        timeout: Duration,
    ) -> Result<(), CommandError> {
        tracing::info!("draining: answering the requests received, and closing connections");
        // Relaxed: as in `is_draining`.
        self.draining.store(true, Ordering::Relaxed);
        let in_order = async {
            sleep(delay).await;
            self.stop.send_replace(true);
            for listener in listeners {
                // A listener that panicked accepts no connection either.
                let _ = listener.await;
            }
            connections.finish(timeout).await
        };
        let unfinished = tokio::select! {
            unfinished = in_order => unfinished,
            () = interrupt.received() => return Err(CommandError::interrupted()),
        };
        if unfinished > 0 {
            return Err(CommandError::new(
                "drain",
                format!(
                    "{unfinished} connections were cut: they did not finish within {timeout:?}"
                ),
            ));
        }
        tracing::info!("drained: every request received is answered");
        Ok(())
    }
}

/// The open connections of both listeners. A clone means the same connections.
#[derive(Clone)]
pub(crate) struct Connections {
    /// Each connection has a receiver from its acceptance on, which counts it.
    close: Arc<watch::Sender<bool>>,
    drain: Drain,
}

impl Connections {
    pub(crate) fn new(drain: Drain) -> Self {
        Self { close: Arc::new(watch::Sender::new(false)), drain }
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Adds a connection, for which [`finish`](Self::finish) waits from now on.
    ///
    /// Call it before the task of the connection is spawned: `finish` may return before the task is
    /// polled for the first time.
    pub(crate) fn add(&self) -> OpenConnection {
        OpenConnection { close: self.close.subscribe(), drain: self.drain.clone() }
    }

    /// Lets each connection finish its answer, and returns how many did not within the time.
    ///
    /// Call it once the listeners have stopped. At first it closes only the connections whose last
    /// answer carried `Connection: close`, so that a request in transit is answered.
    async fn finish(&self, within: Duration) -> usize {
        let end = Instant::now() + within;
        self.until_closed(end.min(Instant::now() + FIRST_REQUEST_LIMIT)).await;
        self.close.send_replace(true);
        self.until_closed(end).await;
        self.close.receiver_count()
    }

    async fn until_closed(&self, end: Instant) {
        while self.close.receiver_count() > 0 && Instant::now() < end {
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// A connection for which the end of the service waits until this value is dropped.
pub(crate) struct OpenConnection {
    close: watch::Receiver<bool>,
    drain: Drain,
}

impl OpenConnection {
    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Runs the connection to its end. Once connections are to close, it runs to the end of a
    /// pending answer. Returns `None` if it cut the connection.
    pub(crate) async fn run<C: GracefulConnection>(
        mut self,
        connection: C,
        pending: PendingAnswers,
    ) -> Option<C::Output> {
        let mut connection = pin!(connection);
        {
            // The sender outlives the listeners, which hold no other reference to it. An error is
            // therefore impossible, and would mean the same.
            let mut closing = pin!(self.close.wait_for(|close| *close));
            tokio::select! {
                outcome = &mut connection => return Some(outcome),
                _ = &mut closing => {}
            }
        }
        connection.as_mut().graceful_shutdown();
        // hyper waits for the rest of a request that was begun, and some clients never send the
        // rest. The connection is cut after two idle periods in a row. An answer that was ready
        // just before the end of the first period is sent by the end of the second.
        let mut was_idle = false;
        loop {
            tokio::select! {
                outcome = &mut connection => return Some(outcome),
                () = sleep(REST_OF_REQUEST_LIMIT) => {}
            }
            let is_idle = !pending.is_any();
            if was_idle && is_idle {
                return None;
            }
            was_idle = is_idle;
        }
    }
}

/// The requests of a connection that are not answered yet, and output that its client has not
/// taken. A clone means the same connection.
#[derive(Clone)]
pub(crate) struct PendingAnswers {
    requests: Arc<AtomicUsize>,
    output: PendingOutput,
}

impl PendingAnswers {
    pub(crate) fn new(output: PendingOutput) -> Self {
        Self { requests: Arc::default(), output }
    }

    /// Counts one request until the returned value is dropped.
    pub(crate) fn count_request(&self) -> impl Send + use<> {
        struct PendingAnswer(Arc<AtomicUsize>);
        impl Drop for PendingAnswer {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // Relaxed, here and below: a connection and its requests are one task.
        self.requests.fetch_add(1, Ordering::Relaxed);
        PendingAnswer(Arc::clone(&self.requests))
    }

    fn is_any(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0 || self.output.is_pending()
    }
}
