//! [`Listener`]: a socket that accepts connections within its limits, and serves HTTP on each.
//!
//! No client and no failure of the kernel ends a listener. Only the drain does. The listener then
//! serves the connections that the kernel has queued, and closes the socket.

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
use trust_auth::LogLimit;

use super::client_stream::ClientStream;
use super::drain::{Connections, OpenConnection, PendingAnswers};
use super::listener_routes::ListenerRoutes;
use super::settings::ListenerLimits;
use crate::command_error::CommandError;

/// How many connections the kernel queues while the service is at its limit or busy.
const BACKLOG: i32 = 1_024;

/// How long a client may leave output unacknowledged, and how long a silent client counts as
/// connected.
const DEAD_PEER_LIMIT: Duration = Duration::from_secs(30);

/// The pause after a failure to accept, such as a lack of file descriptors. Without it, the loop
/// would use the whole processor.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// One listening socket.
pub(crate) struct Listener {
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    limits: ListenerLimits,
}

impl Listener {
    /// Binds the address. Clients can connect from now on, and are answered from
    /// [`serve`](Self::serve) on.
    pub(crate) fn bind(
        name: &'static str,
        address: SocketAddr,
        limits: &ListenerLimits,
    ) -> Result<Self, CommandError> {
        let bound = open(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = bound.map_err(|error| {
            CommandError::new(
                "listen",
                format!(
                    "cannot listen at {address}: {error}; choose another address for the {name} \
                     listener"
                ),
            )
        })?;
        Ok(Self { name, socket, address, limits: limits.clone() })
    }

    /// Returns the name for metrics and the log.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the address. If port 0 was given, it has the port that the kernel has chosen.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves connections until the drain stops the listener. [`Connections`] then
    /// finishes the open ones.
    pub(crate) async fn serve(self, routes: ListenerRoutes, connections: Connections, open: Gauge) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let http = Arc::new(http(&self.limits));
        let serve = |stream: TcpStream, place: Option<OwnedSemaphorePermit>| {
            let open = open.clone();
            let connection =
                serve_connection(stream, Arc::clone(&http), routes.clone(), connections.add());
            tokio::spawn(async move {
                open.increment(1.0);
                connection.await;
                open.decrement(1.0);
                drop(place);
            });
        };
        let limit = LogLimit::default();
        loop {
            // At the limit no connection is accepted. The kernel queues them.
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, self.socket.accept().await)
            };
            tokio::select! {
                biased;
                () = connections.drain().stopped() => break,
                (place, accepted) = accepted => match (place, accepted) {
                    (place @ Some(_), Ok((stream, _))) => serve(stream, place),
                    (_, Err(error)) if is_of_one_connection(&error) => {}
                    (_, Err(error)) => {
                        if let Some(others) = limit.try_log() {
                            tracing::warn!(
                                listener = self.name,
                                %error,
                                others,
                                "cannot accept a connection; trying again"
                            );
                        }
                        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                    }
                    // The semaphore is never closed.
                    (None, Ok(_)) => {}
                },
            }
        }
        // The clients in the queue have connected, and may have sent their request. Closing the
        // socket would reset their connections. All are served, independent of the limit: there are
        // at most as many as the queue holds. They are accepted without the runtime, which reports
        // an empty queue once the task has used its budget.
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
                    if is_of_one_connection(&error)
                        || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::warn!(
                            listener = self.name,
                            %error,
                            "cannot accept the connections in the queue"
                        );
                    }
                    break;
                }
            }
        }
    }
}

/// Returns the settings of HTTP/1.1, the only version: each proxy supports it for forward-auth, and
/// one protocol has one set of limits.
fn http(limits: &ListenerLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // A client that has sent its request and shuts down its sending side gets its answer. A
        // client that has left cannot be distinguished from it before a write. Each request ends at
        // its deadline.
        .half_close(true)
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(64 * 1024));
    http
}

/// Serves one connection to its end.
async fn serve_connection(
    stream: TcpStream,
    http: Arc<http1::Builder>,
    routes: ListenerRoutes,
    open: OpenConnection,
) {
    // Answers are small, and one write has a whole answer.
    let _ = stream.set_nodelay(true);
    let drain = open.drain().clone();
    let stream = ClientStream::new(TokioIo::new(stream));
    let pending = PendingAnswers::new(stream.pending_output());
    let requests = pending.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let counted = requests.count_request();
        let answered = routes.current().clone().call(request);
        let drain = drain.clone();
        async move {
            let _counted = counted;
            let Ok(mut response): Result<Response<Body>, Infallible> = answered.await;
            if drain.is_draining() {
                // Asks the client to send no further request on this connection, so that none is in
                // transit when the connection closes.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    // The client causes its errors: a time-out, a reset, or bytes that are not HTTP. hyper has
    // answered those that can be answered.
    let connection = http.serve_connection(stream, answer);
    match open.run(connection, pending).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        None => tracing::debug!("a connection was cut: the client did not finish its request"),
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart then need not wait for the TIME_WAIT of the last connections. On Windows the option
    // would let other processes take the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it. No time-out of HTTP ends a connection whose client does not read
    // its answer.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(DEAD_PEER_LIMIT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(DEAD_PEER_LIMIT))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether only the connection failed that was to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
