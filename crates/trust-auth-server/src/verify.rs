//! `verify`: authenticates one key from standard input, as a server does.
//!
//! A refusal is an answer, so its reason is written to standard output. The key is written nowhere.

use std::sync::Arc;

use serde::Serialize;
use trust_auth::{AuthError, Authenticator, KeyForm, KeyHasher, KeyPrefix, Trust};
use trust_key_cache::TrustKeyCache;

use crate::args::KeyArgs;
use crate::causes::with_causes;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::presented_key::{MAX_BYTES, PresentedKey};
use crate::trust_text::described;

pub(crate) async fn verify(
    database: &DatabaseArgs,
    format: Format,
    keys: KeyArgs,
) -> Result<CommandAnswer, CommandError> {
    let (prefix, hasher) = (keys.prefix.key_prefix, keys.pepper.hasher()?);
    // The database first, so that a person types a key only if there is a database.
    let database = match Database::open(database, IfMissing::Fail).await {
        Ok(database) => database,
        Err(error) => return Ok(refused(format, "unavailable", error.message())),
    };
    let checked = match PresentedKey::read() {
        Ok(key) => Ok(check(&database, prefix, hasher, key).await),
        Err(error) => Err(error),
    };
    database.close().await;

    Ok(match checked? {
        KeyCheck::Granted(trust) => granted(format, &trust),
        KeyCheck::Refused { reason, message } => refused(format, reason, &message),
    })
}

/// The result for one key.
enum KeyCheck {
    Granted(Box<Trust>),
    Refused { reason: &'static str, message: String },
}

async fn check(
    database: &Database,
    prefix: KeyPrefix,
    hasher: KeyHasher,
    key: PresentedKey,
) -> KeyCheck {
    let invalid = |message: String| KeyCheck::Refused { reason: "invalid", message };
    let key = match key {
        PresentedKey::Text(key) => key,
        PresentedKey::TooLong => {
            return invalid(format!("The key is longer than {MAX_BYTES} bytes."));
        }
        PresentedKey::NotUtf8 => return invalid("The key is not UTF-8 text.".to_owned()),
    };
    let is_damaged = prefix.form_of(&key) == KeyForm::Damaged;
    let authenticator = Authenticator::builder(database.store(), Arc::new(TrustKeyCache::new()))
        .key_prefix(prefix)
        .key_hasher(hasher)
        .build();
    match authenticator.authenticate(Some(&key)).await {
        Ok(trust) => KeyCheck::Granted(Box::new(trust)),
        // The answer to an HTTP request has no detail of the key or the store. This answer is for
        // the operator.
        Err(AuthError::Unavailable(error)) => {
            KeyCheck::Refused { reason: "unavailable", message: with_causes(&error) }
        }
        Err(AuthError::Invalid) if is_damaged => {
            invalid("The key is damaged: its checksum is wrong. Copy it again.".to_owned())
        }
        Err(error) => {
            KeyCheck::Refused { reason: error.kind(), message: error.detail().to_owned() }
        }
    }
}

fn granted(format: Format, trust: &Trust) -> CommandAnswer {
    #[derive(Serialize)]
    struct GrantedJson<'a> {
        authenticated: bool,
        trust: &'a Trust,
    }
    CommandAnswer::new(format, &GrantedJson { authenticated: true, trust }, || {
        format!("Granted: {}.", described(trust))
    })
}

fn refused(format: Format, reason: &'static str, message: &str) -> CommandAnswer {
    #[derive(Serialize)]
    struct RefusedJson<'a> {
        authenticated: bool,
        reason: &'static str,
        message: &'a str,
    }
    let json = RefusedJson { authenticated: false, reason, message };
    CommandAnswer::new(format, &json, || format!("Refused ({reason}): {message}")).refused()
}
