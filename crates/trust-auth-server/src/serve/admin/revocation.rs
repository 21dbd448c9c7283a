//! [`Revoker`]: the revocations of the admin API, from the commit to the end of the wait.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use tokio::sync::oneshot;
use trust_auth::{ApiKey, Awaited, Trust, TrustRef, TrustRegistry, Waiting};

use super::error::AdminError;
use super::pending_waits::PendingWaits;
use crate::failed_wait::FailedWait;
use crate::json::TrustJson;
use crate::revocation_end::RevocationEnd;
use crate::revocation_step::RevocationStep;
use crate::revoke::silent;
use crate::serve::meters::Meters;
use crate::store::Store;

/// Revokes keys. A clone shares the store, the metrics and the record of waits.
#[derive(Clone)]
pub(crate) struct Revoker {
    pub(crate) registry: TrustRegistry<Store>,
    /// How a revocation waits for processes with a read lease.
    pub(crate) waiting: Waiting,
    pub(crate) meters: Arc<Meters>,
    pub(crate) waits: PendingWaits,
}

impl Revoker {
    /// Revokes a key, and returns when no process grants the key, or takes attributes away, and
    /// returns when no process shows them. Reports the commit before, if it
    /// has to wait.
    pub(crate) async fn revoke(
        self,
        step: RevocationStep,
        which: TrustRef,
        committed: oneshot::Sender<Revoked>,
    ) -> Result<Revoked, AdminError> {
        let (revocation, key) = step.begin(&self.registry, &which).await?;
        let key = key.map(Arc::new);
        if let Some(trust) = revocation.trust() {
            let key_id = step.key().map(tracing::field::display);
            let operation = step.as_str();
            tracing::info!(operation, trust = %trust.id, key_id, "a trust was changed");
        }
        if !revocation.has_to_wait() {
            let trust = revocation.without_waiting()?;
            return Ok(Revoked {
                trust,
                key,
                end: None,
                failure: None,
                awaited: Awaited::default(),
            });
        }
        let (changed, awaited) = (revocation.trust().cloned(), revocation.awaited());
        if let Some(trust) = changed.clone() {
            let (key, end) = (key.clone(), Some(RevocationEnd::COMMITTED));
            // Without an effect if the client has disconnected.
            committed
                .send(Revoked { trust, key, end, failure: None, awaited: awaited.clone() })
                .ok();
        }
        let pending = self.waits.begin(step.clone(), changed.as_ref().map(|trust| trust.id));
        let settled = revocation.settle(self.waiting).await;
        let waited = pending.end();
        let (trust, settled) = match settled {
            Ok(settled) => settled,
            Err(error) => {
                let failed = FailedWait::of(&step, changed.is_some(), &error);
                let failure = AdminError::failed_wait(failed, &step, error);
                if failed != FailedWait::NoSuchTrust {
                    // The client may have its answer already.
                    tracing::error!(
                        operation = step.as_str(),
                        trust = changed.as_ref().map(|trust| tracing::field::display(trust.id)),
                        key_id = step.key().map(tracing::field::display),
                        ?waited,
                        kind = failure.kind(),
                        "{}",
                        failure.message()
                    );
                }
                return match (failed, changed) {
                    (FailedWait::NewKey, Some(trust)) => {
                        let (end, failure) = (Some(RevocationEnd::COMMITTED), Some(failure));
                        Ok(Revoked { trust, key, end, failure, awaited })
                    }
                    _ => Err(failure),
                };
            }
        };
        let end = RevocationEnd::new(settled, waited);
        self.meters.record_revocation(&end, waited);
        tracing::info!(
            operation = step.as_str(),
            trust = %trust.id,
            key_id = step.key().map(tracing::field::display),
            ?waited,
            outcome = end.outcome(),
            silent = end.silent(),
            "{} any more",
            step.certainty()
        );
        Ok(Revoked { trust, key, end: Some(end), failure: None, awaited })
    }
}

/// A revocation that is committed.
pub(crate) struct Revoked {
    trust: Trust,
    key: Option<Arc<ApiKey>>,
    /// If it had to wait.
    end: Option<RevocationEnd>,
    /// Why the wait failed. There is a new key then.
    failure: Option<AdminError>,
    awaited: Awaited,
}

impl Revoked {
    /// Names the processes that have not answered within the time of the request.
    pub(crate) async fn naming_silent(mut self, registry: &TrustRegistry<Store>) -> Self {
        self.end = Some(RevocationEnd::without(silent(registry, &self.awaited).await));
        self
    }

    /// Returns the outcome for metrics: the failure's kind, although the client gets its key.
    pub(crate) fn outcome(&self) -> &'static str {
        self.failure.as_ref().map_or("ok", AdminError::kind)
    }

    /// Returns 200, or 202 while a process may grant the key.
    pub(crate) fn response(&self) -> Response<Body> {
        let status = match &self.end {
            Some(end) if !end.is_everywhere() => StatusCode::ACCEPTED,
            _ => StatusCode::OK,
        };
        let json = TrustJson::new(&self.trust)
            .with_key(self.key.as_deref())
            .with_revocation(self.end.as_ref())
            .with_error(self.failure.as_ref().map(|error| (error.kind(), error.message())));
        (status, Json(json)).into_response()
    }
}
