//! `key add`, `key list` and `key revoke`: the keys of a trust, each in a row of its own.

use std::io::{self, IsTerminal};

use trust_auth::{ApiKey, RegistryError, Trust, TrustKey, TrustRef};
use uuid::Uuid;

use crate::args::{KeyAddArgs, KeyRevokeArgs};
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::issue_key::ExistingKey;
use crate::json::{KeyJson, KeysJson};
use crate::key_terms::key_terms;
use crate::keys_text;
use crate::revocation_step::RevocationStep;
use crate::trust_text::moment;

/// Gives a trust one more key.
pub(crate) async fn add(
    database: &DatabaseArgs,
    format: Format,
    args: KeyAddArgs,
) -> Result<CommandAnswer, CommandError> {
    let terms = key_terms(args.terms.label, args.terms.expires);
    let (prefix, hasher) = (args.keys.prefix.key_prefix, args.keys.pepper.hasher()?);
    let existing = ExistingKey::of(args.existing, &prefix, &hasher)?;
    let which = TrustRef::from(&*args.trust.trust);
    let database = Database::open(database, IfMissing::Fail).await?;
    let registry = database.registry().with_key_prefix(prefix).with_key_hasher(hasher);
    let added = async {
        Ok::<_, RegistryError>(match existing {
            None => {
                let (row, key) = registry.add_key(&which, &terms).await?;
                (row, Some(key))
            }
            Some(existing) => {
                let key = existing.row(&registry, terms).await?;
                (registry.import_one_more(&which, key).await?, None)
            }
        })
    };
    let added = added.await;
    database.close().await;
    let (row, key) = added?;
    Ok(answer(format, &row, key.as_ref()))
}

/// Returns the answer that shows a new key.
fn answer(format: Format, row: &TrustKey, key: Option<&ApiKey>) -> CommandAnswer {
    let json = KeyJson::new(row).with_key(key);
    let end = row.expires_at.map_or(String::new(), |end| format!(", until {}", moment(end)));
    let added = format!("Added the key {}{end}", row.id);
    let Some(key) = key else {
        return CommandAnswer::new(format, &json, || format!("{added}."));
    };
    let answer = CommandAnswer::new(format, &json, || key.expose().to_owned()).if_lost(format!(
        "{added}, but it was not shown: run `trust-auth key revoke {}`, and add another",
        row.id
    ));
    match format {
        Format::Json => answer,
        Format::Human => {
            let place = if io::stdout().is_terminal() {
                "The line above is the key"
            } else {
                "The key was written to standard output"
            };
            answer.remark(format!(
                "{added}. {place}. Keep it now: it is stored nowhere and cannot be shown again."
            ))
        }
    }
}

/// Lists the keys of a trust.
pub(crate) async fn list(
    database: &DatabaseArgs,
    format: Format,
    which: &str,
) -> Result<CommandAnswer, CommandError> {
    let which = TrustRef::from(which);
    let database = Database::open(database, IfMissing::Fail).await?;
    let registry = database.registry();
    let listed = async {
        let keys = registry.keys(&which).await?;
        Ok::<_, RegistryError>((registry.list().await?, keys))
    };
    let listed = listed.await;
    database.close().await;
    let (trusts, keys) = listed?;
    let has_own_key =
        which.find_in(&trusts).is_some_and(|trust: &Trust| trust.api_key_hash.is_some());
    let json = KeysJson { has_key_in_trust: has_own_key, keys: &keys };
    Ok(CommandAnswer::new(format, &json, || {
        keys_text::table(&keys, has_own_key, io::stdout().is_terminal())
    }))
}

/// Revokes one key.
pub(crate) async fn revoke(
    database: &DatabaseArgs,
    format: Format,
    args: KeyRevokeArgs,
) -> Result<CommandAnswer, CommandError> {
    let Ok(key) = Uuid::try_parse(&args.key) else {
        // The text may be the key itself.
        return Err(CommandError::wrong_usage(
            "key_id",
            "KEY_ID must be the id of a key, a UUID, and not the key; `key list` shows it",
        ));
    };
    let step = RevocationStep::RevokeKey(key);
    crate::revoke::revoke(database, format, step, &key.into(), &args.wait, None).await
}
