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
    Ok(issued(format, "Registered", &trust, &key, None))
}

/// Returns the answer that shows a new key. `end` is that of a rotation that had to wait.
pub(crate) fn issued(
    format: Format,
    done: &str,
    trust: &Trust,
    key: &ApiKey,
    end: Option<&RevocationEnd>,
) -> CommandAnswer {
    let name = named(trust);
    let lost =
        format!("{done} {name}, but its key was not shown: run `trust-auth rotate {}`", trust.id);
    let json = TrustJson::new(trust).with_key(Some(key)).with_revocation(end);
    let answer = CommandAnswer::new(format, &json, || key.expose().to_owned()).if_lost(lost);
    match format {
        Format::Json => answer,
        Format::Human => {
            let place = if io::stdout().is_terminal() {
                "The line above is its key"
            } else {
                "Its key was written to standard output"
            };
            let former =
                end.map_or_else(String::new, |end| format!(" {}", end.sentence("The old key")));
            answer.remark(format!(
                "{done} {name}. {place}. Keep the key now: it is stored nowhere and cannot be \
                 shown again.{former}"
            ))
        }
    }
}
