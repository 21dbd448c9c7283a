//! A network between client and server that a test can break: messages are lost or late, and no
//! connection is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::PostgresServer;

/// Forwards all bytes between client and server, except the messages that a test holds back.
pub(crate) struct Network {
    port: u16,
    upstream: Arc<AtomicU16>,
    frozen: watch::Sender<bool>,
    listen: watch::Sender<Listen>,
    cut: watch::Sender<Option<(&'static str, Cut)>>,
    is_deaf: Arc<AtomicBool>,
}

/// When a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Before the server receives the statement.
    Before,
    /// After the server has run the statement. Only the answer is lost.
    After,
}

/// The state of a client's `LISTEN`.
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
        let (cut, _) = watch::channel(None);
        let upstream = Arc::new(AtomicU16::new(server.port()));
        let is_deaf = Arc::new(AtomicBool::new(false));
        let (shared, port_of, cuts) = (listen.clone(), Arc::clone(&upstream), cut.clone());
        let deaf = Arc::clone(&is_deaf);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut is_frozen, listen, cut) =
                    (is_frozen.clone(), shared.clone(), cuts.clone());
                let is_deaf = Arc::clone(&deaf);
                let upstream = port_of.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
                    let ((from_near, mut to_near), (mut from_far, to_far)) =
                        (near.into_split(), far.into_split());
                    let loses_answer = AtomicBool::new(false);
                    tokio::select! {
                        () = requests(from_near, to_far, listen, cut, &loses_answer) => {}
                        () = answers(&mut from_far, &mut to_near, &loses_answer, &is_deaf) => {}
                        // A frozen connection stays frozen. Only new connections work again.
                        true = async { is_frozen.wait_for(|frozen| *frozen).await.is_ok() } => {
                            std::future::pending().await
                        }
                    }
                });
            }
        });
        Self { port, upstream, frozen, listen, cut, is_deaf }
    }

    /// Returns the URL of the same database through this network.
    pub(crate) fn url(&self, url: &str, server: &PostgresServer) -> String {
        url.replace(&server.port().to_string(), &self.port.to_string())
    }

    /// Leads new connections to that server. Existing connections stay, as after a failover that
    /// moves the address.
    pub(crate) fn move_to(&self, server: &PostgresServer) {
        self.upstream.store(server.port(), Ordering::SeqCst);
    }

    /// Cuts the next connection on which a statement with this text is sent.
    pub(crate) fn cut(&self, statement: &'static str, when: Cut) {
        self.cut.send_replace(Some((statement, when)));
    }

    /// Returns whether the connection was cut.
    pub(crate) fn has_cut(&self) -> bool {
        self.cut.borrow().is_none()
    }

    /// Stops the delivery of notifications, as a pooler that shares connections does, or resumes
    /// it.
    pub(crate) fn deafen(&self, is_deaf: bool) {
        self.is_deaf.store(is_deaf, Ordering::SeqCst);
    }

    /// Delivers no more bytes on the present connections, and on new ones until
    /// [`thaw`](Self::thaw).
    pub(crate) fn freeze(&self) {
        self.frozen.send(true).unwrap();
    }

    /// Forwards new connections again.
    pub(crate) fn thaw(&self) {
        self.frozen.send(false).unwrap();
    }

    /// Delays the next `LISTEN` until [`let_listen`](Self::let_listen).
    pub(crate) fn hold_listen(&self) {
        self.listen.send_replace(Listen::IsToBeHeld);
    }

    /// Waits until a `LISTEN` is delayed.
    pub(crate) async fn holds_listen(&self) {
        self.listen.subscribe().wait_for(|listen| *listen == Listen::IsHeld).await.unwrap();
    }

    pub(crate) fn let_listen(&self) {
        self.listen.send_replace(Listen::Passes);
    }
}

/// Forwards the client's messages. A statement as short as `LISTEN` arrives in one piece.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    listen: watch::Sender<Listen>,
    cut: watch::Sender<Option<(&'static str, Cut)>>,
    loses_answer: &AtomicBool,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let said = &buffer[..length];
        if *listen.borrow() == Listen::IsToBeHeld
            && said.windows(8).any(|word| word == b"LISTEN \"")
        {
            listen.send_replace(Listen::IsHeld);
            let mut passes = listen.subscribe();
            if passes.wait_for(|listen| *listen == Listen::Passes).await.is_err() {
                return;
            }
        }
        let wanted = *cut.borrow();
        if let Some((statement, when)) = wanted
            && said.windows(statement.len()).any(|text| text == statement.as_bytes())
        {
            if when == Cut::Before {
                cut.send_replace(None);
                return;
            }
            loses_answer.store(true, Ordering::SeqCst);
            cut.send_replace(None);
        }
        if to.write_all(said).await.is_err() {
            return;
        }
    }
}

/// Forwards the server's messages, until an answer must be lost. A notification of an idle session
/// arrives in a piece of its own, which begins with an `A`.
async fn answers(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    loses_answer: &AtomicBool,
    is_deaf: &AtomicBool,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if is_deaf.load(Ordering::SeqCst) && buffer[0] == b'A' {
            continue;
        }
        if loses_answer.load(Ordering::SeqCst) || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
