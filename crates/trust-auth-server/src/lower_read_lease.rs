//! `lower-read-lease`: lowers how long a change may have to wait for processes with a read lease.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use trust_auth::StoreError;

use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::serve::settings_check::{LEAST_LEASE, LONGEST_LEASE};
use crate::wait_progress;

/// The longest read lease from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongestLease {
    Off,
    Of(Duration),
}

impl FromStr for LongestLease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        match humantime::parse_duration(text) {
            Ok(length) if (LEAST_LEASE..=LONGEST_LEASE).contains(&length) => Ok(Self::Of(length)),
            _ => Err("give a duration from 300ms to 5m, or `off`".to_owned()),
        }
    }
}

pub(crate) async fn lower(
    database: &DatabaseArgs,
    format: Format,
    longest: LongestLease,
) -> Result<CommandAnswer, CommandError> {
    #[derive(Serialize)]
    struct LoweredJson {
        longest_read_lease: String,
    }

    let database = Database::open(database, IfMissing::Fail).await?;
    let waits = "Waiting until no process has a longer read lease";
    let store = database.store();
    let lowered = tokio::select! {
        lowered = store.lower_longest_lease(longest) => lowered,
        never = wait_progress::show(format, waits) => match never {},
    };
    database.close().await;
    if let Err(StoreError::Unsettled) = lowered {
        return Err(CommandError::new(
            StoreError::Unsettled.kind(),
            "the database has started or failed over meanwhile, and a lease of its former run may \
             still be in force: run the same command again",
        ));
    }
    lowered?;
    let (longest_read_lease, text) = match longest {
        LongestLease::Off => ("off".to_owned(), "No process has a read lease.".to_owned()),
        LongestLease::Of(length) => {
            let length = humantime::format_duration(length).to_string();
            let text = format!("No process has a read lease of more than {length}.");
            (length, text)
        }
    };
    Ok(CommandAnswer::new(format, &LoweredJson { longest_read_lease }, || text))
}
