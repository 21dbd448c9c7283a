//! `disable`, `enable`, `delete`: a change of one trust, which is named or given by its id.

use serde::Serialize;
use trust_auth::{Trust, TrustRef};

use crate::answer::{Answer, Format};
use crate::database::{Database, IfMissing, Target};
use crate::failure::Failure;
use crate::trust_text::named;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Disable,
    Enable,
    Delete,
}

/// Does it, and answers with the trust as it is now; after `delete`, as it was.
pub(crate) async fn change(
    target: &Target,
    format: Format,
    change: Change,
    which: &str,
) -> Result<Answer, Failure> {
    #[derive(Serialize)]
    struct Changed<'a> {
        trust: &'a Trust,
    }

    let database = Database::open(target, IfMissing::Fail).await?;
    let registry = database.registry();
    let which = TrustRef::from(which);
    let changed = match change {
        Change::Disable => registry.disable(&which).await,
        Change::Enable => registry.enable(&which).await,
        Change::Delete => registry.delete(&which).await,
    };
    drop(registry);
    if changed.is_ok() {
        database.warn_if_unheard();
    }
    database.close().await;

    let trust = changed?;
    let done = match change {
        Change::Disable => "Disabled",
        Change::Enable => "Enabled",
        Change::Delete => "Deleted",
    };
    Ok(Answer::new(format, &Changed { trust: &trust }, || format!("{done} {}.", named(&trust))))
}
