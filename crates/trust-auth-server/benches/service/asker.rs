//! [`Asker`]: a client that needs almost no processor time, so that the service is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One connection, which is kept open.
pub(crate) struct Asker {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Asker {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream, received: Vec::with_capacity(1_024) }
    }

    /// Returns the status for this key.
    pub(crate) fn verify(&mut self, key: &str) -> u16 {
        let request = format!("GET /verify HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).unwrap();
        self.received.clear();
        loop {
            if let Some(status) = self.whole_answer() {
                return status;
            }
            let mut more = [0; 1_024];
            let read = self.stream.read(&mut more).unwrap();
            assert_ne!(read, 0, "the connection was closed without an answer");
            self.received.extend_from_slice(&more[..read]);
        }
    }

    fn whole_answer(&self) -> Option<u16> {
        let head = self.received.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = std::str::from_utf8(&self.received[..head]).unwrap();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (self.received.len() == head + 4 + length).then_some(status)
    }
}
