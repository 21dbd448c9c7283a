//! [`SqliteFeed`]: the changes of an SQLite file as a [`ChangeFeed`], and the wait of a change.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::lease_row::lease_ms;
use super::session::SqliteSession;
use crate::error::StoreError;
use crate::read_lease::{ChangeFeed, Settled, Waiting};
use crate::sqlite::SqliteStore;

/// The read lease of one SQLite file: [`SqliteStore::feed`] makes it. A clone shares the
/// connections.
///
/// Each change waits for the length of the longest lease, 300 ms as a rule, while the file says
/// that leases are in use. A holder that starts writes that to the file, and no holder removes it:
/// another one may be running. [`end_leases`](Self::end_leases) removes it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{ChangeFeed, FeedSession, KeyHash, NewTrust, SqliteStore, TrustLedger};
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("trusts.db");
/// let store = SqliteStore::options(&file).create_if_missing(true).connect().await?;
/// store.insert(NewTrust::new("St. Mary")?, KeyHash::of("key")).await?;
///
/// let mut session = store.feed().open(Duration::from_millis(300)).await?;
/// assert_eq!(session.load().await?[0].name, "St. Mary");
/// drop(session);
/// store.feed().end_leases().await?; // Waits 300 ms.
/// # store.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteFeed {
    store: SqliteStore,
}

impl SqliteStore {
    /// Returns the feed of the table `trust`, for a holder of all trusts. It shares the store's
    /// connections.
    #[must_use]
    pub fn feed(&self) -> SqliteFeed {
        SqliteFeed { store: self.clone() }
    }
}

impl SqliteFeed {
    /// Lowers the longest lease that a process may hold, which is what each change waits.
    /// [`open`](ChangeFeed::open) raises it. First start each holder with the shorter lease.
    ///
    /// Waits for the present length in between (R7). A holder of a longer lease that runs then
    /// writes its objection to the file, and nothing is lowered (RL31).
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if such a holder runs, or another process lowers the length, too. Or
    /// any other [`StoreError`]. The length is then as it was, unless the error is
    /// [`StoreError::OutcomeUnknown`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn lower_longest_lease(&self, longest: Duration) -> Result<(), StoreError> {
        self.lower_to(lease_ms(longest)?).await
    }

    /// Removes the row that makes each change wait. First stop each holder, or restart it without a
    /// lease. A crashed holder is no obstacle: this waits until its lease has ended.
    ///
    /// # Errors
    ///
    /// As [`lower_longest_lease`](Self::lower_longest_lease).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time enabled.
    pub async fn end_leases(&self) -> Result<(), StoreError> {
        self.lower_to(0).await
    }

    async fn lower_to(&self, to: u32) -> Result<(), StoreError> {
        let attempt = Uuid::new_v4().to_string();
        let Some(wait) = self.store.begin_lowering(to, &attempt).await? else { return Ok(()) };
        wait_out(wait).await;
        if self.store.end_lowering(to, &attempt).await? {
            return Ok(());
        }
        Err(StoreError::Schema {
            path: self.store.path().into(),
            reason:
                "a process with a longer read lease runs, or another process lowers the length \
                     too; stop that process, or give it a shorter lease, and try again"
                    .into(),
        })
    }
}

impl ChangeFeed for SqliteFeed {
    type Session = SqliteSession;

    async fn open(&self, length: Duration) -> Result<SqliteSession, StoreError> {
        SqliteSession::open(&self.store, lease_ms(length)?).await
    }

    /// Waits for as many milliseconds as the barrier says: the longest lease, as the revoking
    /// transaction has read it. `holders` is `None`, because SQLite has no list of them.
    ///
    /// # Errors
    ///
    /// [`StoreError::CannotOpen`] if the file was removed or replaced (RL9). Check what the file at
    /// the path contains, and make the revocation there.
    async fn settle(&self, barrier: &str, _: Waiting) -> Result<Settled, StoreError> {
        let Ok(milliseconds) = barrier.parse::<u32>() else {
            return Err(StoreError::Other(
                "the text is no barrier; pass what the change has returned".into(),
            ));
        };
        wait_out(Duration::from_millis(milliseconds.into())).await;
        // After the wait: a holder of a file that replaced this one does not see the change (RL9).
        self.store.verify_files().await?;
        Ok(Settled::Everywhere { holders: None, silent: Vec::new(), was_unsettled: false })
    }
}

/// Waits for at least `length`, from the call.
///
/// The clock may stand still while the machine is suspended. The wait is then longer, which is
/// safe.
async fn wait_out(length: Duration) {
    let begun = Instant::now();
    while let Some(left) = length.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left).await;
    }
}
