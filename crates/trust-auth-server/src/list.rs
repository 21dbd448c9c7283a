//! `list`: the trusts sorted by name, and on standard error the rows that cannot be read. With
//! `--expiring`, the keys that have ended are there, too. It shows no key and no digest.

use std::io::{self, IsTerminal};
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use trust_auth::{Listing, RegistryError, StoreError, Trust, TrustKey, TrustRegistry};

use crate::args::ListArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::keys_text;
use crate::lifetime::Lifetime;
use crate::store::Store;
use crate::trust_text::{self, next_end};

pub(crate) async fn list(
    database: &DatabaseArgs,
    format: Format,
    args: ListArgs,
) -> Result<CommandAnswer, CommandError> {
    #[derive(Serialize)]
    struct Listed {
        #[serde(flatten)]
        listing: Listing,
        /// The keys that have ended within the time of `--expiring`, and were not revoked.
        #[serde(skip_serializing_if = "Option::is_none")]
        ended: Option<Vec<TrustKey>>,
    }

    let database = Database::open(database, IfMissing::Fail).await?;
    let read = async {
        let ended = match args.expiring {
            Some(Lifetime(within)) => Some(database.store().ended_keys(within).await?),
            None => None,
        };
        let listing = database.registry().listing().await?;
        let mut remarks: Vec<String> =
            listing.malformed.iter().map(trust_text::malformed).collect();
        if format == Format::Human {
            let ended = ended.iter().flatten();
            remarks.extend(ended.map(|key| keys_text::ended(key, &listing.trusts)));
        }
        let listing = noticed(&database.registry(), listing, args.expiring).await?;
        Ok::<_, RegistryError>((Listed { listing, ended }, remarks))
    };
    let read = read.await;
    database.close().await;
    let (listed, remarks) = read?;
    let listing = &listed.listing;
    let within = args.expiring.map(|Lifetime(within)| humantime::format_duration(within));
    let text = || match &within {
        Some(within) if listing.trusts.is_empty() => format!("No key ends within {within}."),
        _ => trust_text::table(&listing.trusts, io::stdout().is_terminal()),
    };
    let mut answer = CommandAnswer::new(format, &listed, text);
    if !remarks.is_empty() {
        answer = answer.remark(remarks.join("\n"));
    }
    Ok(match within {
        Some(within) if !listing.trusts.is_empty() => answer.failed(&format!(
            "{} of the trusts have a key that ends within {within}, or only keys that have ended: \
             add a key, or rotate with an overlap",
            listing.trusts.len(),
        )),
        _ => answer,
    })
}

/// Returns all trusts, or those that a monitor must notice.
async fn noticed(
    registry: &TrustRegistry<Store>,
    mut listing: Listing,
    expiring: Option<Lifetime>,
) -> Result<Listing, RegistryError> {
    let Some(Lifetime(within)) = expiring else { return Ok(listing) };
    let mut noticed = Vec::new();
    for trust in listing.trusts {
        if ends_within(&trust, within) || has_ended(registry, &trust).await? {
            noticed.push(trust);
        }
    }
    listing.trusts = noticed;
    Ok(listing)
}

fn ends_within(trust: &Trust, within: Duration) -> bool {
    next_end(trust).is_some_and(|end| end - OffsetDateTime::now_utc() <= within)
}

/// Returns whether the trust has no key, although one that was not revoked has ended. A monitor
/// that was not heeded in time must not report that all is well.
async fn has_ended(registry: &TrustRegistry<Store>, trust: &Trust) -> Result<bool, RegistryError> {
    if !trust.is_enabled() || trust.hashes().next().is_some() {
        return Ok(false);
    }
    match registry.keys(&trust.id.into()).await {
        Ok(keys) => Ok(keys.iter().any(|key| key.revoked_at.is_none())),
        // It was deleted meanwhile.
        Err(RegistryError::Store(StoreError::NoSuchTrust { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}
