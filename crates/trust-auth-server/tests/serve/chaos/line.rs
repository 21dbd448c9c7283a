//! [`Line`]: the line between one service and the database, with faults in each direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the bytes of one line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// How long bytes are kept, in each direction.
    pub(crate) delay: Duration,
    /// Whether bytes to the database are kept until the weather changes.
    pub(crate) holds_requests: bool,
    /// Whether bytes from the database are kept until the weather changes.
    pub(crate) holds_answers: bool,
    /// Whether notifications are lost. Each arrives in a piece of its own, which begins with an
    /// `A`.
    pub(crate) is_deaf: bool,
}

/// A line. Its connections end when the value is dropped.
pub(crate) struct Line {
    pub(crate) port: u16,
    upstream: Arc<AtomicU16>,
    weather: watch::Sender<Weather>,
    /// The number of times that all connections were cut.
    cuts: watch::Sender<u64>,
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

impl Line {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap().port();
        let upstream = Arc::new(AtomicU16::new(port));
        let (weather, forecast) = watch::channel(Weather::default());
        let (cuts, cut) = watch::channel(0);
        let leads_to = Arc::clone(&upstream);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // Relaxed: the number orders nothing.
                let port = leads_to.load(Ordering::Relaxed);
                tokio::spawn(connection(near, port, forecast.clone(), cut.clone()));
            }
        });
        Self { port: near, upstream, weather, cuts }
    }

    /// Changes the weather. Bytes that were kept pass, if it lets them.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Leads new connections to this port, and cuts the present ones.
    pub(crate) fn move_to(&self, port: u16) {
        // Relaxed: as in `to`.
        self.upstream.store(port, Ordering::Relaxed);
        self.cut();
    }
}

async fn connection(
    near: TcpStream,
    port: u16,
    weather: watch::Receiver<Weather>,
    mut cut: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pass(from_near, to_far, weather.clone(), Direction::Requests) => {}
        () = pass(from_far, to_near, weather, Direction::Answers) => {}
        _ = cut.changed() => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    direction: Direction,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let now = *weather.borrow();
        if now.is_deaf && matches!(direction, Direction::Answers) && buffer[0] == b'A' {
            continue;
        }
        tokio::time::sleep(now.delay).await;
        let holds = |weather: &Weather| match direction {
            Direction::Requests => weather.holds_requests,
            Direction::Answers => weather.holds_answers,
        };
        if weather.wait_for(|weather| !holds(weather)).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
