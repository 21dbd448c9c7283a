//! `enable`: a change of one trust that revokes no key.

use trust_auth::TrustRef;

use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::TrustJson;
use crate::trust_text::named;

/// Enables the trust, and returns it as it is after the change.
pub(crate) async fn enable(
    database: &DatabaseArgs,
    format: Format,
    which: &str,
) -> Result<CommandAnswer, CommandError> {
    let database = Database::open(database, IfMissing::Fail).await?;
    let changed = database.registry().enable(&TrustRef::from(which)).await;
    if changed.is_ok() {
        database.warn_if_servers_are_not_notified();
    }
    database.close().await;

    let trust = changed?;
    Ok(CommandAnswer::new(format, &TrustJson::new(&trust), || {
        format!("Enabled {}.", named(&trust))
    }))
}
