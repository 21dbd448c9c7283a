//! [`Connections`]: all that are open, of both listeners, so that they can be ended in order.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::drain::Drain;

/// How long a connection that was just accepted has to send its request, before it is taken for idle and closed.
const UNHEARD: Duration = Duration::from_millis(500);

/// How long a client has to finish a request of which it has sent a part, when connections are to close.
const HALF_SENT: Duration = Duration::from_secs(1);

/// How often to look whether the last one has gone.
const LOOK: Duration = Duration::from_millis(5);

/// The open connections. A clone means the same ones.
#[derive(Clone)]
pub(crate) struct Connections {
    /// Each connection holds a receiver, and so is counted.
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

    /// Runs a connection to its end; once the connections are to close, to the end of its answer, if it owes one. `None` if it was cut.
    pub(crate) fn converse<C: GracefulConnection>(
        &self,
        connection: C,
        owed: Owed,
    ) -> impl Future<Output = Option<C::Output>> + use<C> {
        let mut close = self.close.subscribe();
        async move {
            let mut connection = pin!(connection);
            {
                // The sender outlives the listeners, and these wait for nothing else: an error cannot be, and would mean the same.
                let mut closing = pin!(close.wait_for(|close| *close));
                tokio::select! {
                    outcome = &mut connection => return Some(outcome),
                    _ = &mut closing => {}
                }
            }
            connection.as_mut().graceful_shutdown();
            // HTTP waits for the rest of a request that was begun, and some clients never send it. Twice in a row, so that an answer which
            // was found just before the first look is on its way by the second.
            let mut idle = false;
            loop {
                tokio::select! {
                    outcome = &mut connection => return Some(outcome),
                    () = sleep(HALF_SENT) => {}
                }
                match (idle, owed.is_any()) {
                    (true, false) => return None,
                    (_, any) => idle = !any,
                }
            }
        }
    }

    /// Lets each give the answer that it owes, and returns how many did not within the time.
    ///
    /// To be called when nothing is accepted any more. In the first moments no connection is closed that was not told so in its last answer,
    /// so that a request which is on its way is answered.
    pub(crate) async fn finish(&self, within: Duration) -> usize {
        let end = Instant::now() + within;
        self.all_gone(end.min(Instant::now() + UNHEARD)).await;
        self.close.send_replace(true);
        self.all_gone(end).await;
        self.close.receiver_count()
    }

    async fn all_gone(&self, until: Instant) {
        while self.close.receiver_count() > 0 && Instant::now() < until {
            sleep(LOOK).await;
        }
    }
}

/// How many answers a connection owes: requests that were read, and not answered. A clone means the same connection.
#[derive(Clone, Default)]
pub(crate) struct Owed(Arc<AtomicUsize>);

impl Owed {
    /// One more, until what is returned is dropped.
    pub(crate) fn one(&self) -> impl Send + use<> {
        struct One(Arc<AtomicUsize>);
        impl Drop for One {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // Relaxed, here and below: a connection and its requests are one task.
        self.0.fetch_add(1, Ordering::Relaxed);
        One(Arc::clone(&self.0))
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}
