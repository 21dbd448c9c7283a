//! `register` and `rotate`: the two commands that make a key. Only their answers show it.
//!
//! `register` also brings in a key that exists, which no answer shows.

use std::io::{self, IsTerminal};
use std::path::Path;

use trust_auth::{
    ApiKey, KeyFlaw, KeyHash, KeyHasher, KeyPrefix, KeyTerms, NewKey, RegistryError, Trust,
    TrustRegistry,
};
use zeroize::Zeroizing;

use crate::args::{ExistingKeyArgs, RegisterArgs};
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::TrustJson;
use crate::key_terms::key_terms;
use crate::new_trust::new_trust;
use crate::pepper::NO_SHA256;
use crate::presented_key::PresentedKey;
use crate::revocation_end::{Concern, RevocationEnd};
use crate::store::Store;
use crate::trust_text::{moment, named};

/// Registers a trust. Checks the arguments before it opens the database, so a refusal writes
/// nothing.
pub(crate) async fn register(
    database: &DatabaseArgs,
    format: Format,
    args: RegisterArgs,
) -> Result<CommandAnswer, CommandError> {
    let mut new = new_trust(args.name, args.code, args.region)?;
    if let Some(attributes) = args.attributes {
        new = new.with_attributes(attributes);
    }
    let terms = key_terms(args.terms.label, args.terms.expires);
    let (prefix, hasher) = (args.keys.prefix.key_prefix, args.keys.pepper.hasher()?);
    let existing = ExistingKey::of(args.existing, &prefix, &hasher)?;
    let database = Database::open(database, IfMissing::Create).await?;
    let registry = database.registry().with_key_prefix(prefix).with_key_hasher(hasher);
    let registered = async {
        Ok::<_, RegistryError>(match existing {
            None => {
                let (trust, key) = registry.register_with(new, &terms).await?;
                (trust, Some(key))
            }
            Some(existing) => {
                let key = existing.row(&registry, terms).await?;
                (registry.import(new, key).await?, None)
            }
        })
    };
    let registered = registered.await;
    database.close().await;
    Ok(match registered? {
        (trust, Some(key)) => issued(format, "Registered", &trust, &key, None, None, None),
        (trust, None) => CommandAnswer::new(format, &TrustJson::new(&trust), || {
            format!("Registered {} with the key that it has.", named(&trust))
        }),
    })
}

/// A key that exists already.
pub(crate) enum ExistingKey {
    Text(Zeroizing<String>),
    Digest(KeyHash),
}

impl ExistingKey {
    /// Reads the key that the arguments name, if they name one, and checks it.
    pub(crate) fn of(
        args: ExistingKeyArgs,
        prefix: &KeyPrefix,
        hasher: &KeyHasher,
    ) -> Result<Option<Self>, CommandError> {
        Ok(match (args.key_sha256, args.key_file) {
            (None, None) => None,
            (Some(_), _) if !hasher.accepts_unpeppered() => {
                let why = format!("--key-sha256: {NO_SHA256}");
                return Err(CommandError::wrong_usage("pepper", why));
            }
            (Some(digest), _) => Some(Self::Digest(digest.hash().map_err(|what| {
                CommandError::new("invalid_key", format!("--key-sha256 {what}"))
            })?)),
            (None, Some(file)) => Some(Self::Text(key_of_file(&file, prefix)?)),
        })
    }

    /// Returns what the database stores of the key.
    pub(crate) async fn row(
        &self,
        registry: &TrustRegistry<Store>,
        terms: KeyTerms,
    ) -> Result<NewKey, RegistryError> {
        match self {
            Self::Text(key) => registry.existing(key, &terms).await,
            Self::Digest(hash) => {
                let mut key = NewKey::new(*hash);
                key.terms = terms;
                Ok(key)
            }
        }
    }
}

/// Returns the key in a file, or on standard input if the path is `-`, and checks it.
fn key_of_file(path: &Path, prefix: &KeyPrefix) -> Result<Zeroizing<String>, CommandError> {
    let read =
        if path == Path::new("-") { PresentedKey::read()? } else { PresentedKey::read_file(path)? };
    match read {
        PresentedKey::Text(key) => {
            KeyFlaw::check(&key, prefix)?;
            Ok(key)
        }
        PresentedKey::TooLong => Err(KeyFlaw::Unsendable.into()),
        PresentedKey::NotUtf8 => Err(CommandError::new(
            "invalid_key",
            "the API key is not UTF-8 text; give the key alone",
        )),
    }
}

/// Returns the answer that shows a new key. `overlapping` is its digest after a rotation that gave
/// the old keys an end. `end` is that of a rotation that had to wait, and `failure` is why the wait
/// failed.
pub(crate) fn issued(
    format: Format,
    done: &str,
    trust: &Trust,
    key: &ApiKey,
    overlapping: Option<KeyHash>,
    end: Option<&RevocationEnd>,
    failure: Option<&CommandError>,
) -> CommandAnswer {
    let name = named(trust);
    let lost =
        format!("{done} {name}, but its key was not shown: run `trust-auth rotate {}`", trust.id);
    let json = TrustJson::new(trust)
        .with_key(Some(key))
        .with_revocation(end)
        .with_error(failure.map(|error| (error.kind(), error.message())));
    let answer = CommandAnswer::new(format, &json, || key.expose().to_owned()).if_lost(lost);
    let answer = match format {
        Format::Json => answer,
        Format::Human => {
            let place = if io::stdout().is_terminal() {
                "The line above is its key"
            } else {
                "Its key was written to standard output"
            };
            let former = match (overlapping, end, failure) {
                (Some(new), end, None) => format!(" {}", overlap_text(trust, new, end)),
                (None, Some(end), None) => {
                    format!(" {}", end.sentence(Concern::Key("The old key")))
                }
                _ => String::new(),
            };
            answer.remark(format!(
                "{done} {name}. {place}. Keep the key now: it is stored nowhere and cannot be \
                 shown again.{former}"
            ))
        }
    };
    match failure {
        Some(error) => answer.failed(error.message()),
        None => answer,
    }
}

/// Returns until when the old keys are accepted: all but the new one, whose digest this is.
fn overlap_text(trust: &Trust, new: KeyHash, end: Option<&RevocationEnd>) -> String {
    let old = trust.keys.iter().filter(|key| key.hash != new);
    let until = match old.filter_map(|key| key.expires_at).max() {
        Some(until) => format!("The old keys are accepted until {}.", moment(until)),
        None => "There was no old key.".to_owned(),
    };
    match end {
        Some(end) if !end.is_everywhere() => format!(
            "{until} A process with a read lease may not know that, for the length of the lease \
             at most."
        ),
        _ => until,
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use trust_auth::TrustKey;
    use uuid::Uuid;

    use super::*;

    /// A store may list the new key before or after the old ones.
    #[test]
    fn the_end_of_the_old_keys_is_not_that_of_the_new_one() {
        let end = |second| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second);
        let key = |id, text, ends| {
            let mut key = TrustKey::new(Uuid::from_u128(id), Uuid::nil(), KeyHash::of(text));
            key.expires_at = ends;
            key
        };
        let rows = [
            key(1, "old", Some(end(1))),
            key(2, "older", Some(end(2))),
            key(3, "new", Some(end(9))),
        ];
        for turn in 0..3 {
            let mut trust = Trust::new(Uuid::nil(), "St. Mary");
            trust.keys.extend(rows.clone());
            trust.keys.rotate_left(turn);
            let text = overlap_text(&trust, KeyHash::of("new"), None);
            assert_eq!(text, "The old keys are accepted until 1970-01-01T00:00:02Z.");
        }
        let mut trust = Trust::new(Uuid::nil(), "St. Mary");
        trust.keys.push(rows[2].clone());
        assert_eq!(overlap_text(&trust, KeyHash::of("new"), None), "There was no old key.");
        let held = overlap_text(&trust, KeyHash::of("new"), Some(&RevocationEnd::COMMITTED));
        assert!(held.contains("may not know that"), "{held}");
    }
}
