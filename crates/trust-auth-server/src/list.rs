//! `list`: the trusts sorted by name, and on standard error the rows that cannot be read. It shows
//! no key and no digest.

use std::io::{self, IsTerminal};

use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::trust_text;

pub(crate) async fn list(
    database: &DatabaseArgs,
    format: Format,
) -> Result<CommandAnswer, CommandError> {
    let database = Database::open(database, IfMissing::Fail).await?;
    let listed = database.registry().listing().await;
    database.close().await;
    let listing = listed?;
    let text = || trust_text::table(&listing.trusts, io::stdout().is_terminal());
    let answer = CommandAnswer::new(format, &listing, text);
    if listing.malformed.is_empty() {
        return Ok(answer);
    }
    let remarks: Vec<String> = listing.malformed.iter().map(trust_text::malformed).collect();
    Ok(answer.remark(remarks.join("\n")))
}
