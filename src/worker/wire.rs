//! A byte stream that knows when it last brought something. Below the
//! WebSocket, so that a large message still on its way counts as life.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::lane::{Lane, Road};

/// A stream and the time of its last byte.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    lane: Lane,
    heard: Instant,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, lane: Lane) -> Self {
        Self {
            stream,
            lane,
            heard: Instant::now(),
        }
    }

    pub(super) fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    #[cfg(test)]
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S> Drop for Wire<S> {
    fn drop(&mut self) {
        self.lane.road().end();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Held until the bytes are written: no frame of the lane comes between.
        let lane = self.lane.clone();
        let mut road = lane.road();
        std::task::ready!(write_rest(&mut self.stream, &mut road, cx))?;
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = result {
            road.note_write(written == bytes.len());
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lane = self.lane.clone();
        std::task::ready!(write_rest(&mut self.stream, &mut lane.road(), cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Writes what the lane left over.
fn write_rest<S: AsyncWrite + Unpin>(
    stream: &mut S,
    road: &mut Road,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !road.rest().is_empty() {
        let written = std::task::ready!(Pin::new(&mut *stream).poll_write(cx, road.rest()))?;
        road.rest().drain(..written);
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
    }
    Poll::Ready(Ok(()))
}
