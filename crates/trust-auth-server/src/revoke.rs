//! `disable`, `delete`, `rotate`, `key revoke` and `set-attributes`: they commit, and then wait
//! until no process grants the key, or shows the former attributes.

use std::pin::pin;
use std::time::{Duration, Instant};

use trust_auth::{ApiKey, Awaited, Trust, TrustRef, TrustRegistry, Waiting};

use crate::args::{KeyArgs, WaitArgs};
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::{Database, DatabaseArgs, IfMissing};
use crate::failed_wait::FailedWait;
use crate::interrupt::Interrupt;
use crate::issue_key::issued;
use crate::json::TrustJson;
use crate::revocation_end::{Concern, RevocationEnd};
use crate::revocation_step::RevocationStep;
use crate::store::Store;
use crate::trust_text::named;
use crate::wait_progress;

/// A committed revocation.
struct Revoked {
    trust: Trust,
    key: Option<ApiKey>,
    /// If it had to wait.
    end: Option<RevocationEnd>,
    /// Why the wait failed. There is a new key then.
    failure: Option<CommandError>,
    was_interrupted: bool,
}

/// Revokes the key, and returns the trust as it is after the change; after `delete`, as it was. The
/// `keys` is for the new key of `rotate`.
pub(crate) async fn revoke(
    database: &DatabaseArgs,
    format: Format,
    step: RevocationStep,
    which: &TrustRef,
    wait: &WaitArgs,
    keys: Option<KeyArgs>,
) -> Result<CommandAnswer, CommandError> {
    let (prefix, hasher) = match keys {
        Some(keys) => (keys.prefix.key_prefix, keys.pepper.hasher()?),
        None => Default::default(),
    };
    // Before the commit: from here on no signal ends the process, and with it a new key.
    let mut interrupt = Interrupt::listen().map_err(|error| {
        CommandError::new("signals", format!("cannot listen for signals: {error}"))
    })?;
    let database = tokio::select! {
        opened = Database::open(database, IfMissing::Fail) => opened?,
        () = interrupt.received() => return Err(CommandError::interrupted()),
    };
    let registry = database.registry().with_key_prefix(prefix).with_key_hasher(hasher.clone());
    let outcome = revoke_by(&registry, &mut interrupt, format, &step, which, wait).await;
    if outcome.is_ok() {
        database.warn_if_servers_are_not_notified();
    }
    tokio::select! {
        () = database.close() => {}
        // The outcome is known: show it.
        () = interrupt.received() => {}
    }

    let Revoked { trust, key, end, failure, was_interrupted } = outcome?;
    let done = match step {
        RevocationStep::Disable => "Disabled",
        RevocationStep::Delete => "Deleted",
        RevocationStep::Rotate(_) => "Rotated the key of",
        RevocationStep::RevokeKey(_) => "Revoked a key of",
        RevocationStep::SetAttributes(Some(_)) => "Changed the attributes of",
        RevocationStep::SetAttributes(None) => "Removed the attributes of",
    };
    let concern = match step {
        RevocationStep::RevokeKey(_) => Concern::Key("That key"),
        RevocationStep::SetAttributes(_) => Concern::Attributes,
        _ => Concern::Key("Its key"),
    };
    let answer = match (&key, &end) {
        (Some(key), end) => {
            let overlapping = step.overlaps().then(|| hasher.hash(key.expose()));
            issued(format, done, &trust, key, overlapping, end.as_ref(), failure.as_ref())
        }
        (None, None) => CommandAnswer::new(format, &TrustJson::new(&trust), || {
            format!("{done} {}.", named(&trust))
        }),
        (None, Some(end)) => {
            let json = TrustJson::new(&trust).with_revocation(Some(end));
            CommandAnswer::new(format, &json, || {
                format!("{done} {}. {}", named(&trust), end.sentence(concern))
            })
        }
    };
    Ok(if was_interrupted { answer.interrupted() } else { answer })
}

async fn revoke_by(
    registry: &TrustRegistry<Store>,
    interrupt: &mut Interrupt,
    format: Format,
    step: &RevocationStep,
    which: &TrustRef,
    wait: &WaitArgs,
) -> Result<Revoked, CommandError> {
    // A signal does not cut this short: the commit may be sent already. The store limits its time.
    let (revocation, key) = step.begin(registry, which).await?;
    if wait.no_wait || !revocation.has_to_wait() {
        let end = revocation.has_to_wait().then_some(RevocationEnd::COMMITTED);
        let trust = revocation.without_waiting()?;
        let was_interrupted = interrupt.was_received().await;
        return Ok(Revoked { trust, key, end, failure: None, was_interrupted });
    }

    let (committed, awaited) = (revocation.trust().cloned(), revocation.awaited());
    let waits = format!("Committed. Waiting until {}", step.certainty());
    let (waiting, begun) = (waiting(wait.no_acknowledgements), Instant::now());
    let mut settling = pin!(revocation.settle(waiting));
    tokio::select! {
        settled = &mut settling => match settled {
            Ok((trust, settled)) => {
                let end = Some(RevocationEnd::new(settled, begun.elapsed()));
                Ok(Revoked { trust, key, end, failure: None, was_interrupted: false })
            }
            Err(error) => {
                let failed = FailedWait::of(step, committed.is_some(), &error);
                let error = CommandError::new(error.kind(), failed.message(step, &error));
                match (failed, committed) {
                    (FailedWait::NewKey, Some(trust)) => {
                        let (end, failure) = (Some(RevocationEnd::COMMITTED), Some(error));
                        Ok(Revoked { trust, key, end, failure, was_interrupted: false })
                    }
                    _ => Err(error),
                }
            }
        },
        () = interrupt.received() => {
            let trust = committed.ok_or_else(CommandError::interrupted)?;
            let silent = tokio::select! {
                silent = silent(registry, &awaited) => silent,
                () = interrupt.received() => Vec::new(),
            };
            let end = Some(RevocationEnd::without(silent));
            Ok(Revoked { trust, key, end, failure: None, was_interrupted: true })
        }
        never = wait_progress::show(format, &waits) => match never {},
    }
}

/// How long the names of the processes that did not answer are asked for.
const NAMING: Duration = Duration::from_secs(1);

/// Returns the names of the processes that have not answered, if the database has them in time.
pub(crate) async fn silent(registry: &TrustRegistry<Store>, awaited: &Awaited) -> Vec<String> {
    let names = tokio::time::timeout(NAMING, registry.awaited(awaited)).await;
    names.ok().and_then(Result::ok).unwrap_or_default()
}

/// Returns how a change waits, by the flag `--no-acknowledgements`.
pub(crate) fn waiting(no_acknowledgements: bool) -> Waiting {
    if no_acknowledgements { Waiting::OutTheLease } else { Waiting::ForAcknowledgements }
}
