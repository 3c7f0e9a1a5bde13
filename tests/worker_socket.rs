//! Workers over real sockets: who may attach, and what a bad one does to us.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sipbridge::core::ids::{CallId, Token};
use sipbridge::worker::{
    AttachTable, Backpressure, CloseReason, Dialer, Ignored, Received, StreamServer, Ticket,
    WorkerError, WorkerSocket, attach_url,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

type Worker = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Bridge {
    server: StreamServer,
    attach_table: AttachTable,
}

impl Bridge {
    async fn start() -> Self {
        let attach_table = AttachTable::default();
        let server = StreamServer::bind(ANY, attach_table.clone()).await.unwrap();
        Self {
            server,
            attach_table,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    fn url(&self, call: &CallId, token: &Token) -> String {
        let base = format!("ws://{}", self.addr());
        attach_url(&base, call, token).expose().to_owned()
    }

    /// A call that waits, and where its worker dials.
    fn expect(&self) -> (Ticket, String) {
        let (call, token) = (CallId::random(), Token::random());
        let ticket = self.attach_table.expect(call.clone(), token.clone());
        (ticket, self.url(&call, &token))
    }

    async fn attached(&self) -> (WorkerSocket, Worker, Ticket) {
        let (mut ticket, url) = self.expect();
        let (worker, _) = connect_async(url).await.unwrap();
        (ticket.attached().await, worker, ticket)
    }
}

/// The HTTP status that a dialling worker gets.
async fn status(url: &str) -> u16 {
    match connect_async(url).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(WsError::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

/// Sends raw bytes and returns what comes back until the connection ends.
async fn raw(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn next(socket: &mut WorkerSocket) -> Received {
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv()).await;
    received.unwrap_or_else(|_| panic!("nothing came"))
}

#[tokio::test]
async fn a_worker_attaches_and_text_goes_both_ways() {
    let bridge = Bridge::start().await;
    let (mut socket, mut worker, _ticket) = bridge.attached().await;
    socket.queue_text("to the worker").unwrap();
    worker.send(Message::text("to the bridge")).await.unwrap();
    let received = next(&mut socket).await;
    assert!(matches!(received, Received::Text(text) if text.as_str() == "to the bridge"));
    let message = worker.next().await.unwrap().unwrap();
    assert_eq!(message.into_text().unwrap().as_str(), "to the worker");
}

#[tokio::test]
async fn each_refusal_has_its_status() {
    let bridge = Bridge::start().await;
    let (call, token) = (CallId::random(), Token::random());
    let mut ticket = bridge.attach_table.expect(call.clone(), token.clone());
    let good = bridge.url(&call, &token);

    assert_eq!(status(&bridge.url(&CallId::random(), &token)).await, 404);
    assert_eq!(status(&format!("ws://{}/other", bridge.addr())).await, 404);
    assert_eq!(status(&bridge.url(&call, &Token::random())).await, 401);
    assert_eq!(status(good.split('?').next().unwrap()).await, 401);
    assert_eq!(status(&good).await, 101);
    assert_eq!(status(&good).await, 409);
    let _socket = ticket.attached().await;

    let second = Token::random();
    ticket.renew(second.clone()).unwrap();
    assert_eq!(status(&good).await, 401, "a token belongs to one attempt");
    assert_eq!(status(&bridge.url(&call, &second)).await, 101);
    let _socket = ticket.attached().await;

    ticket.finish();
    assert_eq!(status(&bridge.url(&call, &second)).await, 410);
}

#[tokio::test]
async fn what_is_no_websocket_request_is_told_so() {
    let bridge = Bridge::start().await;
    let path = format!("/media-stream/{}", CallId::random());
    let plain = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    for (request, expected) in [
        (plain.clone(), "HTTP/1.1 426"),
        (plain.replace("GET", "POST"), "HTTP/1.1 405"),
        ("\r\n\r\n\r\n\r\n".into(), "HTTP/1.1 400"),
        (
            format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(9_000)),
            "HTTP/1.1 431",
        ),
        ("\x16\x03\x01\x02\x00\r\n\r\n".into(), "HTTP/1.1 400"),
    ] {
        let answer = raw(bridge.addr(), request.as_bytes()).await;
        assert!(answer.starts_with(expected), "{answer}");
        assert!(answer.contains("Connection: "), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_workers_that_race_for_a_token_exactly_one_wins() {
    let bridge = Bridge::start().await;
    for _ in 0..20 {
        let (mut ticket, url) = bridge.expect();
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move { status(&url).await })
            })
            .collect();
        let mut statuses = Vec::new();
        for racer in racers {
            statuses.push(racer.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [101, 409, 409, 409, 409, 409, 409, 409]);
        let _socket = ticket.attached().await;
    }
}

#[tokio::test]
async fn idle_connections_neither_block_workers_nor_stay() {
    let bridge = Bridge::start().await;
    let mut idle = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(bridge.addr()).await.unwrap();
        stream.write_all(b"GET /media").await.unwrap();
        idle.push(stream);
    }
    let started = Instant::now();
    let (_socket, _worker, _ticket) = bridge.attached().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    // The oldest were dropped for want of room, the youngest get 408 in time.
    let mut byte = [0];
    assert!(!matches!(idle[0].read(&mut byte).await, Ok(1..)));
    let mut answer = String::new();
    let _ = idle.last_mut().unwrap().read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(7));
}

#[tokio::test]
async fn a_call_that_ends_while_its_worker_attaches_closes_it() {
    let bridge = Bridge::start().await;
    let (ticket, url) = bridge.expect();
    let (mut worker, _) = connect_async(url).await.unwrap();
    while !ticket.is_claimed() {
        tokio::task::yield_now().await;
    }
    ticket.finish();
    let closed = tokio::time::timeout(Duration::from_secs(5), worker.next())
        .await
        .unwrap();
    assert!(
        matches!(&closed, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1000),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_worker_that_never_reads_is_noticed() {
    let bridge = Bridge::start().await;
    let (mut socket, _worker, _ticket) = bridge.attached().await;
    // What the kernels hold counts as sent: the rest must be noticed.
    let media = "m".repeat(350);
    let mut sent = 0;
    let backlog: Backpressure = loop {
        match socket.queue_text(media.as_str()) {
            Ok(()) => sent += media.len(),
            Err(backlog) => break backlog,
        }
        socket.flush_now();
        // Renews tokio's budget for I/O.
        tokio::task::yield_now().await;
    };
    assert!(backlog.queued_bytes > 900_000);
    let in_kernels = sent - backlog.queued_bytes;
    println!("held by the kernels: {in_kernels} bytes");
    assert!(
        in_kernels < 1_500_000,
        "{in_kernels} bytes, minutes of audio"
    );
    let started = Instant::now();
    socket.close(CloseReason::Stalled).await;
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_flood_comes_through_whole_and_in_order() {
    let bridge = Bridge::start().await;
    let (mut socket, mut worker, _ticket) = bridge.attached().await;
    let flood = tokio::spawn(async move {
        for number in 0..20_000 {
            worker
                .feed(Message::text(number.to_string()))
                .await
                .unwrap();
        }
        worker.close(None).await.unwrap();
    });
    for number in 0..20_000 {
        let received = next(&mut socket).await;
        assert!(matches!(received, Received::Text(text) if text.as_str() == number.to_string()));
    }
    let received = next(&mut socket).await;
    assert!(
        matches!(
            received,
            Received::Closed {
                normal: true,
                code: 1005
            }
        ),
        "{received:?}"
    );
    flood.await.unwrap();
}

#[tokio::test]
async fn ten_minutes_of_audio_in_one_message_are_taken_and_more_than_8_mib_are_not() {
    let bridge = Bridge::start().await;
    let (mut socket, mut worker, _ticket) = bridge.attached().await;
    let sending = tokio::spawn(async move {
        worker.send(Message::binary(vec![0; 10])).await.unwrap();
        worker
            .send(Message::text("a".repeat(6_400_200)))
            .await
            .unwrap();
        let _ = worker
            .send(Message::text("a".repeat(8 * 1024 * 1024 + 1)))
            .await;
        worker
    });
    let received = next(&mut socket).await;
    assert!(matches!(
        received,
        Received::Ignored(Ignored::Binary { size_bytes: 10 })
    ));
    let received = next(&mut socket).await;
    assert!(matches!(received, Received::Text(text) if text.len() == 6_400_200));
    let received = next(&mut socket).await;
    assert!(
        matches!(
            received,
            Received::Lost(WorkerError::MessageTooLarge { .. })
        ),
        "{received:?}"
    );
    drop(socket);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_dropped_connection_is_lost_and_a_reset_too() {
    let bridge = Bridge::start().await;
    let (mut socket, worker, _ticket) = bridge.attached().await;
    drop(worker);
    let received = next(&mut socket).await;
    assert!(
        matches!(received, Received::Lost(WorkerError::Dropped)),
        "{received:?}"
    );

    let (mut socket, worker, _ticket) = bridge.attached().await;
    let MaybeTlsStream::Plain(stream) = worker.get_ref() else {
        panic!("not plain");
    };
    stream.set_zero_linger().unwrap();
    drop(worker);
    let received = next(&mut socket).await;
    assert!(
        matches!(received, Received::Lost(WorkerError::Io(_))),
        "{received:?}"
    );
}

#[tokio::test]
async fn pings_are_answered_and_ours_keep_the_worker_heard() {
    let bridge = Bridge::start().await;
    let (mut socket, mut worker, _ticket) = bridge.attached().await;
    worker.send(Message::Ping("hi".into())).await.unwrap();
    let serving = tokio::spawn(async move {
        assert!(socket.ping());
        let received = next(&mut socket).await;
        (socket, received)
    });
    let mut frames = Vec::new();
    for _ in 0..2 {
        let message = worker.next().await.unwrap().unwrap();
        frames.push((message.is_ping(), message.is_pong()));
    }
    frames.sort_unstable();
    assert_eq!(frames, [(false, true), (true, false)]);
    worker.close(None).await.unwrap();
    let (socket, received) = serving.await.unwrap();
    assert!(matches!(received, Received::Closed { .. }), "{received:?}");
    assert!(socket.silent_for() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_stopped_server_frees_its_port_and_attached_workers_live_on() {
    let bridge = Bridge::start().await;
    let (mut socket, mut worker, _ticket) = bridge.attached().await;
    let addr = bridge.addr();
    let error = StreamServer::bind(addr, AttachTable::default())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains(&addr.to_string()) && error.contains("--stream-port"),
        "{error}"
    );
    bridge.server.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
    worker.send(Message::text("still here")).await.unwrap();
    assert!(matches!(next(&mut socket).await, Received::Text(_)));
}

#[tokio::test]
async fn a_dialled_worker_speaks_as_one_that_dialled() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let url = format!("ws://{}/stream?key=1", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut worker = tokio_tungstenite::accept_async(stream).await.unwrap();
        let message = worker.next().await.unwrap().unwrap();
        worker.send(message).await.unwrap();
        while let Some(Ok(_)) = worker.next().await {}
    });
    let dialer = Dialer::new(&url, None).unwrap();
    let mut socket = dialer.dial(Duration::from_secs(5)).await.unwrap();
    socket.queue_text("echo me").unwrap();
    assert!(matches!(next(&mut socket).await, Received::Text(text) if text.as_str() == "echo me"));
    let started = Instant::now();
    socket.close(CloseReason::CallOver).await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "the worker answers the close"
    );
    serving.await.unwrap();
}

#[tokio::test]
async fn dialling_fails_with_its_reason_and_in_time() {
    let dial = async |url: String| {
        let dialer = Dialer::new(&url, None).unwrap();
        dialer.dial(Duration::from_millis(500)).await.err().unwrap()
    };
    let listener = TcpListener::bind(ANY).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let error = dial(format!("ws://user:s3cret@{addr}/x?key=k3y")).await;
    assert!(matches!(error, WorkerError::DialTimeout { .. }), "{error}");
    assert!(error.to_string().contains(&addr.to_string()));
    assert!(!error.to_string().contains("s3cret") && !error.to_string().contains("k3y"));

    drop(listener);
    let error = dial(format!("ws://{addr}/")).await;
    assert!(matches!(error, WorkerError::Connect { .. }), "{error}");
    let error = dial("ws://no-such-host.invalid/".into()).await;
    assert!(
        matches!(
            error,
            WorkerError::Resolve { .. } | WorkerError::DialTimeout { .. }
        ),
        "{error}"
    );

    for (answer, refused) in [
        (&b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"[..], true),
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..], true),
        (&b"SSH-2.0-OpenSSH\r\n\r\n"[..], false),
    ] {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(answer).await.unwrap();
        });
        let error = dial(format!("ws://{addr}/")).await;
        assert_eq!(
            matches!(error, WorkerError::Refused { .. }),
            refused,
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_worker_with_tls_is_dialled_when_its_certificate_is_trusted() {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind(ANY).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut worker = tokio_tungstenite::accept_async(stream).await.unwrap();
            let message = worker.next().await.unwrap().unwrap();
            worker.send(message).await.unwrap();
            let _ = worker.next().await;
        }
    });

    let url = format!("wss://localhost:{port}/");
    let untrusting = Dialer::new(&url, None).unwrap();
    let error = untrusting.dial(Duration::from_secs(5)).await.err().unwrap();
    assert!(matches!(error, WorkerError::Tls { .. }), "{error}");

    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), made.cert.pem()).unwrap();
    let dialer = Dialer::new(&url, Some(ca.path())).unwrap();
    let mut socket = dialer.dial(Duration::from_secs(5)).await.unwrap();
    socket.queue_text("secret words").unwrap();
    assert!(
        matches!(next(&mut socket).await, Received::Text(text) if text.as_str() == "secret words")
    );
}

/// Push mode against servers and proxies that write their answer in their own way.
#[tokio::test]
async fn the_answers_of_foreign_servers_are_taken_and_what_follows_them_too() {
    for (connection, upgrade) in [
        ("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
        ("connection:upgrade", "UPGRADE: WebSocket"),
        (
            "Connection: Keep-Alive\r\nConnection: Upgrade",
            "Upgrade : websocket ",
        ),
    ] {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let url = format!("ws://{}/media", listener.local_addr().unwrap());
        let dialer = Dialer::new(&url, None).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
            }
            let head = String::from_utf8(head).unwrap();
            let key = head
                .lines()
                .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
            let accept = derive_accept_key(key.unwrap().as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nServer: nginx\r\n{upgrade}\r\n{connection}\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n\u{1}"
            );
            let mut bytes = answer.into_bytes();
            // A text frame in the same segment.
            bytes.pop();
            bytes.extend([0x81, 2, b'h', b'i']);
            stream.write_all(&bytes).await.unwrap();
            stream
        });
        let dialled = dialer.dial(Duration::from_secs(5)).await;
        let mut socket = dialled.unwrap_or_else(|error| panic!("{connection}: {error}"));
        match next(&mut socket).await {
            Received::Text(text) => assert_eq!(text.as_str(), "hi"),
            other => panic!("{other:?}"),
        }
        drop(server.await.unwrap());
    }
}
