//! [`Lingering`]: a connection that is closed without a reset while its client still sends.
//!
//! The kernel resets a connection that is closed with input unread, and a reset discards the answer
//! on its way: of a refused request that is long, a proxy would see no 431 but a broken connection.

use std::io::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep};

/// How long a client may go on sending after the last answer.
const LONGEST: Duration = Duration::from_secs(5);

/// How much it may send until then.
const MOST: usize = 8 * 1024 * 1024;

/// A connection. Shutting it down sends the end of the output, and then discards the input for a
/// while, if there is any.
pub(crate) struct Lingering<C> {
    connection: C,
    /// Whether the end of the output was sent.
    is_shut: bool,
    discarded: usize,
    /// Set once input was found that nothing will read.
    end: Option<Pin<Box<Sleep>>>,
}

impl<C> Lingering<C> {
    pub(crate) fn new(connection: C) -> Self {
        Self { connection, is_shut: false, discarded: 0, end: None }
    }
}

impl<C: Read + Unpin> Lingering<C> {
    /// Ready when the client has sent its end, nothing is there to be read, or the client had its
    /// time.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut bytes = [0; 8 * 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.connection).poll_read(context, buffer.unfilled()) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.discarded += buffer.filled().len(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    // Idle: the usual end, which waits for nothing.
                    let Some(end) = &mut self.end else { return Poll::Ready(()) };
                    return end.as_mut().poll(context);
                }
            }
            let end = self.end.get_or_insert_with(|| Box::pin(sleep(LONGEST)));
            if self.discarded > MOST || end.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
    }
}

impl<C: Read + Unpin> Read for Lingering<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: Read + Write + Unpin> Write for Lingering<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if !self.is_shut {
            std::task::ready!(Pin::new(&mut self.connection).poll_shutdown(context))?;
            self.is_shut = true;
        }
        self.poll_discard(context).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }
}
