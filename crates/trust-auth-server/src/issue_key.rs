//! `register` and `rotate`: the two commands that make a key. Only their answers show it.
//!
//! `register` also brings in a key that exists, which no answer shows.

use std::io::{self, IsTerminal};
use std::path::Path;

use trust_auth::{ApiKey, KeyFlaw, KeyHash, KeyPrefix, Trust};
use zeroize::Zeroizing;

use crate::args::RegisterArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::TrustJson;
use crate::new_trust::new_trust;
use crate::pepper::NO_SHA256;
use crate::presented_key::PresentedKey;
use crate::revocation_end::RevocationEnd;
use crate::trust_text::named;

/// Registers a trust. Checks the arguments before it opens the database, so a refusal writes
/// nothing.
pub(crate) async fn register(
    database: &DatabaseArgs,
    format: Format,
    args: RegisterArgs,
) -> Result<CommandAnswer, CommandError> {
    let new = new_trust(args.name, args.code, args.region)?;
    let (prefix, hasher) = (args.keys.prefix.key_prefix, args.keys.pepper.hasher()?);
    let existing = match (args.key_sha256, args.key_file) {
        (None, None) => None,
        (Some(_), _) if !hasher.accepts_unpeppered() => {
            return Err(CommandError::wrong_usage("pepper", format!("--key-sha256: {NO_SHA256}")));
        }
        (Some(digest), _) => {
            Some(ExistingKey::Digest(digest.hash().map_err(|what| {
                CommandError::new("invalid_key", format!("--key-sha256 {what}"))
            })?))
        }
        (None, Some(file)) => Some(ExistingKey::Text(key_of_file(&file, &prefix)?)),
    };
    let database = Database::open(database, IfMissing::Create).await?;
    let registry = database.registry().with_key_prefix(prefix).with_key_hasher(hasher);
    let registered = match existing {
        None => registry.register(new).await.map(|(trust, key)| (trust, Some(key))),
        Some(ExistingKey::Digest(hash)) => {
            registry.import_hash(new, hash).await.map(|trust| (trust, None))
        }
        Some(ExistingKey::Text(key)) => {
            registry.import_key(new, &key).await.map(|trust| (trust, None))
        }
    };
    database.close().await;
    Ok(match registered? {
        (trust, Some(key)) => issued(format, "Registered", &trust, &key, None, None),
        (trust, None) => CommandAnswer::new(format, &TrustJson::new(&trust), || {
            format!("Registered {} with the key that it has.", named(&trust))
        }),
    })
}

/// A key that a trust has already.
enum ExistingKey {
    Text(Zeroizing<String>),
    Digest(KeyHash),
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

/// Returns the answer that shows a new key. `end` is that of a rotation that had to wait, and
/// `failure` is why the wait failed.
pub(crate) fn issued(
    format: Format,
    done: &str,
    trust: &Trust,
    key: &ApiKey,
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
            let former = match (end, failure) {
                (Some(end), None) => format!(" {}", end.sentence("The old key")),
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
