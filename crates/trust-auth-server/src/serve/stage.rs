//! [`Stage`]: the routes of a listener, which change once: when the database is open.

use std::sync::{Arc, OnceLock};

use axum::Router;

/// What a listener answers with. A clone means the same listener.
#[derive(Clone)]
pub(crate) struct Stage {
    waiting: Router,
    serving: Arc<OnceLock<Router>>,
}

impl Stage {
    /// Begins with these routes.
    pub(crate) fn new(waiting: Router) -> Self {
        Self { waiting, serving: Arc::default() }
    }

    /// Answers with these from now on, for good.
    pub(crate) fn serve(&self, routes: Router) {
        // The first ones stay. There are no others.
        let _ = self.serving.set(routes);
    }

    /// The routes of now. An atomic read, on the path of every request.
    pub(crate) fn routes(&self) -> &Router {
        self.serving.get().unwrap_or(&self.waiting)
    }
}
