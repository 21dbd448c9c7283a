//! `disable`, `enable` and `delete`: a change of one trust, given by its name or its id.

use trust_auth::TrustRef;

use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::TrustJson;
use crate::trust_text::named;

/// What to do to the trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrustOperation {
    Disable,
    Enable,
    Delete,
}

/// Makes the change, and returns the trust as it is after the change; after `delete`, as it was.
pub(crate) async fn change(
    database: &DatabaseArgs,
    format: Format,
    operation: TrustOperation,
    which: &str,
) -> Result<CommandAnswer, CommandError> {
    let database = Database::open(database, IfMissing::Fail).await?;
    let registry = database.registry();
    let which = TrustRef::from(which);
    let changed = match operation {
        TrustOperation::Disable => registry.disable(&which).await,
        TrustOperation::Enable => registry.enable(&which).await,
        TrustOperation::Delete => registry.delete(&which).await,
    };
    drop(registry);
    if changed.is_ok() {
        database.warn_if_servers_are_not_notified();
    }
    database.close().await;

    let trust = changed?;
    let done = match operation {
        TrustOperation::Disable => "Disabled",
        TrustOperation::Enable => "Enabled",
        TrustOperation::Delete => "Deleted",
    };
    Ok(CommandAnswer::new(format, &TrustJson { trust: &trust }, || {
        format!("{done} {}.", named(&trust))
    }))
}
