//! `register` and `rotate`: the two commands that make a key, and the only moments at which it can
//! be read.

use serde::Serialize;
use trust_auth::{ApiKey, NewTrust, Trust, TrustRef};

use crate::answer::{Answer, Format};
use crate::args::Register;
use crate::database::{Database, IfMissing, Target};
use crate::failure::Failure;
use crate::trust_text::named;

/// Registers a trust. What was asked for is checked before the database is touched: a refusal
/// writes nothing.
pub(crate) async fn register(
    target: &Target,
    format: Format,
    asked: Register,
) -> Result<Answer, Failure> {
    let mut new = NewTrust::new(asked.name)?;
    if let Some(code) = asked.code {
        new = new.with_code(code);
    }
    if let Some(region) = asked.region {
        new = new.with_region(region);
    }

    let database = Database::open(target, IfMissing::Create).await?;
    let registered = database.registry().register(new).await;
    database.close().await;
    let (trust, key) = registered?;
    Ok(issued(format, "Registered", &trust, &key))
}

/// Replaces a trust's key.
pub(crate) async fn rotate(
    target: &Target,
    format: Format,
    which: &str,
) -> Result<Answer, Failure> {
    let database = Database::open(target, IfMissing::Fail).await?;
    let rotated = database.registry().rotate(&TrustRef::from(which)).await;
    if rotated.is_ok() {
        database.warn_if_unheard();
    }
    database.close().await;
    let (trust, key) = rotated?;
    Ok(issued(format, "Rotated the key of", &trust, &key))
}

fn issued(format: Format, done: &str, trust: &Trust, key: &ApiKey) -> Answer {
    #[derive(Serialize)]
    struct Issued<'a> {
        trust: &'a Trust,
        api_key: &'a str,
    }
    let lost = format!(
        "{done} {}, but its key was not shown: run `trust-auth rotate {}`",
        named(trust),
        trust.id
    );
    let answer =
        Answer::new(format, &Issued { trust, api_key: key.expose() }, || key.expose().to_owned());
    let answer = answer.if_lost(lost);
    match format {
        Format::Json => answer,
        Format::Human => answer.remark(format!(
            "{done} {}. Above is its key: keep it now, it is stored nowhere and cannot be shown again.",
            named(trust)
        )),
    }
}
