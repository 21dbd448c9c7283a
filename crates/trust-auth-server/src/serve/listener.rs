//! [`Listener`]: a socket that accepts connections, no more than its limits allow, and hands each to HTTP.
//!
//! It must never end by itself, whatever a client or the kernel does: only the drain ends it, and
//! then whoever has been let into the queue is served before the socket closes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::Gauge;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

use super::connections::{Connections, Entered, Owed};
use super::limits::Limits;
use super::lingering::Lingering;
use super::log_limit::LogLimit;
use super::output::Output;
use super::stage::Stage;
use crate::failure::Failure;

/// How many connections the kernel keeps for us while we are at the limit or busy.
const BACKLOG: i32 = 1_024;

/// How long a client may leave what we sent unacknowledged, and how long a silent peer is believed
/// to be there.
const DEAD_PEER: Duration = Duration::from_secs(30);

/// How long to wait when the kernel has no connection to give, for want of file descriptors, say.
/// Not to try at once: the loop would spin.
const AFTER_A_FAILURE: Duration = Duration::from_millis(100);

/// Between two lines of the log about that: clients can keep it up as long as they like.
const QUIET: Duration = Duration::from_mins(1);

/// One listening socket.
pub(crate) struct Listener {
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Listener {
    /// Takes the address. Clients may connect from now on; they are answered from
    /// [`serve`](Self::serve) on.
    pub(crate) fn bind(
        name: &'static str,
        address: SocketAddr,
        limits: &Limits,
    ) -> Result<Self, Failure> {
        let bound = open(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = bound.map_err(|error| {
            Failure::new(
                "listen",
                format!(
                    "cannot listen at {address}: {error}; choose another address for the {name} listener"
                ),
            )
        })?;
        Ok(Self { name, socket, address, limits: limits.clone() })
    }

    /// Its name, for metrics and the log.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The address, with the port that the kernel chose if it was to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until the drain says stop; what is under way then is finished by
    /// [`Connections`].
    pub(crate) async fn serve(self, stage: Stage, connections: Connections, open: Gauge) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let http = Arc::new(http(&self.limits));
        let serve = |stream: TcpStream, place: Option<OwnedSemaphorePermit>| {
            let open = open.clone();
            let connection =
                converse(stream, Arc::clone(&http), stage.clone(), connections.enter());
            tokio::spawn(async move {
                open.increment(1.0);
                connection.await;
                open.decrement(1.0);
                drop(place);
            });
        };
        let limit = LogLimit::new(QUIET);
        loop {
            // At the limit nothing is accepted, rather than accepted and refused: the queue is the
            // kernel's.
            let accepted = async {
                let place = Arc::clone(&room).acquire_owned().await.ok();
                (place, self.socket.accept().await)
            };
            tokio::select! {
                biased;
                () = connections.drain().stopped() => break,
                (place, accepted) = accepted => match (place, accepted) {
                    (place @ Some(_), Ok((stream, _))) => serve(stream, place),
                    (_, Err(error)) if is_of_the_client(&error) => {}
                    (_, Err(error)) => {
                        if let Some(others) = limit.try_log() {
                            tracing::warn!(listener = self.name, %error, others, "cannot accept a connection; trying again");
                        }
                        tokio::time::sleep(AFTER_A_FAILURE).await;
                    }
                    // The semaphore is never closed.
                    (None, Ok(_)) => {}
                },
            }
        }
        // Those in the queue have connected, and may have sent their request: closing the socket
        // would reset them. All of them, whatever the limit: there are no more than the
        // queue holds. Not through the runtime, which says "none" when a task has
        // had its turn.
        let Ok(queue) = self.socket.into_std() else { return };
        for _ in 0..=BACKLOG {
            match queue.accept() {
                Ok((stream, _)) => {
                    let stream =
                        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        serve(stream, None);
                    }
                }
                Err(error)
                    if is_of_the_client(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::warn!(listener = self.name, %error, "cannot accept those who have connected");
                    }
                    break;
                }
            }
        }
    }
}

/// HTTP/1.1 alone: it is what every proxy speaks to a forward-auth service, and one protocol has
/// one set of limits.
fn http(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // A client that has sent its request and shuts down its sending side gets its answer. A
        // client that is gone looks the same until it is written to; each request ends by
        // its deadline.
        .half_close(true)
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(64 * 1024));
    http
}

/// One connection, to its end.
async fn converse(stream: TcpStream, http: Arc<http1::Builder>, stage: Stage, entered: Entered) {
    // Answers are small, and each is written in one go.
    let _ = stream.set_nodelay(true);
    let drain = entered.drain().clone();
    let output = Output::new(Lingering::new(TokioIo::new(stream)));
    let owed = Owed::over(output.stuck());
    let owing = owed.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let one = owing.one();
        let answered = stage.routes().clone().call(request);
        let drain = drain.clone();
        async move {
            let _one = one;
            let Ok(mut response): Result<Response<Body>, Infallible> = answered.await;
            if drain.is_draining() {
                // Tells the client to send nothing more here, so that nothing is under way when the
                // connection closes.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    // Its errors are the client's: a time-out, a reset, garbage. hyper has answered those that can
    // be answered.
    let connection = http.serve_connection(output, answer);
    match entered.converse(connection, owed).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        None => tracing::debug!("a connection was cut: its client did not finish its request"),
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart need not wait for the last connections' TIME_WAIT to pass. On Windows it
    // would let others take the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    // Inherited by what is accepted. No time-out of HTTP ends a connection whose client reads
    // nothing of what it asked for.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(DEAD_PEER))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether the connection failed that was to be accepted, rather than the accepting.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
