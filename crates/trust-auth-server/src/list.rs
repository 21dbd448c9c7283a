//! `list`: every trust, by name, and on standard error the rows that cannot be read. No key is
//! known, and no hash is shown.

use std::io::{self, IsTerminal};

use crate::answer::{Answer, Format};
use crate::database::{Database, IfMissing, Target};
use crate::failure::Failure;
use crate::trust_text;

pub(crate) async fn list(target: &Target, format: Format) -> Result<Answer, Failure> {
    let database = Database::open(target, IfMissing::Fail).await?;
    let listed = database.registry().listing().await;
    database.close().await;
    let listing = listed?;
    let text = || trust_text::table(&listing.trusts, io::stdout().is_terminal());
    let answer = Answer::new(format, &listing, text);
    if listing.malformed.is_empty() {
        return Ok(answer);
    }
    let remarks: Vec<String> = listing.malformed.iter().map(trust_text::malformed).collect();
    Ok(answer.remark(remarks.join("\n")))
}
