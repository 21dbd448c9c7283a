//! [`Limits`]: what a client may cost a listener before it has said anything worth an answer.

use std::time::Duration;

use super::settings::Settings;

/// The admin API has few clients. It must stay reachable when the main listener has all the
/// connections that it may have.
pub(crate) const ADMIN_CONNECTIONS: usize = 64;

/// The limits of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; others wait in the kernel's queue.
    pub(crate) connections: usize,
    /// For a request's line and headers, from the moment at which the connection is open, or the
    /// last answer given.
    pub(crate) header_timeout: Duration,
    /// For a request's line and headers together.
    pub(crate) header_bytes: usize,
}

impl Limits {
    /// Those of the admin listener.
    pub(crate) fn of_admin(settings: &Settings) -> Self {
        Self { connections: ADMIN_CONNECTIONS, ..settings.limits() }
    }
}
