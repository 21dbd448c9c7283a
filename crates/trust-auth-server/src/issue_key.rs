//! `register` and `rotate`: the two commands that make a key. Only their answers show it.

use std::io::{self, IsTerminal};

use trust_auth::{ApiKey, Trust, TrustRef};

use crate::args::RegisterArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::IssuedKeyJson;
use crate::new_trust::new_trust;
use crate::trust_text::named;

/// Registers a trust. Checks the arguments before it opens the database, so a refusal writes
/// nothing.
pub(crate) async fn register(
    database: &DatabaseArgs,
    format: Format,
    args: RegisterArgs,
) -> Result<CommandAnswer, CommandError> {
    let new = new_trust(args.name, args.code, args.region)?;
    let database = Database::open(database, IfMissing::Create).await?;
    let registered = database.registry().register(new).await;
    database.close().await;
    let (trust, key) = registered?;
    Ok(issued(format, "Registered", &trust, &key))
}

/// Replaces the key of a trust.
pub(crate) async fn rotate(
    database: &DatabaseArgs,
    format: Format,
    which: &str,
) -> Result<CommandAnswer, CommandError> {
    let database = Database::open(database, IfMissing::Fail).await?;
    let rotated = database.registry().rotate(&TrustRef::from(which)).await;
    if rotated.is_ok() {
        database.warn_if_servers_are_not_notified();
    }
    database.close().await;
    let (trust, key) = rotated?;
    Ok(issued(format, "Rotated the key of", &trust, &key))
}

fn issued(format: Format, done: &str, trust: &Trust, key: &ApiKey) -> CommandAnswer {
    let name = named(trust);
    let lost =
        format!("{done} {name}, but its key was not shown: run `trust-auth rotate {}`", trust.id);
    let json = IssuedKeyJson::new(trust, key);
    let answer = CommandAnswer::new(format, &json, || key.expose().to_owned()).if_lost(lost);
    match format {
        Format::Json => answer,
        Format::Human => {
            let place = if io::stdout().is_terminal() {
                "The line above is its key"
            } else {
                "Its key was written to standard output"
            };
            answer.remark(format!(
                "{done} {name}. {place}. Keep the key now: it is stored nowhere and cannot be \
                 shown again."
            ))
        }
    }
}
