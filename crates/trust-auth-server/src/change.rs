//! `disable`, `enable` and `delete`: a change of one trust, given by its name or its id.

use trust_auth::TrustRef;

use crate::answer::{Answer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::TrustJson;
use crate::trust_text::named;

/// What to do to the trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Disable,
    Enable,
    Delete,
}

/// Makes the change, and returns the trust as it is after the change; after `delete`, as it was.
pub(crate) async fn change(
    database: &DatabaseArgs,
    format: Format,
    operation: Operation,
    which: &str,
) -> Result<Answer, CommandError> {
    let database = Database::open(database, IfMissing::Fail).await?;
    let registry = database.registry();
    let which = TrustRef::from(which);
    let changed = match operation {
        Operation::Disable => registry.disable(&which).await,
        Operation::Enable => registry.enable(&which).await,
        Operation::Delete => registry.delete(&which).await,
    };
    drop(registry);
    if changed.is_ok() {
        database.warn_if_servers_are_not_notified();
    }
    database.close().await;

    let trust = changed?;
    let done = match operation {
        Operation::Disable => "Disabled",
        Operation::Enable => "Enabled",
        Operation::Delete => "Deleted",
    };
    Ok(Answer::new(format, &TrustJson { trust: &trust }, || format!("{done} {}.", named(&trust))))
}
