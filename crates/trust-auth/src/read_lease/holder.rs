//! [`Holder`]: the one task that loads, renews, looks and gives up, one step at a time (R1).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use trust_key_cache::{BootClock, Clock, KeyHash};
use uuid::Uuid;

use super::bounds::{PACE, check_length};
use super::feed::{Answer, ChangeFeed, Difference, Ended, FeedSession, Reload};
use super::held_table::{ChangedRow, Rows};
use super::held_trusts::{Found, HolderStatus, Look, Shared};
use super::registration::Registration;
use crate::error::StoreError;
use crate::scans::compare;
use crate::watcher::Backoff;

/// What a deadline reaches: the fifth that is given up is the allowance for clocks that drift.
const USED: f64 = 0.8;

/// How long the end of a holder may take that has lost its session.
const LEAVING: Duration = Duration::from_secs(1);

pub(super) struct Holder<F: ChangeFeed> {
    feed: F,
    name: String,
    length: Duration,
    shared: Arc<Shared>,
    looks: mpsc::Receiver<Look>,
    /// The sweep after the last look. The next look begins after it, so one runs at a time.
    sweep: Option<JoinHandle<()>>,
    report: watch::Sender<HolderStatus>,
    session: Option<F::Session>,
    /// Survives its session (R9).
    registration: Option<Registration>,
    rows: Arc<Rows>,
    /// Zero while the lease is given up. It never falls otherwise.
    deadline: Duration,
}

/// Why the loop goes on.
enum Event {
    Stopped,
    Renewal,
    Lost(StoreError),
    Look(Look),
}

impl<F: ChangeFeed> Holder<F> {
    pub(super) fn new(
        feed: F,
        name: &str,
        length: Duration,
        shared: Arc<Shared>,
        looks: mpsc::Receiver<Look>,
        report: watch::Sender<HolderStatus>,
    ) -> Result<Self, StoreError> {
        check_length(length)?;
        if !BootClock::IS_SUPPORTED {
            let text = "a read lease needs a clock that counts suspended time, which this \
                        platform lacks; leave the read lease off";
            return Err(StoreError::Other(text.into()));
        }
        let name = name.to_owned();
        Ok(Self {
            feed,
            name,
            length,
            shared,
            looks,
            sweep: None,
            report,
            session: None,
            registration: None,
            rows: Arc::default(),
            deadline: Duration::ZERO,
        })
    }

    /// Renews and looks until `stopped` resolves, then gives the lease up and leaves. `renewed` is
    /// how the first renewal has ended.
    pub(super) async fn run(mut self, renewed: Renewed, mut stopped: oneshot::Receiver<()>) {
        let mut backoff = Backoff::new();
        let mut next_step = Instant::now();
        let mut next_renewal = match renewed {
            Renewed::Yes => next_step + self.length / 4,
            // A revocation may wait for what this process has yet to acknowledge or to load.
            _ => next_step + PACE,
        };
        loop {
            let event = self.next(&mut stopped, next_renewal, next_step).await;
            let begin = Instant::now();
            next_step = begin + PACE;
            let step = match event {
                Event::Stopped => break,
                Event::Lost(error) => Err(error),
                Event::Renewal if self.session.is_none() => self.connect_and_renew().await,
                Event::Renewal => self.renew().await,
                Event::Look(first) => self.look(first).await,
            };
            match step {
                Ok(Renewed::Yes) => {
                    backoff = Backoff::new();
                    // A renewal that takes long must not keep a look waiting.
                    next_renewal = (begin + self.length / 4).max(Instant::now() + PACE);
                }
                Ok(Renewed::No) => {}
                Ok(Renewed::Again) => {
                    backoff = Backoff::new();
                    // A look that waits comes first, and no second one.
                    next_renewal = next_step + PACE;
                }
                Ok(Renewed::Soon) => {
                    // Never later than it was: a flood of looks must not put the renewal off.
                    next_renewal = next_renewal.min(next_step + PACE);
                }
                Ok(Renewed::MustReload) => {
                    // A pooler that exchanges each session must not cost a load in each step.
                    let pause = backoff.pause_after(Duration::ZERO).min(self.length / 4);
                    next_renewal = Instant::now() + pause;
                }
                Err(error) => {
                    self.session = None;
                    self.report.send_modify(|status| {
                        status.failures += 1;
                        status.error = Some(Arc::new(error));
                    });
                    let pause = backoff.pause_after(Duration::ZERO).min(self.length / 4);
                    next_renewal = Instant::now() + pause;
                }
            }
        }
        // First the deadline, then the registration (R9).
        self.give_up();
        if let Some(registration) = self.registration.take() {
            self.leave(registration.id).await;
        }
    }

    /// Removes the registration, also if the session is lost. If this fails, the registration ends
    /// after the length of its lease.
    async fn leave(&mut self, registration: Uuid) {
        if let Some(session) = &mut self.session
            && session.leave(registration).await.is_ok()
        {
            return;
        }
        tokio::time::timeout(LEAVING, self.feed.leave(registration)).await.ok();
    }

    async fn next(
        &mut self,
        stopped: &mut oneshot::Receiver<()>,
        next_renewal: Instant,
        next_step: Instant,
    ) -> Event {
        let Self { session, looks, sweep, .. } = self;
        let has_session = session.is_some();
        let hint = async {
            match session {
                Some(session) => {
                    sleep_until(next_step).await;
                    session.hint().await
                }
                None => std::future::pending().await,
            }
        };
        let look = async {
            if has_session {
                sleep_until(next_step).await;
            }
            if let Some(sweeping) = sweep {
                // It does not panic, and is not aborted.
                sweeping.await.ok();
            }
            *sweep = None;
            match looks.recv().await {
                Some(look) => look,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stopped => Event::Stopped,
            () = sleep_until(next_renewal) => Event::Renewal,
            // Before the hints: a flood of these must not keep a look waiting.
            first = look => Event::Look(first),
            hinted = hint => match hinted {
                Ok(()) => Event::Renewal,
                Err(error) => Event::Lost(error),
            },
        }
    }

    /// Connects, loads, registers if no registration is in force, and renews.
    pub(super) async fn connect_and_renew(&mut self) -> Result<Renewed, StoreError> {
        let mut session = self.feed.open(self.length).await?;
        let noted = BootClock.now();
        let trusts = session.load().await?.into_iter();
        let rows = Arc::new(Rows::of(trusts.map(|trust| trust.held_from(noted))));
        if self.registration.take_if(|own| !own.is_in_force(&session)).is_some() {
            // The changers of these rows do not wait for this process (R9).
            self.give_up();
        }
        // The deadline of the last renewal stays: these rows are younger. They are in place before
        // the next renewal acknowledges them (R10).
        self.publish(rows, Duration::ZERO);
        if self.registration.is_none() {
            let id = session.register(&self.name).await?;
            self.registration = Some(Registration::of(id, &session));
        }
        self.session = Some(session);
        self.renew().await
    }

    /// Renews, and renews again at once if there are records to acknowledge (R10).
    async fn renew(&mut self) -> Result<Renewed, StoreError> {
        for _ in 0..2 {
            let (Some(mut session), Some(registration)) = (self.session.take(), &self.registration)
            else {
                return Ok(Renewed::MustReload);
            };
            // Before the renewal is sent (R1).
            let noted = BootClock.now();
            let answer = session.renew(registration.id).await?;
            let Some((rows, has_records)) = self.rows_after(answer, noted) else {
                return Ok(Renewed::MustReload);
            };
            // After the changes were applied: both are in the new table (R1).
            self.publish(rows, noted.saturating_add(self.length.mul_f64(USED)));
            self.report.send_modify(|status| {
                status.renewals += 1;
                status.renewed_at = Some(std::time::Instant::now());
                status.error = None;
            });
            session.upkeep().await?;
            self.report.send_modify(|status| status.holders = session.holders());
            self.session = Some(session);
            if !has_records {
                return Ok(Renewed::Yes);
            }
        }
        // Writes do not cease: renewals are paced, so that looks and the end have their turn.
        Ok(Renewed::Again)
    }

    /// Looks once for all requests that wait now (R5).
    async fn look(&mut self, first: Look) -> Result<Renewed, StoreError> {
        let mut waiting = vec![first];
        while let Ok(look) = self.looks.try_recv() {
            waiting.push(look);
        }
        let Some(mut session) = self.session.take() else {
            // Dropped, a look has failed: each request reads by itself.
            return Ok(Renewed::No);
        };
        let noted = BootClock.now();
        let answer = session.look().await?;
        let Some((rows, has_records)) = self.rows_after(answer, noted) else {
            return Ok(Renewed::MustReload);
        };
        self.publish(Arc::clone(&rows), Duration::ZERO);
        self.report.send_modify(|status| status.looks += 1);
        // A task of its own, so that no renewal waits for it.
        self.sweep = Some(tokio::spawn(find(waiting, rows)));
        self.session = Some(session);
        // A revocation waits for a renewal, which acknowledges what the look has brought (R10).
        Ok(if has_records { Renewed::Soon } else { Renewed::No })
    }

    /// Returns the rows after the answer, and whether it had records; or `None` if all must be
    /// loaded again. `noted` is before the answer was asked for.
    fn rows_after(&mut self, answer: Answer, noted: Duration) -> Option<(Arc<Rows>, bool)> {
        let reason = match answer {
            Answer::Difference(difference) => match rows_of(difference, noted) {
                Some((changes, has_records)) => {
                    let rows = if changes.is_empty() {
                        Arc::clone(&self.rows)
                    } else {
                        Arc::new(self.rows.after(changes))
                    };
                    return Some((rows, has_records));
                }
                None => None,
            },
            Answer::Reload(reason) => Some(reason),
        };
        self.report.send_modify(|status| {
            status.reloads += 1;
            status.last_reload = reason.or(status.last_reload);
        });
        if reason == Some(Reload::Unregistered) {
            // Struck off: the changers no longer wait for this process (R9).
            self.give_up();
            self.registration = None;
        }
        None
    }

    fn give_up(&mut self) {
        self.deadline = Duration::ZERO;
        self.shared.give_up();
    }

    /// Publishes these rows, with the later one of this deadline and the last.
    fn publish(&mut self, rows: Arc<Rows>, deadline: Duration) {
        self.deadline = self.deadline.max(deadline);
        self.report.send_modify(|status| status.held = rows.trusts());
        self.rows = Arc::clone(&rows);
        self.shared.publish(rows, self.deadline);
    }
}

/// Answers the requests of one look, by one sweep of all rows. Its work depends on the number of
/// requests and of rows (G8).
async fn find(mut waiting: Vec<Look>, rows: Arc<Rows>) {
    // A request that is gone needs no answer.
    waiting.retain(|look| !look.answer.is_closed());
    let hashes: Vec<KeyHash> = waiting.iter().flat_map(|look| &look.hashes).copied().collect();
    let mut found = compare(&hashes, rows.hashes()).await.into_iter();
    for look in waiting {
        // Takes all of the request's results, whichever matched.
        let own = found.by_ref().take(look.hashes.len()).enumerate();
        let place = own.fold(None, |place, (at, index)| place.or(index.map(|index| (at, index))));
        let row = place.and_then(|(at, index)| Some((at, Arc::clone(rows.row(index)?))));
        look.answer.send(Found { row, rows: rows.hashes().len() }).ok();
    }
}

/// How a step ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// The deadline was moved.
    Yes,
    /// The deadline was moved, and there are records to acknowledge.
    Again,
    /// The deadline stays, and there are records to acknowledge by a renewal.
    Soon,
    /// The deadline stays.
    No,
    /// The session is closed: what it returned does not count.
    MustReload,
}

/// Returns the rows that changed, or `None` if everything did.
fn rows_of(difference: Difference, noted: Duration) -> Option<(Vec<ChangedRow>, bool)> {
    let mut changes = Vec::new();
    for ended in difference.ended {
        match ended {
            Ended::Trust { id, row } => {
                changes.push((id, row.map(|trust| trust.held_from(noted))));
            }
            // A feed of trusts names trusts. Whatever else it names, a new load covers it.
            _ => return None,
        }
    }
    Some((changes, difference.has_records))
}

#[cfg(test)]
mod tests;
