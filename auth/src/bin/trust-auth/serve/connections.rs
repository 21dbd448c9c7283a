//! [`Connections`]: all that are open, of both listeners, so that they can be ended in order.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::drain::Drain;

/// How long a connection that was just accepted has to send its request, before it is taken for idle and closed.
const UNHEARD: Duration = Duration::from_millis(500);

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

    /// Runs a connection to its end; once the connections are to close, to the end of its answer.
    pub(crate) fn converse<C: GracefulConnection>(
        &self,
        connection: C,
    ) -> impl Future<Output = C::Output> + use<C> {
        let mut close = self.close.subscribe();
        async move {
            let mut connection = pin!(connection);
            {
                // The sender outlives the listeners, and these wait for nothing else: an error cannot be, and would mean the same.
                let mut closing = pin!(close.wait_for(|close| *close));
                tokio::select! {
                    outcome = &mut connection => return outcome,
                    _ = &mut closing => {}
                }
            }
            connection.as_mut().graceful_shutdown();
            connection.await
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
