//! `list`: every trust, by name. No key is known, and no hash is shown.

use std::io::{self, IsTerminal};
use std::path::Path;

use serde::Serialize;
use trust_auth::Trust;

use crate::answer::{Answer, Format};
use crate::database::{Database, IfMissing};
use crate::failure::Failure;
use crate::trust_text;

pub(crate) async fn list(url: &Path, format: Format) -> Result<Answer, Failure> {
    #[derive(Serialize)]
    struct Listed<'a> {
        trusts: &'a [Trust],
    }

    let database = Database::open(url, IfMissing::Fail).await?;
    let listed = database.registry().list().await;
    database.close().await;
    let trusts = listed?;
    let text = || trust_text::table(&trusts, io::stdout().is_terminal());
    Ok(Answer::new(format, &Listed { trusts: &trusts }, text))
}
