//! [`Output`]: a client's connection that tells whether something was written to it which it does not take yet.

use std::io::{Error, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// A connection. What is written goes to the kernel, until that has no room because the client
/// reads slowly.
pub(crate) struct Output<C> {
    connection: C,
    stuck: Stuck,
}

/// Whether the last write found no room. A clone means the same connection.
#[derive(Clone, Default)]
pub(crate) struct Stuck(Arc<AtomicBool>);

impl Stuck {
    pub(crate) fn is(&self) -> bool {
        // Relaxed: whoever looks is the task that writes.
        self.0.load(Ordering::Relaxed)
    }
}

impl<C> Output<C> {
    pub(crate) fn new(connection: C) -> Self {
        Self { connection, stuck: Stuck::default() }
    }

    pub(crate) fn stuck(&self) -> Stuck {
        self.stuck.clone()
    }

    fn noted<T>(&self, poll: Poll<T>) -> Poll<T> {
        // Relaxed: as in `is`.
        self.stuck.0.store(poll.is_pending(), Ordering::Relaxed);
        poll
    }
}

impl<C: Read + Unpin> Read for Output<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: Write + Unpin> Write for Output<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let poll = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.noted(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let poll = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.noted(poll)
    }
}
