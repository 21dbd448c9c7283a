//! A network that fails without a word, or holds back what a test wants to be late: no connection is closed, and something does not arrive.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::PostgresServer;

/// Between client and server: it passes everything on, other than what it is told to keep to itself.
pub(crate) struct Network {
    port: u16,
    frozen: watch::Sender<bool>,
    listen: watch::Sender<Listen>,
}

/// What becomes of a client's `LISTEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    Passes,
    IsToBeHeld,
    IsHeld,
}

impl Network {
    pub(crate) async fn before(server: &PostgresServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, is_frozen) = watch::channel(false);
        let (listen, _) = watch::channel(Listen::Passes);
        let (upstream, shared) = (server.port(), listen.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut is_frozen, listen) = (is_frozen.clone(), shared.clone());
                tokio::spawn(async move {
                    let far = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                    let ((from_near, mut to_near), (mut from_far, to_far)) =
                        (near.into_split(), far.into_split());
                    tokio::select! {
                        () = requests(from_near, to_far, listen) => {}
                        _ = tokio::io::copy(&mut from_far, &mut to_near) => {}
                        // For good: what was frozen stays so, and only new connections get through again.
                        true = async { is_frozen.wait_for(|frozen| *frozen).await.is_ok() } => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, frozen, listen }
    }

    /// The URL of the same database by this way.
    pub(crate) fn url(&self, url: &str, server: &PostgresServer) -> String {
        url.replace(&server.port().to_string(), &self.port.to_string())
    }

    /// Keeps to itself, for good, whatever comes on the connections of now and until [`thaw`](Self::thaw).
    pub(crate) fn freeze(&self) {
        self.frozen.send(true).unwrap();
    }

    /// Lets new connections through again.
    pub(crate) fn thaw(&self) {
        self.frozen.send(false).unwrap();
    }

    /// Holds the next `LISTEN` back, until [`let_listen`](Self::let_listen).
    pub(crate) fn hold_listen(&self) {
        self.listen.send_replace(Listen::IsToBeHeld);
    }

    /// Waits until there was one to hold.
    pub(crate) async fn holds_listen(&self) {
        self.listen.subscribe().wait_for(|listen| *listen == Listen::IsHeld).await.unwrap();
    }

    pub(crate) fn let_listen(&self) {
        self.listen.send_replace(Listen::Passes);
    }
}

/// Passes on what the client says. A statement as short as `LISTEN` comes in one piece.
async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, listen: watch::Sender<Listen>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let said = &buffer[..length];
        if *listen.borrow() == Listen::IsToBeHeld && said.windows(8).any(|word| word == b"LISTEN \"") {
            listen.send_replace(Listen::IsHeld);
            let mut passes = listen.subscribe();
            if passes.wait_for(|listen| *listen == Listen::Passes).await.is_err() {
                return;
            }
        }
        if to.write_all(said).await.is_err() {
            return;
        }
    }
}
