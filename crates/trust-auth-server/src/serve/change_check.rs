//! While changes of trusts fail, checks at intervals whether a change could be made. So the service
//! detects the recovery even if no client requests a change.
//!
//! After a failure that no check can reproduce, such as a refusal by a trigger, it waits for a
//! change by a client.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::store::Store;

/// The pause between two checks. Each check is one transaction.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs the checks until the service ends.
pub(crate) async fn run(store: Arc<Store>) {
    loop {
        store.changes().until_failing().await;
        sleep(PAUSE).await;
        if store.changes().needs_a_change() {
            continue;
        }
        if let Err(error) = store.changes().check(store.check_writes()).await {
            tracing::debug!(kind = error.kind(), "changes of trusts still fail");
        }
    }
}
