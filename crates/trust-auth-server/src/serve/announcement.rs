//! [`Announcement`]: where the service listens, and its settings, for the operator.
//!
//! It has neither the password of the database nor the digest of the admin key.

use std::net::SocketAddr;
use std::thread;

use serde::Serialize;

use super::settings::Settings;
use crate::command_answer::{CommandAnswer, Format};
use crate::table_args::TableArgs;

/// The first line of standard output.
#[derive(Serialize)]
pub(crate) struct Announcement<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) database: String,
    #[serde(flatten)]
    pub(crate) tables: &'a TableArgs,
    pub(crate) settings: &'a Settings,
}

impl Announcement<'_> {
    /// Writes one line to standard output, where a supervisor finds the port, and one to the log.
    pub(crate) fn publish(&self, format: Format) {
        #[derive(Serialize)]
        struct ServingJson<'a> {
            serving: &'a Announcement<'a>,
        }
        let line = CommandAnswer::new(format, &ServingJson { serving: self }, || {
            let admin = self
                .admin_listen
                .map_or("off".to_owned(), |address| format!("http://{address}/admin/trusts"));
            format!(
                "Serving http://{}/verify from {}; admin API: {admin}.",
                self.listen, self.database
            )
        });
        // On a thread of its own, for which the service does not wait: the pipe may be full.
        let written =
            thread::Builder::new().name("announcement".into()).spawn(move || line.deliver());
        if let Err(error) = written {
            tracing::warn!(%error, "cannot announce the service on standard output");
        }
        let admin_listen =
            self.admin_listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
        self.settings.log(self.listen, &admin_listen, &self.database, self.tables);
        self.settings.warn();
        if self.settings.admin_key_sha256.is_none() && self.admin_listen.is_some() {
            tracing::info!(
                "the admin API refuses every request: no --admin-key-sha256 is configured"
            );
        }
        if let Some(address) = self.admin_listen.filter(|address| !address.ip().is_loopback()) {
            tracing::warn!(
                %address,
                "the admin API is not on a loopback address: its key and new API keys are sent in \
                 clear text"
            );
        }
    }
}
