//! While changes of the trusts fail: tries now and then whether one could be made, so that the
//! service notices its recovery where no client asks for a change. After a failure that no check
//! can reproduce, such as a trigger's refusal, it waits for a client's change.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::store::Store;

/// Between two checks. Each is one transaction.
const PAUSE: Duration = Duration::from_secs(5);

/// Until the service ends.
pub(crate) async fn run(store: Arc<Store>) {
    loop {
        store.changes().until_failing().await;
        sleep(PAUSE).await;
        if store.changes().needs_a_change() {
            continue;
        }
        if let Err(error) = store.changes().check(store.try_change()).await {
            tracing::debug!(kind = error.kind(), "changes of the trusts still fail");
        }
    }
}
