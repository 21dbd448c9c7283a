//! Load: clients that ask over and over, each on one connection at a time, and remember what they
//! got.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::client::{Client, NoAnswer};

/// No client asks more often, whatever becomes of the test.
const AT_MOST: usize = 100_000;

/// Between two requests of a client: the machine has other things to do.
const PAUSE: Duration = Duration::from_millis(1);

/// What a client asks for.
#[derive(Clone)]
pub(crate) enum Keys {
    /// Always this one.
    The(String),
    /// A new one each time, which nobody has.
    Unknown(&'static str),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) begun: Instant,
    /// The status; None: never answered.
    pub(crate) status: Option<u16>,
    pub(crate) lost: String,
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

impl Load {
    /// So many clients that ask for this, until they are stopped, or until an answer has told them
    /// to go elsewhere and the one after it, on a new connection, has come too.
    pub(crate) fn start(address: SocketAddr, clients: usize, keys: &Keys) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one =
            |number: usize| tokio::spawn(client(address, number, keys.clone(), Arc::clone(&stop)));
        Self { clients: (0..clients).map(one).collect(), stop }
    }

    /// All that was asked, after the last answer.
    pub(crate) async fn finish(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// As [`finish`](Self::finish), for clients that end by themselves.
    pub(crate) async fn ended(self) -> Vec<Asked> {
        let mut asked = Vec::new();
        for client in self.clients {
            asked.extend(client.await.unwrap());
        }
        asked
    }
}

/// Asserts that each was answered, and with one of these.
#[track_caller]
pub(crate) fn assert_answered(asked: &[Asked], statuses: &[u16]) {
    assert!(!asked.is_empty());
    for one in asked {
        match one.status {
            Some(status) => assert!(statuses.contains(&status), "{one:?}, not one of {statuses:?}"),
            None => panic!("a request was lost: {}", one.lost),
        }
    }
}

/// Asserts that nothing was granted that was asked after this.
#[track_caller]
pub(crate) fn assert_never_granted_after(revoked: Instant, asked: &[Asked]) {
    let late: Vec<_> = asked.iter().filter(|one| one.begun > revoked).collect();
    assert!(!late.is_empty(), "nobody tried the revoked key");
    for one in late {
        assert_ne!(one.status, Some(200), "granted after its revocation: {one:?}");
    }
}

async fn client(
    address: SocketAddr,
    number: usize,
    keys: Keys,
    stop: Arc<AtomicBool>,
) -> Vec<Asked> {
    let mut client = Client::new(address);
    let mut asked = Vec::new();
    let mut last = false;
    for request in 0..AT_MOST {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = match &keys {
            Keys::The(key) => key.clone(),
            Keys::Unknown(prefix) => format!("{prefix}-{number}-{request}"),
        };
        let begun = Instant::now();
        let told_to_go = match client.verify(&key).await {
            Ok(answer) => {
                asked.push(Asked { begun, status: Some(answer.status), lost: String::new() });
                answer.header("connection") == Some("close")
            }
            Err(NoAnswer::Refused) => break,
            Err(NoAnswer::Lost(lost)) => {
                asked.push(Asked { begun, status: None, lost });
                break;
            }
        };
        if last {
            break;
        }
        last = told_to_go;
        if !told_to_go {
            tokio::time::sleep(PAUSE).await;
        }
    }
    asked
}
