//! A byte stream that knows when it last brought something. Below the
//! WebSocket, so that a large message still on its way counts as life.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::direct_writer::{DirectWriter, SharedSocket};

/// A stream and the time of its last byte.
#[derive(Debug)]
pub(super) struct TimedStream<S> {
    stream: S,
    writer: DirectWriter,
    heard: Instant,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, writer: DirectWriter) -> Self {
        Self {
            stream,
            writer,
            heard: Instant::now(),
        }
    }

    pub(super) fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    pub(super) fn writer(&self) -> &DirectWriter {
        &self.writer
    }

    #[cfg(test)]
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S> Drop for TimedStream<S> {
    fn drop(&mut self) {
        self.writer.inner().end();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard = Instant::now();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Held until the bytes are written: no frame of the direct writer comes between.
        let writer = self.writer.clone();
        let mut inner = writer.inner();
        std::task::ready!(write_rest(&mut self.stream, &mut inner, cx))?;
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = result {
            inner.note_write(written == bytes.len());
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let writer = self.writer.clone();
        std::task::ready!(write_rest(&mut self.stream, &mut writer.inner(), cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Writes what the direct writer left over.
fn write_rest<S: AsyncWrite + Unpin>(
    stream: &mut S,
    inner: &mut SharedSocket,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !inner.rest().is_empty() {
        let written = std::task::ready!(Pin::new(&mut *stream).poll_write(cx, inner.rest()))?;
        inner.rest().drain(..written);
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
    }
    Poll::Ready(Ok(()))
}
