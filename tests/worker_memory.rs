//! What one attached worker costs: issue 2 allows 0.3 MB for a whole call.
#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sipbridge::core::ids::{CallId, Token};
use sipbridge::worker::{AttachTable, Received, StreamServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WORKERS: usize = 400;

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Opens a WebSocket by hand: a library's client would cost more than what is
/// measured.
async fn dial(addr: SocketAddr, call: &CallId, token: &Token) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET /media-stream/{call}?token={} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token.expose()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 101"));
    stream
}

#[tokio::test]
async fn an_attached_worker_costs_little_memory() {
    let attach_table = AttachTable::default();
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let server = StreamServer::bind(any, attach_table.clone()).await.unwrap();
    let mut calls = Vec::with_capacity(WORKERS);
    let before = resident_bytes();
    for _ in 0..WORKERS {
        let (call, token) = (CallId::random(), Token::random());
        let mut ticket = attach_table.expect(call.clone(), token.clone());
        let mut worker = dial(server.local_addr(), &call, &token).await;
        let mut socket = ticket.attached().await;
        // A second of audio each way in messages of 20 ms.
        for _ in 0..50 {
            socket.queue_text("m".repeat(350)).unwrap();
            let mut frame = vec![0x81, 0x80 | 126, 1, 94, 0, 0, 0, 0];
            frame.resize(8 + 350, b'w');
            worker.write_all(&frame).await.unwrap();
            assert!(matches!(socket.recv().await, Received::Text(_)));
        }
        calls.push((socket, worker, ticket));
    }
    let each = (resident_bytes() - before) / WORKERS;
    println!("{each} bytes for each attached worker, its raw client included");
    assert!(each < 24 * 1024, "{each} bytes for each worker");
}
