//! `list`: every trust, by name. No key is known, and no hash is shown.

use std::io::{self, IsTerminal};

use serde::Serialize;
use trust_auth::Trust;

use crate::answer::{Answer, Format};
use crate::database::{Database, IfMissing, Target};
use crate::failure::Failure;
use crate::trust_text;

pub(crate) async fn list(target: &Target, format: Format) -> Result<Answer, Failure> {
    #[derive(Serialize)]
    struct Listed<'a> {
        trusts: &'a [Trust],
    }

    let database = Database::open(target, IfMissing::Fail).await?;
    let listed = database.registry().list().await;
    database.close().await;
    let trusts = listed?;
    let text = || trust_text::table(&trusts, io::stdout().is_terminal());
    Ok(Answer::new(format, &Listed { trusts: &trusts }, text))
}
