//! [`ListenerRoutes`]: the routes of a listener, which change once, when the database is open.

use std::sync::{Arc, OnceLock};

use axum::Router;

/// The routes of one listener. A clone means the same listener.
#[derive(Clone)]
pub(crate) struct ListenerRoutes {
    before_open: Router,
    opened: Arc<OnceLock<Router>>,
}

impl ListenerRoutes {
    /// Starts with the routes for the time before the database is open.
    pub(crate) fn new(before_open: Router) -> Self {
        Self { before_open, opened: Arc::default() }
    }

    /// Changes to these routes, finally.
    pub(crate) fn set_opened(&self, routes: Router) {
        // Called once. A second call would change nothing.
        let _ = self.opened.set(routes);
    }

    /// Returns the present routes. Costs one atomic load for each request.
    pub(crate) fn current(&self) -> &Router {
        self.opened.get().unwrap_or(&self.before_open)
    }
}
