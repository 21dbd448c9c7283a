//! `set-attributes`: replaces the attributes of a trust, or removes them.

use std::io::{self, Read};

use serde_json::Value;
use trust_auth::TrustRef;

use crate::args::{AttributesArg, AttributesArgs, attributes};
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::DatabaseArgs;
use crate::revocation_step::RevocationStep;
use crate::revoke::revoke;

/// The longest text that is read. The attributes of a grant are far shorter.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads the attributes before it opens the database, so a refusal writes nothing.
pub(crate) async fn set(
    database: &DatabaseArgs,
    format: Format,
    args: AttributesArgs,
) -> Result<CommandAnswer, CommandError> {
    let attributes = match args.attributes {
        Some(AttributesArg::Given(attributes)) => Some(attributes),
        Some(AttributesArg::StandardInput) => Some(read()?),
        None => None,
    };
    let (step, which) =
        (RevocationStep::SetAttributes(attributes), TrustRef::from(&*args.trust.trust));
    revoke(database, format, step, &which, &args.wait, None).await
}

/// Reads the attributes from standard input.
fn read() -> Result<Value, CommandError> {
    let mut text = String::new();
    io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text).map_err(|error| {
        let message = format!("cannot read the attributes from standard input: {error}");
        CommandError::new("input", message)
    })?;
    attributes(&text).map_err(|why| {
        CommandError::wrong_usage("attributes", format!("the attributes on standard input: {why}"))
    })
}
