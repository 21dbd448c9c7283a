//! [`ClientStream`]: the connection of a client, which closes without a reset and reports whether
//! output is pending.
//!
//! The kernel resets a connection that is closed with input unread, and a reset discards an answer
//! in transit. Without the wrapper, a proxy whose request is too long would see a broken connection
//! instead of the 431.

use std::io::{Error, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep};

/// How long a client may send after the last answer.
const DISCARD_LIMIT: Duration = Duration::from_secs(5);

/// How many bytes a client may send after the last answer.
const DISCARD_BYTES: usize = 8 * 1024 * 1024;

/// A connection. Its shutdown sends the end of the output, and then discards the input for a while,
/// if the client still sends.
pub(crate) struct ClientStream<C> {
    stream: C,
    pending: PendingOutput,
    /// Whether the end of the output was sent.
    is_shut: bool,
    discarded: usize,
    /// Set once input was found that the service will not read.
    end: Option<Pin<Box<Sleep>>>,
}

/// Whether the last write found no room, because the client reads slowly. A clone means the same
/// connection.
#[derive(Clone, Default)]
pub(crate) struct PendingOutput(Arc<AtomicBool>);

impl PendingOutput {
    pub(crate) fn is_pending(&self) -> bool {
        // Relaxed: the task that reads the flag is the task that writes it.
        self.0.load(Ordering::Relaxed)
    }
}

impl<C> ClientStream<C> {
    pub(crate) fn new(stream: C) -> Self {
        let pending = PendingOutput::default();
        Self { stream, pending, is_shut: false, discarded: 0, end: None }
    }

    pub(crate) fn pending_output(&self) -> PendingOutput {
        self.pending.clone()
    }

    /// Records whether the write found room.
    fn record<T>(&self, write: Poll<T>) -> Poll<T> {
        // Relaxed: as in `is_pending`.
        self.pending.0.store(write.is_pending(), Ordering::Relaxed);
        write
    }
}

impl<C: Read + Unpin> ClientStream<C> {
    /// Becomes ready when the client has sent its end, when no input is there, or when a limit is
    /// reached.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut bytes = [0; 8 * 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(context, buffer.unfilled()) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.discarded += buffer.filled().len(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    // The usual end: the client is idle, and there is nothing to wait for.
                    let Some(end) = &mut self.end else { return Poll::Ready(()) };
                    return end.as_mut().poll(context);
                }
            }
            let end = self.end.get_or_insert_with(|| Box::pin(sleep(DISCARD_LIMIT)));
            if self.discarded > DISCARD_BYTES || end.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
    }
}

impl<C: Read + Unpin> Read for ClientStream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<C: Read + Write + Unpin> Write for ClientStream<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.record(write)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.is_shut = true;
        }
        self.poll_discard(context).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.record(write)
    }
}
