//! `register` and `rotate`: the two commands that make a key. Only their answers show it.

use std::io::{self, IsTerminal};

use trust_auth::{ApiKey, Trust};

use crate::args::RegisterArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::json::TrustJson;
use crate::new_trust::new_trust;
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
    let database = Database::open(database, IfMissing::Create).await?;
    let registered = database.registry().register(new).await;
    database.close().await;
    let (trust, key) = registered?;
    Ok(issued(format, "Registered", &trust, &key, None, None))
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
