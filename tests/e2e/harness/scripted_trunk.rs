//! A registrar over UDP, TCP or TLS that does what the test says: answers,
//! stays silent, or is out of service. It remembers every request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// 200 to REGISTER, 486 to INVITE.
    Answers,
    /// Nothing at all.
    Silent,
    /// 503.
    Unavailable,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub text: String,
    pub at: Instant,
}

#[derive(Clone)]
struct Shared {
    manner: Arc<Mutex<Manner>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections of an earlier generation are closed.
    generation: watch::Sender<u64>,
    accepted: Arc<Mutex<u64>>,
}

/// See the module.
pub struct ScriptedTrunk {
    pub address: SocketAddr,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Shared {
    fn new(manner: Manner) -> Self {
        Self {
            manner: Arc::new(Mutex::new(manner)),
            seen: Arc::default(),
            generation: watch::Sender::new(0),
            accepted: Arc::default(),
        }
    }

    fn take(&self, text: &str) -> Option<String> {
        let method = text.split(' ').next().unwrap_or_default().to_owned();
        if method.starts_with("SIP/") {
            return None;
        }
        let manner = *self.manner.lock().unwrap();
        self.seen.lock().unwrap().push(Seen {
            method: method.clone(),
            text: text.to_owned(),
            at: Instant::now(),
        });
        let status = match (manner, method.as_str()) {
            (Manner::Silent, _) | (_, "ACK") => return None,
            (Manner::Unavailable, _) => "503 Service Unavailable",
            (Manner::Answers, "INVITE") => "486 Busy Here",
            (Manner::Answers, _) => "200 OK",
        };
        Some(response(text, status))
    }
}

impl ScriptedTrunk {
    pub async fn udp(address: &str, manner: Manner) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Shared::new(manner);
        let task = tokio::spawn(serve_udp(socket, shared.clone()));
        Self {
            address,
            shared,
            task,
        }
    }

    pub async fn tcp(address: &str) -> Self {
        Self::stream(address, None).await
    }

    /// Over TCP, or over TLS with this configuration.
    pub async fn stream(address: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self::accepting(TcpListener::bind(address).await.unwrap(), tls)
    }

    /// On a listener of another network.
    pub fn tcp_on(listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self::accepting(TcpListener::from_std(listener).unwrap(), None)
    }

    fn accepting(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(Manner::Answers);
        let task = tokio::spawn(accept(listener, tls, shared.clone()));
        Self {
            address,
            shared,
            task,
        }
    }

    pub fn become_(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Closes every connection; new ones are taken.
    pub fn close_connections(&self) {
        self.shared
            .generation
            .send_modify(|generation| *generation += 1);
    }

    /// How many connections it has taken.
    pub fn accepted(&self) -> u64 {
        *self.shared.accepted.lock().unwrap()
    }

    /// All requests of a method, retransmissions among them.
    pub fn seen(&self, method: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.method == method)
            .cloned()
            .collect()
    }
}

impl Drop for ScriptedTrunk {
    fn drop(&mut self) {
        self.task.abort();
        self.close_connections();
    }
}

async fn serve_udp(socket: UdpSocket, shared: Shared) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if let Some(reply) = shared.take(&text) {
            let _ = socket.send_to(reply.as_bytes(), from).await;
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>, shared: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        *shared.accepted.lock().unwrap() += 1;
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve_stream(stream, shared).await,
                Some(tls) => {
                    let accepted = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await;
                    if let Ok(stream) = accepted {
                        serve_stream(stream, shared).await;
                    }
                }
            }
        });
    }
}

/// Requests without a body, one after the other.
async fn serve_stream(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Shared) {
    let mut generation = shared.generation.subscribe();
    let mut pending = String::new();
    let mut buffer = vec![0; 16_384];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            _ = generation.changed() => return,
        };
        let Ok(length @ 1..) = read else {
            return;
        };
        pending.push_str(&String::from_utf8_lossy(&buffer[..length]));
        while pending.starts_with("\r\n") {
            pending.drain(..2);
        }
        while let Some(end) = pending.find("\r\n\r\n") {
            let text: String = pending.drain(..end + 4).collect();
            if let Some(reply) = shared.take(&text) {
                if stream.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn response(request: &str, status: &str) -> String {
    let mut reply = format!("SIP/2.0 {status}\r\n");
    for line in request.lines() {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "Via" | "From" | "Call-ID" | "CSeq" => reply.push_str(&format!("{line}\r\n")),
            "To" => reply.push_str(&format!("{line};tag=scripted\r\n")),
            "Contact" if status.starts_with("200") && request.starts_with("REGISTER") => {
                reply.push_str(&format!("{line};expires=300\r\n"));
            }
            _ => {}
        }
    }
    reply + "Content-Length: 0\r\n\r\n"
}
