//! [`Connections`]: all that are open, of both listeners, so that they can be ended in order.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::drain::Drain;
use super::output::Stuck;

/// How long a connection that was just accepted has to send its request, before it is taken for
/// idle and closed.
pub(crate) const UNHEARD: Duration = Duration::from_millis(500);

/// How long a client has to finish a request of which it has sent a part, when connections are to
/// close.
const HALF_SENT: Duration = Duration::from_secs(1);

/// How often to look whether the last one has gone.
const LOOK: Duration = Duration::from_millis(5);

/// The open connections. A clone means the same ones.
#[derive(Clone)]
pub(crate) struct Connections {
    /// Each connection has a receiver from its acceptance on, and so is counted.
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

    /// One more, which is waited for from now on. To be called before its task is spawned: that may
    /// be polled for the first time when nobody waits any more.
    pub(crate) fn enter(&self) -> Entered {
        Entered { close: self.close.subscribe(), drain: self.drain.clone() }
    }

    /// Lets each give the answer that it owes, and returns how many did not within the time.
    ///
    /// To be called when nothing is accepted any more. In the first moments no connection is closed
    /// that was not told so in its last answer, so that a request which is on its way is
    /// answered.
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

/// A connection that is waited for until this is dropped.
pub(crate) struct Entered {
    close: watch::Receiver<bool>,
    drain: Drain,
}

impl Entered {
    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Runs the connection to its end; once the connections are to close, to the end of the answer
    /// that it owes, if it owes one. `None` if it was cut.
    pub(crate) async fn converse<C: GracefulConnection>(
        mut self,
        connection: C,
        owed: Owed,
    ) -> Option<C::Output> {
        let mut connection = pin!(connection);
        {
            // The sender outlives the listeners, and these wait for nothing else: an error cannot
            // be, and would mean the same.
            let mut closing = pin!(self.close.wait_for(|close| *close));
            tokio::select! {
                outcome = &mut connection => return Some(outcome),
                _ = &mut closing => {}
            }
        }
        connection.as_mut().graceful_shutdown();
        // HTTP waits for the rest of a request that was begun, and some clients never send it.
        // Twice in a row, so that an answer which was found just before the first look is
        // on its way by the second.
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

/// What a connection owes: answers to requests that were read, and what of an answer its client has
/// not taken yet. A clone means the same connection.
#[derive(Clone)]
pub(crate) struct Owed {
    answers: Arc<AtomicUsize>,
    stuck: Stuck,
}

impl Owed {
    pub(crate) fn over(stuck: Stuck) -> Self {
        Self { answers: Arc::default(), stuck }
    }

    /// One answer more, until what is returned is dropped.
    pub(crate) fn one(&self) -> impl Send + use<> {
        struct One(Arc<AtomicUsize>);
        impl Drop for One {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // Relaxed, here and below: a connection and its requests are one task.
        self.answers.fetch_add(1, Ordering::Relaxed);
        One(Arc::clone(&self.answers))
    }

    fn is_any(&self) -> bool {
        self.answers.load(Ordering::Relaxed) > 0 || self.stuck.is()
    }
}
