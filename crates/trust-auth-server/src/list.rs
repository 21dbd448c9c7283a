//! `list`: the trusts sorted by name, and on standard error the rows that cannot be read. It shows
//! no key and no digest.

use std::io::{self, IsTerminal};

use time::OffsetDateTime;

use crate::args::ListArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::lifetime::Lifetime;
use crate::trust_text::{self, next_end};

pub(crate) async fn list(
    database: &DatabaseArgs,
    format: Format,
    args: ListArgs,
) -> Result<CommandAnswer, CommandError> {
    let database = Database::open(database, IfMissing::Fail).await?;
    let listed = database.registry().listing().await;
    database.close().await;
    let mut listing = listed?;
    if let Some(Lifetime(within)) = args.expiring {
        let now = OffsetDateTime::now_utc();
        listing.trusts.retain(|trust| next_end(trust).is_some_and(|end| end - now <= within));
    }
    let text = || trust_text::table(&listing.trusts, io::stdout().is_terminal());
    let mut answer = CommandAnswer::new(format, &listing, text);
    if !listing.malformed.is_empty() {
        let remarks: Vec<String> = listing.malformed.iter().map(trust_text::malformed).collect();
        answer = answer.remark(remarks.join("\n"));
    }
    Ok(match args.expiring {
        Some(Lifetime(within)) if !listing.trusts.is_empty() => answer.failed(&format!(
            "{} of the trusts have a key that ends within {}: add a key, or rotate with an overlap",
            listing.trusts.len(),
            humantime::format_duration(within)
        )),
        _ => answer,
    })
}
