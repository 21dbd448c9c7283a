//! A private tunnel from the driver to a TLS connection that this store has made.
//!
//! The driver opens its sockets itself, from an address. It receives the address of a local socket,
//! which accepts one connection, from this process alone, and forwards all bytes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

const BUFFER: usize = 32 * 1024;

/// How long a clean closing of the TLS connection may take.
const CLOSING: Duration = Duration::from_secs(1);

/// The port that the driver is configured with. The socket's name contains the port.
const PORT: u16 = 5432;

/// The address for the driver, valid for one connection.
pub(super) struct Tunnel {
    /// The folder of the socket, in the form that the driver expects.
    pub(super) folder: PathBuf,
    pub(super) port: u16,
}

/// Opens a tunnel to a server. The tunnel closes when either end closes.
pub(super) fn open(server: TlsStream<TcpStream>) -> io::Result<Tunnel> {
    let place = Place::new()?;
    let tunnel = Tunnel { folder: place.folder.clone(), port: PORT };
    tokio::spawn(async move {
        if let Ok(driver) = place.accept().await {
            drop(place);
            forward(driver, server).await;
        }
    });
    Ok(tunnel)
}

/// Forwards the bytes of both sides, until one side closes.
async fn forward(driver: UnixStream, server: TlsStream<TcpStream>) {
    let (mut from_driver, mut to_driver) = driver.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let requests = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            match from_driver.read(&mut buffer).await {
                Ok(length @ 1..) => to_server.write_all(&buffer[..length]).await?,
                _ => return io::Result::Ok(()),
            }
            to_server.flush().await?;
        }
    };
    let answers = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if to_driver.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        () = answers => {}
    }
    drop((from_driver, to_driver));
    let _ = tokio::time::timeout(CLOSING, to_server.shutdown()).await;
}

/// How long the driver may take to connect. The driver connects at once or not at all.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A listening socket that only this process can reach.
struct Place {
    listener: UnixListener,
    folder: PathBuf,
}

impl Place {
    async fn accept(&self) -> io::Result<UnixStream> {
        let arrival = async {
            loop {
                let (stream, _) = self.listener.accept().await?;
                if is_this_process(&stream) {
                    return Ok(stream);
                }
            }
        };
        tokio::time::timeout(ARRIVAL, arrival).await?
    }
}

/// On Linux, the socket has a name outside of the file system: a container may have no writable
/// folder. Such a name has no owner, so the peer's process is checked.
#[cfg(any(target_os = "linux", target_os = "android"))]
impl Place {
    fn new() -> io::Result<Self> {
        let folder = PathBuf::from(format!("\0trust-auth-{}", Uuid::new_v4().simple()));
        let listener = UnixListener::bind(format!("{}/.s.PGSQL.{PORT}", folder.display()))?;
        Ok(Self { listener, folder })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_this_process(stream: &UnixStream) -> bool {
    let own = i32::try_from(std::process::id()).ok();
    own.is_some() && stream.peer_cred().is_ok_and(|peer| peer.pid() == own)
}

/// On other systems, the socket is in a folder that only this user may enter.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Place {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = std::env::temp_dir().join(format!("trust-auth-{}", Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let listener = UnixListener::bind(folder.join(format!(".s.PGSQL.{PORT}")))?;
        Ok(Self { listener, folder })
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_this_process(_: &UnixStream) -> bool {
    true
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
