//! How messages get to the bridge: a UDP socket, or a TCP or TLS connection
//! that is made again when it breaks.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longest wait for a write; a bridge that reads nothing more is found by the
/// probe.
const WRITE_LIMIT: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub enum Kind {
    Udp,
    Tcp,
    /// With the certificate that is trusted, for the name `localhost`.
    Tls(Arc<ClientConfig>),
}

impl Kind {
    /// TLS that trusts this certificate only.
    pub fn tls(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Self::Tls(Arc::new(config))
    }

    /// As in Via, and as `--sip-transport` has it in small letters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls(_) => "TLS",
        }
    }
}

trait Stream: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

/// One end of a transport.
pub struct Wire {
    kind: Kind,
    remote: SocketAddr,
    pub local: SocketAddr,
    udp: Option<UdpSocket>,
    stream: Option<Box<dyn Stream>>,
    received: Vec<u8>,
}

impl Wire {
    /// From that address of this machine.
    pub fn open(kind: Kind, from: Ipv4Addr, remote: SocketAddr) -> Self {
        let mut wire = Self {
            kind,
            remote,
            local: (from, 0).into(),
            udp: None,
            stream: None,
            received: Vec::new(),
        };
        match wire.kind {
            Kind::Udp => {
                let socket = UdpSocket::bind(wire.local).unwrap();
                wire.local = socket.local_addr().unwrap();
                wire.udp = Some(socket);
            }
            _ => drop(wire.connect()),
        }
        wire
    }

    fn connect(&mut self) -> std::io::Result<()> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.local.ip(), 0)).into())?;
        socket.connect_timeout(&self.remote.into(), Duration::from_secs(2))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        self.local = stream.local_addr()?;
        self.received.clear();
        self.stream = Some(match &self.kind {
            Kind::Tls(config) => {
                let name = ServerName::try_from("localhost").unwrap();
                let session = ClientConnection::new(config.clone(), name);
                let mut stream = StreamOwned::new(session.map_err(std::io::Error::other)?, stream);
                stream.flush()?;
                Box::new(stream)
            }
            _ => Box::new(stream),
        });
        Ok(())
    }

    /// Sends bytes as they are, in pieces where the transport is a stream and
    /// `cuts` says so. Whether they went out.
    pub fn send(&mut self, bytes: &[u8], cuts: &[usize]) -> bool {
        if let Some(socket) = &self.udp {
            return socket.send_to(bytes, self.remote).is_ok();
        }
        if self.stream.is_none() && self.connect().is_err() {
            return false;
        }
        let sent = self.write(bytes, cuts).is_ok();
        if !sent {
            self.stream = None;
        }
        sent
    }

    fn write(&mut self, bytes: &[u8], cuts: &[usize]) -> std::io::Result<()> {
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let mut rest = bytes;
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            stream.write_all(piece)?;
            stream.flush()?;
            rest = after;
        }
        stream.write_all(rest)?;
        stream.flush()
    }

    /// Begins anew: what the other side still waits for on this connection is
    /// cut off.
    pub fn reconnect(&mut self) {
        if self.udp.is_none() {
            self.stream = None;
        }
    }

    /// The next message, as text; what is no UTF-8 is shown as such.
    pub fn receive(&mut self, wait: Duration) -> Option<String> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            let left = left.max(Duration::from_micros(200));
            if let Some(socket) = &self.udp {
                let mut buffer = [0; 65_536];
                socket.set_read_timeout(Some(left)).unwrap();
                let count = socket.recv(&mut buffer).ok()?;
                return Some(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
            if let Some(message) = take_message(&mut self.received) {
                return Some(message);
            }
            if Instant::now() > deadline {
                return None;
            }
            self.read(left)?;
        }
    }

    fn read(&mut self, wait: Duration) -> Option<()> {
        let stream = self.stream.as_mut()?;
        stream.tcp().set_read_timeout(Some(wait)).ok()?;
        let mut buffer = [0; 16_384];
        match stream.read(&mut buffer) {
            Ok(0) => self.stream = None,
            Ok(count) => self.received.extend(&buffer[..count]),
            Err(error) if is_timeout(&error) => return None,
            Err(_) => self.stream = None,
        }
        self.stream.as_ref().map(|_| ())
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A whole message from the front of a stream; keep-alives are passed over.
fn take_message(received: &mut Vec<u8>) -> Option<String> {
    let blank = received
        .iter()
        .take_while(|it| b"\r\n".contains(it))
        .count();
    received.drain(..blank);
    let head = received.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
    let length = text.split("content-length:").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
    let end = head + length.unwrap_or(0);
    (received.len() >= end).then(|| {
        let message: Vec<u8> = received.drain(..end).collect();
        String::from_utf8_lossy(&message).into_owned()
    })
}

/// Where an address of the loopback network is drawn from, so that what the
/// bridge allows one source does not end a batch.
pub fn source(number: u64) -> Ipv4Addr {
    let [.., high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 100, middle, 1 + low % 250)
}

/// A UDP socket for media on that address.
pub fn media_socket(from: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    socket
}
