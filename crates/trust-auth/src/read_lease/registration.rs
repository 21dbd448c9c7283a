//! [`Registration`]: the mark by which changers wait for a holder, and where it is.

use uuid::Uuid;

use super::feed::FeedSession;

/// A registration. It belongs to the process, and survives the session that made it (R9).
#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) id: Uuid,
    place: Option<String>,
}

impl Registration {
    /// Returns a registration that this session has made.
    pub(super) fn of(id: Uuid, session: &impl FeedSession) -> Self {
        Self { id, place: session.place().map(str::to_owned) }
    }

    /// Returns whether the changers of what the session has loaded wait for this registration.
    pub(super) fn is_in_force(&self, session: &impl FeedSession) -> bool {
        self.place.as_deref() == session.place()
    }
}
