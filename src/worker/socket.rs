//! One worker's WebSocket (RFC 6455), the same for both roles. Made for a
//! driver that selects over [`WorkerSocket::recv`] and its other inputs in one
//! task: queueing does no I/O, and `recv` sends what is queued, in one write
//! for a whole batch, before it reads.
//!
//! Pings are answered here. Leaves out: compression, which would cost more
//! than it saves on base64 of mu-law, and the meaning of messages.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{Sink, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::direct_writer::DirectWriter;
use super::error::WorkerError;
use super::received::{Backpressure, CloseReason, Ignored, Received, classify};
use super::timed_stream::TimedStream;

/// Most text that waits for a worker: a minute of audio, so that the caller's
/// first words fit at once when a worker attaches late.
pub const BACKLOG_MAX_BYTES: usize = 1024 * 1024;
/// How long text may wait for a worker that does not read.
pub const BACKLOG_MAX_AGE: Duration = Duration::from_secs(5);
/// Largest message and frame taken: 10 minutes of mu-law as base64 (6.4 MB).
pub const MESSAGE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// How long [`WorkerSocket::close`] waits for the worker.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much is handed to the WebSocket at once; leaves in one write.
const BATCH_BYTES: usize = 16 * 1024;
/// One read of the socket. The library allocates it for each socket, always.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Ping and pong frames handled in one poll before others get their turn.
const CONTROL_FRAMES_PER_POLL: usize = 64;

/// The library's settings for both roles.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        // Above a batch: handing over a message never writes by itself.
        .write_buffer_size(2 * BATCH_BYTES)
        .max_write_buffer_size(2 * BACKLOG_MAX_BYTES)
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES))
}

/// Text that waits for the WebSocket.
#[derive(Debug)]
struct Waiting {
    text: Utf8Bytes,
    since: Instant,
}

/// One worker's WebSocket.
#[derive(Debug)]
pub struct WorkerSocket<S = MaybeTlsStream<TcpStream>> {
    stream: WebSocketStream<TimedStream<S>>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Since when the batch inside `stream` waits; `None` when all is written.
    batch_since: Option<Instant>,
    /// Set by a write that found the socket full for too long.
    stalled: bool,
    /// A failed write. What the worker sent before may still be read.
    write_error: Option<WsError>,
    over: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WorkerSocket<S> {
    /// Wraps a stream whose handshake is done. `part` is what was read past it.
    pub(super) async fn new(stream: S, writer: DirectWriter, role: Role, part: Vec<u8>) -> Self {
        let wire = TimedStream::new(stream, writer);
        let stream = WebSocketStream::from_partially_read(wire, part, role, Some(config())).await;
        Self::from_stream(stream)
    }

    /// The short way to this worker. It is open whenever nothing else is
    /// under way, from the first [`Self::recv`] on.
    #[must_use]
    pub fn writer(&self) -> DirectWriter {
        self.stream.get_ref().writer().clone()
    }

    fn from_stream(stream: WebSocketStream<TimedStream<S>>) -> Self {
        Self {
            stream,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            batch_since: None,
            stalled: false,
            write_error: None,
            over: false,
        }
    }

    /// Queues one text message; the next [`Self::recv`] sends it. No I/O.
    ///
    /// # Errors
    /// When too much waits, or has waited too long: the worker is stalled.
    pub fn queue_text(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), Backpressure> {
        let text = text.into();
        if self.stalled || self.waiting_bytes + text.len() > BACKLOG_MAX_BYTES {
            return Err(Backpressure {
                queued_bytes: self.waiting_bytes,
                age: self
                    .oldest()
                    .map_or(Duration::ZERO, |since| since.elapsed()),
            });
        }
        self.stream.get_ref().writer().inner().shut();
        self.waiting_bytes += text.len();
        self.waiting.push_back(Waiting {
            text,
            since: Instant::now(),
        });
        Ok(())
    }

    /// Queues a ping; false when it cannot now, because a batch is under way.
    /// Once in 10 s keeps NATs open and proves the worker alive.
    pub fn ping(&mut self) -> bool {
        let free = self.batch_since.is_none() && self.write_error.is_none() && !self.over;
        if free {
            self.hand_over(Message::Ping(Bytes::new()), Instant::now());
        }
        free
    }

    /// Sends what is queued as far as the socket takes it now, without waiting
    /// for the next [`Self::recv`], which must still follow.
    pub fn flush_now(&mut self) {
        let _ = self.poll_send(&mut Context::from_waker(Waker::noop()));
    }

    /// Waits for the worker, and sends what is queued meanwhile. Cancel-safe:
    /// nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Received {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// How long nothing at all has come from the worker, pongs included.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.stream.get_ref().silent_for()
    }

    /// Bytes of text that wait for the worker.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Sends what is queued and a close frame, and waits for the worker's
    /// answer, [`CLOSE_TIMEOUT`] in all. A worker that does not answer is left.
    pub async fn close(mut self, reason: CloseReason) {
        let _ = timeout(CLOSE_TIMEOUT, self.finish(reason)).await;
    }

    async fn finish(&mut self, reason: CloseReason) {
        if self.over {
            return;
        }
        poll_fn(|cx| self.poll_send(cx)).await;
        // Nothing may follow the close frame.
        self.stream.get_ref().writer().inner().end();
        self.hand_over(Message::Close(Some(reason.frame())), Instant::now());
        while !self.over {
            let _ = self.recv().await;
        }
        // Both halves are closed; a client waits for the server to close the
        // connection below (RFC 6455, 7.1.1), a server does not.
        while let Some(Ok(_)) = self.stream.next().await {}
    }

    /// See [`WorkerSocket::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if self.over {
            return Poll::Ready(Received::Lost(WorkerError::Over));
        }
        self.stream.get_ref().writer().register(cx.waker());
        let _ = self.poll_send(cx);
        for _ in 0..CONTROL_FRAMES_PER_POLL {
            let next = match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    // All that came before the failure has been read.
                    let error = match self.write_error.take() {
                        Some(error) => error,
                        None => return Poll::Pending,
                    };
                    return Poll::Ready(self.lost(error));
                }
            };
            match next {
                Some(Ok(Message::Text(text))) => return Poll::Ready(Received::Text(text)),
                Some(Ok(Message::Binary(bytes))) => {
                    return Poll::Ready(Received::Ignored(Ignored::Binary {
                        size_bytes: bytes.len(),
                    }));
                }
                Some(Ok(Message::Close(frame))) => return Poll::Ready(self.closed(frame, cx)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Poll::Ready(self.lost(error)),
                None => return Poll::Ready(self.lost(WsError::ConnectionClosed)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands batches to the WebSocket and writes them until the socket is full.
    /// A failure is kept for the reader, who may find a close frame before it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.write_error.is_some() {
                self.waiting.clear();
                self.waiting_bytes = 0;
                return Poll::Ready(());
            }
            if self.batch_since.is_none() && !self.hand_over_batch() && !self.take_rest() {
                return Poll::Ready(());
            }
            let Poll::Ready(result) = Pin::new(&mut self.stream).poll_flush(cx) else {
                self.stalled = self
                    .oldest()
                    .is_some_and(|since| since.elapsed() > BACKLOG_MAX_AGE);
                return Poll::Pending;
            };
            self.batch_since = None;
            self.stalled = false;
            if let Err(error) = result {
                self.write_error = Some(error);
            }
        }
    }

    /// Moves one batch into the WebSocket's buffer. False when nothing waits.
    fn hand_over_batch(&mut self) -> bool {
        let mut batch_bytes = 0;
        while batch_bytes < BATCH_BYTES {
            let Some(Waiting { text, since }) = self.waiting.pop_front() else {
                break;
            };
            batch_bytes += text.len();
            self.waiting_bytes -= text.len();
            self.hand_over(Message::Text(text), since);
        }
        self.batch_since.is_some()
    }

    /// Whether the direct writer left something over; opens it where nothing is.
    fn take_rest(&mut self) -> bool {
        let mut inner = self.stream.get_ref().writer().inner();
        let rest = !inner.rest().is_empty();
        if !rest {
            inner.reopen();
            return false;
        }
        drop(inner);
        self.batch_since = Some(Instant::now());
        true
    }

    fn hand_over(&mut self, message: Message, since: Instant) {
        self.stream.get_ref().writer().inner().shut();
        match Pin::new(&mut self.stream).start_send(message) {
            Ok(()) => {
                self.batch_since.get_or_insert(since);
            }
            Err(error) => self.write_error = Some(error),
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.batch_since
            .or_else(|| self.waiting.front().map(|first| first.since))
    }

    /// Nothing follows: the direct writer's handle must not keep the connection open.
    fn end(&mut self) {
        self.over = true;
        self.stream.get_ref().writer().inner().end();
    }

    fn closed(&mut self, frame: Option<CloseFrame>, cx: &mut Context<'_>) -> Received {
        self.end();
        // Sends our half of the closing handshake, which the library has queued.
        let _ = Pin::new(&mut self.stream).poll_flush(cx);
        let code = frame.map_or(CloseCode::Status, |frame| frame.code);
        Received::Closed {
            normal: matches!(code, CloseCode::Normal | CloseCode::Status),
            code: code.into(),
        }
    }

    /// Ends the socket after a failure, telling the worker where it broke a rule.
    fn lost(&mut self, error: WsError) -> Received {
        self.end();
        let (code, error) = classify(error);
        if let Some(code) = code {
            let frame = CloseFrame {
                code,
                reason: "".into(),
            };
            self.hand_over(Message::Close(Some(frame)), Instant::now());
            let _ = Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(Waker::noop()));
        }
        Received::Lost(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

    /// One end of a pipe that counts the writes that went through.
    #[derive(Debug)]
    struct Counted {
        pipe: DuplexStream,
        writes: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let result = Pin::new(&mut self.pipe).poll_write(cx, bytes);
            self.writes += usize::from(result.is_ready());
            result
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_shutdown(cx)
        }
    }

    /// A server-side socket and the worker's raw end of the pipe.
    async fn socket(pipe_bytes: usize) -> (WorkerSocket<Counted>, DuplexStream) {
        let (pipe, worker) = duplex(pipe_bytes);
        let counted = Counted { pipe, writes: 0 };
        let writer = DirectWriter::new(None, Role::Server);
        let socket = WorkerSocket::new(counted, writer, Role::Server, Vec::new()).await;
        (socket, worker)
    }

    /// A worker that speaks WebSocket over its end of the pipe.
    async fn client(worker: DuplexStream) -> WebSocketStream<DuplexStream> {
        WebSocketStream::from_raw_socket(worker, Role::Client, None).await
    }

    fn writes(socket: &WorkerSocket<Counted>) -> usize {
        socket.stream.get_ref().stream().writes
    }

    /// Polls `recv` once, as a driver's select does when nothing has come.
    async fn poll_once(socket: &mut WorkerSocket<Counted>) -> Option<Received> {
        tokio::select! {
            biased;
            received = socket.recv() => Some(received),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_batch_leaves_in_one_write_at_the_first_poll() {
        let (mut socket, worker) = socket(64 * 1024).await;
        let mut worker = client(worker).await;
        for number in 0..20 {
            socket.queue_text(format!("{number}")).unwrap();
        }
        assert_eq!(writes(&socket), 0, "queueing does no I/O");
        assert!(poll_once(&mut socket).await.is_none());
        assert_eq!(writes(&socket), 1);
        for number in 0..20 {
            let message = worker.next().await.unwrap().unwrap();
            assert_eq!(message.into_text().unwrap().as_str(), format!("{number}"));
        }
        socket.queue_text("now").unwrap();
        socket.flush_now();
        assert_eq!(writes(&socket), 2);
    }

    #[tokio::test]
    async fn dropping_recv_half_way_loses_nothing() {
        let (mut socket, mut worker) = socket(64 * 1024).await;
        let frame: &[u8] = &[0x81, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
        for byte in frame {
            assert!(poll_once(&mut socket).await.is_none());
            worker.write_all(&[*byte]).await.unwrap();
        }
        let received = poll_once(&mut socket).await;
        assert!(matches!(received, Some(Received::Text(text)) if text.as_str() == "hello"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_never_reads_is_noticed_by_time() {
        let (mut socket, _worker) = socket(256).await;
        let media = "m".repeat(350);
        let started = Instant::now();
        let backlog = loop {
            if let Err(backlog) = socket.queue_text(media.as_str()) {
                break backlog;
            }
            assert!(poll_once(&mut socket).await.is_none());
            tokio::time::advance(Duration::from_millis(20)).await;
        };
        let after = started.elapsed();
        assert!(after > BACKLOG_MAX_AGE && after < BACKLOG_MAX_AGE + Duration::from_millis(100));
        assert!(backlog.age >= BACKLOG_MAX_AGE);
        assert!(backlog.queued_bytes < 256 * 350);
    }

    #[tokio::test]
    async fn the_backlog_is_bounded_in_bytes_and_drains() {
        let (mut socket, worker) = socket(4 * 1024).await;
        let text = "t".repeat(1024);
        let mut queued = 0;
        while socket.queue_text(text.as_str()).is_ok() {
            queued += 1;
        }
        assert_eq!(queued, BACKLOG_MAX_BYTES / 1024);
        let mut worker = client(worker).await;
        let reading = tokio::spawn(async move {
            for _ in 0..queued {
                assert!(worker.next().await.unwrap().unwrap().is_text());
            }
        });
        tokio::select! {
            received = socket.recv() => {
                assert!(matches!(received, Received::Lost(WorkerError::Dropped)), "{received:?}");
            }
            done = reading => done.unwrap(),
        }
        assert_eq!(socket.queued_bytes(), 0);
        assert!(socket.queue_text("more").is_ok());
    }

    #[tokio::test]
    async fn the_lane_tells_for_how_long_something_has_waited() {
        let (mut socket, mut worker) = socket(1_024).await;
        let writer = socket.writer();
        assert_eq!(writer.busy_for(), Duration::ZERO);
        socket.queue_text("x".repeat(5_000)).unwrap();
        assert!(poll_once(&mut socket).await.is_none());
        std::thread::sleep(Duration::from_millis(5));
        assert!(poll_once(&mut socket).await.is_none());
        assert!(writer.busy_for() >= Duration::from_millis(5));
        let mut read = [0; 5_004];
        let reading = worker.read_exact(&mut read);
        tokio::pin!(reading);
        while futures_util::poll!(&mut reading).is_pending() {
            assert!(poll_once(&mut socket).await.is_none());
        }
        assert!(poll_once(&mut socket).await.is_none());
        assert_eq!(writer.busy_for(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_ping_is_answered_though_we_send_nothing() {
        let (mut socket, mut worker) = socket(4 * 1024).await;
        worker
            .write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i'])
            .await
            .unwrap();
        assert!(poll_once(&mut socket).await.is_none());
        let mut pong = [0; 4];
        worker.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, &[0x8a, 2, b'h', b'i']);
    }

    #[tokio::test]
    async fn a_flood_of_pings_does_not_hold_the_driver() {
        let (mut socket, mut worker) = socket(64 * 1024).await;
        let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(1_000);
        worker.write_all(&pings).await.unwrap();
        // Pending once per budget, each time with its own wake-up.
        let mut polls = 0;
        let mut cx = Context::from_waker(Waker::noop());
        while writes(&socket) < 1_000 && polls < 1_000 {
            assert!(socket.poll_recv(&mut cx).is_pending());
            polls += 1;
            tokio::task::yield_now().await;
        }
        assert_eq!(writes(&socket), 1_000);
        assert!(polls >= 1_000 / CONTROL_FRAMES_PER_POLL, "{polls}");
    }

    #[tokio::test(start_paused = true)]
    async fn our_ping_goes_out_and_the_pong_is_heard() {
        let (mut socket, mut worker) = socket(4 * 1024).await;
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(socket.silent_for(), Duration::from_secs(10));
        assert!(socket.ping());
        assert!(poll_once(&mut socket).await.is_none());
        let mut ping = [0; 2];
        worker.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        worker.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.unwrap();
        assert!(poll_once(&mut socket).await.is_none());
        assert_eq!(socket.silent_for(), Duration::ZERO);
    }

    #[tokio::test]
    async fn close_frames_and_drops_are_told_apart() {
        for (frame, normal, code) in [
            (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8][..], true, 1000),
            (&[0x88, 0x80, 0, 0, 0, 0][..], true, 1005),
            (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9][..], false, 1001),
            (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf3][..], false, 1011),
        ] {
            let (mut socket, mut worker) = socket(4 * 1024).await;
            worker.write_all(frame).await.unwrap();
            let received = socket.recv().await;
            assert!(
                matches!(received, Received::Closed { normal: n, code: c } if n == normal && c == code),
                "{received:?}"
            );
            let mut answer = [0; 2];
            worker.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[0], 0x88, "the close is answered at once");
            assert!(matches!(
                socket.recv().await,
                Received::Lost(WorkerError::Over)
            ));
        }
        let (mut socket, worker) = socket(4 * 1024).await;
        drop(worker);
        assert!(matches!(
            socket.recv().await,
            Received::Lost(WorkerError::Dropped)
        ));
    }

    #[tokio::test]
    async fn what_came_before_a_failed_write_is_still_read() {
        let (mut socket, mut worker) = socket(4 * 1024).await;
        worker
            .write_all(&[0x81, 0x81, 0, 0, 0, 0, b'a'])
            .await
            .unwrap();
        worker.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        drop(worker);
        socket.queue_text("too late").unwrap();
        assert!(matches!(socket.recv().await, Received::Text(text) if text.as_str() == "a"));
        assert!(matches!(
            socket.recv().await,
            Received::Closed { normal: true, .. }
        ));
    }

    #[tokio::test]
    async fn broken_rules_end_the_socket_with_their_code() {
        let oversized = [0x81, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0];
        let not_utf8 = [0x81, 0x81, 0, 0, 0, 0, 0xff];
        let unmasked = [0x81, 0x01, b'a'];
        for (bytes, code) in [
            (&oversized[..], 1009),
            (&not_utf8[..], 1007),
            (&unmasked[..], 1002),
        ] {
            let (mut socket, mut worker) = socket(4 * 1024).await;
            worker.write_all(bytes).await.unwrap();
            let received = socket.recv().await;
            assert!(
                matches!(
                    (&received, code),
                    (Received::Lost(WorkerError::MessageTooLarge { .. }), 1009)
                        | (Received::Lost(WorkerError::NotUtf8), 1007)
                        | (Received::Lost(WorkerError::Protocol(_)), 1002)
                ),
                "{received:?}"
            );
            let mut close = [0; 4];
            worker.read_exact(&mut close).await.unwrap();
            assert_eq!(u16::from_be_bytes([close[2], close[3]]), code);
        }
    }

    #[tokio::test]
    async fn binary_messages_are_ignored_and_the_socket_lives() {
        let (mut socket, mut worker) = socket(4 * 1024).await;
        worker
            .write_all(&[0x82, 0x82, 0, 0, 0, 0, 1, 2])
            .await
            .unwrap();
        worker.write_all(&[0x81, 0x80, 0, 0, 0, 0]).await.unwrap();
        assert!(matches!(
            socket.recv().await,
            Received::Ignored(Ignored::Binary { size_bytes: 2 })
        ));
        assert!(matches!(socket.recv().await, Received::Text(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_sends_what_is_queued_and_is_bounded_in_time() {
        let (mut socket, worker) = socket(4 * 1024).await;
        socket.queue_text("last words").unwrap();
        let closing = tokio::spawn(socket.close(CloseReason::CallOver));
        let mut worker = client(worker).await;
        let first = worker.next().await.unwrap().unwrap();
        assert_eq!(first.into_text().unwrap().as_str(), "last words");
        let close = worker.next().await.unwrap().unwrap();
        assert!(matches!(close, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
        assert!(worker.next().await.is_none());
        closing.await.unwrap();

        let (socket, _deaf_worker) = self::socket(4 * 1024).await;
        let started = Instant::now();
        socket.close(CloseReason::Shutdown).await;
        assert_eq!(started.elapsed(), CLOSE_TIMEOUT);
    }
}
