//! [`FileChecker`]: checks the files on a thread of its own. A file system that hangs then blocks
//! neither a worker nor the end of the process.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::file::File;
use crate::error::StoreError;

/// Runs one check at a time, so a file system that hangs blocks one thread at most.
pub(super) struct FileChecker {
    asks: mpsc::Sender<()>,
    answers: UnboundedReceiver<Result<(), StoreError>>,
    is_awaited: bool,
}

impl FileChecker {
    /// Starts the thread. The thread ends after a drop, once the file system has answered.
    pub(super) fn new(file: Arc<File>) -> Result<Self, StoreError> {
        let (asks, asked) = mpsc::channel();
        let (answer, answers) = unbounded_channel();
        let verify = move || {
            for () in asked {
                if answer.send(file.verify()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("trust-auth files".into())
            .spawn(verify)
            .map_err(|error| StoreError::Other(error.into()))?;
        Ok(Self { asks, answers, is_awaited: false })
    }

    /// Checks, within `limit`, that the files are those that the store has open.
    pub(super) async fn verify(&mut self, limit: Duration) -> Result<(), StoreError> {
        if !self.is_awaited {
            // Without the thread, the receiving below fails.
            let _ = self.asks.send(());
            self.is_awaited = true;
        }
        match tokio::time::timeout(limit, self.answers.recv()).await {
            Ok(Some(answer)) => {
                self.is_awaited = false;
                answer
            }
            Ok(None) => Err(StoreError::Other("the thread that checks the files has ended".into())),
            Err(_) => Err(StoreError::Timeout { after: limit }),
        }
    }
}
