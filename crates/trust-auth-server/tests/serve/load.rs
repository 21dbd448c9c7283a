//! Load: clients that send requests again and again, each on one connection at a time, and record
//! the answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::client::{Client, NoAnswer};

/// The most requests of one client, independent of the test's duration.
const AT_MOST: usize = 100_000;

/// The pause between two requests of a client, which leaves processor time for others.
const PAUSE: Duration = Duration::from_millis(1);

/// The keys that a client presents.
#[derive(Clone)]
pub(crate) enum Keys {
    /// Always this key.
    The(String),
    /// Another unknown key each time.
    Unknown(&'static str),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) begun: Instant,
    /// The status, or `None` if there was no answer.
    pub(crate) status: Option<u16>,
    pub(crate) lost: String,
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

impl Load {
    /// Starts this number of clients. They send requests until they are stopped, or until an answer
    /// has announced the connection's end and one more, on a new connection, has arrived.
    pub(crate) fn start(address: SocketAddr, clients: usize, keys: &Keys) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one =
            |number: usize| tokio::spawn(client(address, number, keys.clone(), Arc::clone(&stop)));
        Self { clients: (0..clients).map(one).collect(), stop }
    }

    /// Stops the clients, and returns all requests after the last answer.
    pub(crate) async fn finish(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// Does the same as [`finish`](Self::finish) for clients that end by themselves.
    pub(crate) async fn ended(self) -> Vec<Asked> {
        let mut asked = Vec::new();
        for client in self.clients {
            asked.extend(client.await.unwrap());
        }
        asked
    }
}

/// Asserts that each request got an answer with one of these statuses.
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

/// Asserts that no request was granted that began after this moment.
#[track_caller]
pub(crate) fn assert_never_granted_after(revoked: Instant, asked: &[Asked]) {
    let late: Vec<_> = asked.iter().filter(|one| one.begun > revoked).collect();
    assert!(!late.is_empty(), "no client presented the revoked key");
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
