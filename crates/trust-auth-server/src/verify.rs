//! `verify`: the whole way of an authentication, for one key from standard input.
//!
//! A refusal is an answer, so its reason goes to standard output. The key goes nowhere.

use std::sync::Arc;

use serde::Serialize;
use trust_auth::{AuthError, Authenticator, Trust};
use trust_key_cache::TrustKeyCache;

use crate::answer::{Answer, Format};
use crate::database::{Database, IfMissing, Target};
use crate::failure::{Failure, with_causes};
use crate::presented_key::{MAX_BYTES, PresentedKey};
use crate::trust_text::described;

pub(crate) async fn verify(target: &Target, format: Format) -> Result<Answer, Failure> {
    // The database first: nobody should type a key only to learn that there is no database.
    let database = match Database::open(target, IfMissing::Fail).await {
        Ok(database) => database,
        Err(failure) => return Ok(refused(format, "unavailable", failure.message())),
    };
    let verified = match PresentedKey::read() {
        Ok(key) => Ok(check(&database, key).await),
        Err(failure) => Err(failure),
    };
    database.close().await;

    Ok(match verified? {
        Verdict::Granted(trust) => granted(format, &trust),
        Verdict::Refused { reason, message } => refused(format, reason, &message),
    })
}

enum Verdict {
    Granted(Box<Trust>),
    Refused { reason: &'static str, message: String },
}

async fn check(database: &Database, key: PresentedKey) -> Verdict {
    let invalid = |message: String| Verdict::Refused { reason: "invalid", message };
    let key = match key {
        PresentedKey::Text(key) => key,
        PresentedKey::TooLong => {
            return invalid(format!("The key is longer than {MAX_BYTES} bytes."));
        }
        PresentedKey::NotUtf8 => return invalid("The key is not UTF-8 text.".to_owned()),
    };
    let authenticator = Authenticator::new(database.store(), Arc::new(TrustKeyCache::new()));
    match authenticator.authenticate(Some(&key)).await {
        Ok(trust) => Verdict::Granted(Box::new(trust)),
        // The answer to a request says nothing of the store. This one is for whoever looks after
        // it.
        Err(AuthError::Unavailable(error)) => {
            Verdict::Refused { reason: "unavailable", message: with_causes(&error) }
        }
        Err(error) => Verdict::Refused { reason: error.kind(), message: error.detail().to_owned() },
    }
}

fn granted(format: Format, trust: &Trust) -> Answer {
    #[derive(Serialize)]
    struct Granted<'a> {
        authenticated: bool,
        trust: &'a Trust,
    }
    Answer::new(format, &Granted { authenticated: true, trust }, || {
        format!("Granted: {}.", described(trust))
    })
}

fn refused(format: Format, reason: &'static str, message: &str) -> Answer {
    #[derive(Serialize)]
    struct Refused<'a> {
        authenticated: bool,
        reason: &'static str,
        message: &'a str,
    }
    let json = Refused { authenticated: false, reason, message };
    Answer::new(format, &json, || format!("Refused ({reason}): {message}")).refused()
}
