//! A SIP caller and registrar on a plain UDP socket, for tests: it writes the
//! messages of RFC 3261 by hand, so that nothing of the stack under test
//! checks itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a peer waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The next connection to a listener; none within [`PATIENCE`] is a failed test, and no
/// scenario after it waits for its turn for ever.
pub fn connection(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("a listener");
    let deadline = Instant::now() + PATIENCE;
    let (stream, from) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(_) => assert!(Instant::now() < deadline, "no connection came"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    stream.set_nonblocking(false).expect("a connection");
    let limit = stream.set_read_timeout(Some(PATIENCE));
    limit.expect("a limit");
    (stream, from)
}

static SERIAL: AtomicU32 = AtomicU32::new(1);

/// A parsed SIP message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Request or status line.
    pub start: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
    /// Who sent it.
    pub from: SocketAddr,
}

impl Message {
    /// Parses what came in one datagram.
    pub fn parse(bytes: &[u8], from: SocketAddr) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self {
            start,
            headers,
            body: body.to_owned(),
            from,
        })
    }

    /// The status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        self.start
            .strip_prefix("SIP/2.0 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or(0)
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    /// The RTP address and port of the first audio line of an SDP body.
    pub fn rtp_address(&self) -> Option<SocketAddr> {
        let port = self
            .body
            .lines()
            .find_map(|line| line.strip_prefix("m=audio "))?;
        let port: u16 = port.split(' ').next()?.parse().ok()?;
        let ip = self
            .body
            .lines()
            .find_map(|line| line.strip_prefix("c=IN IP4 "))?;
        Some(SocketAddr::new(ip.trim().parse().ok()?, port))
    }
}

/// A SIP endpoint with an RTP socket.
pub struct Peer {
    /// Signalling.
    pub sip: UdpSocket,
    /// Media.
    pub rtp: UdpSocket,
    /// Where the engine listens.
    pub engine: SocketAddr,
}

impl Peer {
    /// A peer on free ports of loopback.
    pub fn new(engine: SocketAddr) -> Self {
        Self::on(Ipv4Addr::LOCALHOST, engine)
    }

    /// A peer whose signalling comes from another address of loopback.
    pub fn on(address: Ipv4Addr, engine: SocketAddr) -> Self {
        let sip = UdpSocket::bind((address, 0)).expect("a free UDP port");
        let rtp = UdpSocket::bind("127.0.0.1:0").expect("a free UDP port");
        Self { sip, rtp, engine }
    }

    /// Where this peer listens.
    pub fn address(&self) -> SocketAddr {
        self.sip.local_addr().expect("a bound socket")
    }

    /// Sends a datagram to the engine.
    pub fn send(&self, text: impl AsRef<[u8]>) {
        self.sip
            .send_to(text.as_ref(), self.engine)
            .expect("loopback takes a datagram");
    }

    /// The next message that `wanted` takes; others are skipped.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        self.try_wait(PATIENCE, wanted)
            .unwrap_or_else(|| panic!("no {what} within {PATIENCE:?}"))
    }

    /// The same, `None` when nothing fitting comes in time.
    pub fn try_wait(
        &self,
        patience: Duration,
        wanted: impl Fn(&Message) -> bool,
    ) -> Option<Message> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 65_536];
        loop {
            let left = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            self.sip.set_read_timeout(Some(left)).expect("a timeout");
            let Ok((length, from)) = self.sip.recv_from(&mut buffer) else {
                continue;
            };
            if let Some(message) = Message::parse(&buffer[..length], from).filter(&wanted) {
                return Some(message);
            }
        }
    }

    /// An SDP offer for this peer's RTP socket.
    pub fn sdp(&self, audio: &str, attributes: &str) -> String {
        let port = self.rtp.local_addr().expect("a bound socket").port();
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP {audio}\r\n{attributes}"
        )
    }

    /// The offer that most tests use.
    pub fn usual_sdp(&self) -> String {
        self.sdp(
            "8 0 101",
            "a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
             a=fmtp:101 0-15\r\na=sendrecv\r\n",
        )
    }

    /// Starts a call: sends an INVITE and returns its dialog.
    pub fn invite(&self, uri: &str, to: &str, body: &str, extra: &str) -> Dialog<'_> {
        let mut dialog = self.invite_nothing(uri);
        dialog.to = to.to_owned();
        let text = dialog.request("INVITE", 1, &dialog.branch, body, extra);
        self.send(text);
        dialog
    }

    /// A dialog that has sent nothing yet.
    pub fn invite_nothing(&self, uri: &str) -> Dialog<'_> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Dialog {
            peer: self,
            uri: uri.to_owned(),
            target: uri.to_owned(),
            from: format!("<sip:+33612345678@127.0.0.1>;tag=caller{serial}"),
            to: "<sip:alice@example.test>".to_owned(),
            call_id: format!("call-{serial}-{}", std::process::id()),
            branch: format!("z9hG4bK-invite-{serial}"),
            cseq: 1,
        }
    }

    /// The dialog of an INVITE that came here and was answered.
    pub fn callee(&self, invite: &Message) -> Dialog<'_> {
        let header = |name| invite.header(name).expect("it is in every INVITE");
        let target = header("contact").split(['<', '>']).nth(1);
        let target = target.expect("a URI in the Contact").to_owned();
        Dialog {
            peer: self,
            uri: target.clone(),
            target,
            from: format!("{};tag=peer", header("to")),
            to: header("from").to_owned(),
            call_id: header("call-id").to_owned(),
            branch: String::new(),
            cseq: 1,
        }
    }

    /// The text of an INVITE, to be broken; `SERIAL` stands where each
    /// variant must differ.
    pub fn raw_invite(&self, uri: &str, body: &str) -> String {
        let mut dialog = self.invite_nothing(uri);
        dialog.call_id.push_str("-SERIAL");
        let branch = format!("{}-SERIAL", dialog.branch);
        dialog.request("INVITE", 1, &branch, body, "User-Agent: test\r\n")
    }

    /// An RTP packet of 160 bytes payload, filled by `seed`.
    pub fn rtp_packet(payload_type: u8, sequence: u16, seed: u8) -> Vec<u8> {
        let mut packet = vec![0x80, payload_type];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        packet.extend_from_slice(&0x1234_5678_u32.to_be_bytes());
        packet.extend((0..160_u16).map(|at| seed.wrapping_mul(31).wrapping_add((at % 251) as u8)));
        packet
    }
}

/// One call of a peer.
pub struct Dialog<'a> {
    peer: &'a Peer,
    uri: String,
    /// Contact of the other side.
    pub target: String,
    from: String,
    to: String,
    /// Call-ID.
    pub call_id: String,
    branch: String,
    cseq: u32,
}

impl Dialog<'_> {
    fn request(&self, method: &str, cseq: u32, branch: &str, body: &str, extra: &str) -> String {
        let address = self.peer.address();
        let uri = if method == "INVITE" && !self.to.contains("tag=") || method == "CANCEL" {
            &self.uri
        } else {
            &self.target
        };
        let content_type = if body.starts_with("v=0") {
            "Content-Type: application/sdp\r\n"
        } else {
            ""
        };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch={branch}\r\nMax-Forwards: 70\r\n\
             From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:caller@{address}>\r\n\
             Allow: INVITE, ACK, BYE, CANCEL, UPDATE, INFO\r\n{extra}{content_type}Content-Length: {}\r\n\r\n{body}",
            self.from,
            self.to,
            self.call_id,
            body.len()
        )
    }

    /// The INVITE's response with this status, at least; provisional ones
    /// below it are skipped.
    pub fn response(&self, status: u16) -> Message {
        let got = self
            .peer
            .wait(&format!("response {status} or above"), |message| {
                message.status() >= status.min(200)
                    && message.status() != 100
                    && message.header("call-id") == Some(&self.call_id)
                    && message
                        .header("cseq")
                        .is_some_and(|cseq| cseq.contains("INVITE"))
                    && (message.status() >= 200 || message.status() == status)
            });
        assert_eq!(got.status(), status, "{got:?}");
        got
    }

    /// Takes the To tag and Contact of a response.
    pub fn learn(&mut self, response: &Message) {
        self.to = response.header("to").expect("a To header").to_owned();
        if let Some(contact) = response.header("contact") {
            let uri = contact.split(['<', '>']).nth(1).unwrap_or(contact);
            self.target = uri.to_owned();
        }
    }

    /// Waits for 200 and acknowledges it.
    pub fn establish(&mut self) -> Message {
        let response = self.response(200);
        self.learn(&response);
        self.ack();
        response
    }

    /// ACK for a 200 to the latest INVITE.
    pub fn ack(&self) {
        let branch = format!("z9hG4bK-ack-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        self.peer
            .send(self.request("ACK", self.cseq, &branch, "", ""));
    }

    /// ACK for a 200 to the INVITE of this CSeq.
    pub fn ack_of(&self, cseq: u32) {
        let branch = format!("z9hG4bK-ack-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        self.peer.send(self.request("ACK", cseq, &branch, "", ""));
    }

    /// ACK for a refusal of the latest re-INVITE, in its transaction.
    pub fn ack_refused_reinvite(&self) {
        self.peer
            .send(self.request("ACK", self.cseq, &self.branch, "", ""));
    }

    /// ACK that carries the answer to an offer in the 200.
    pub fn ack_with(&self, body: &str) {
        self.ack_with_typed(body, "");
    }

    /// The same with headers for a body that is not known by its beginning.
    pub fn ack_with_typed(&self, body: &str, extra: &str) {
        let branch = format!("z9hG4bK-ack-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        self.peer
            .send(self.request("ACK", self.cseq, &branch, body, extra));
    }

    /// The other side's tag.
    pub fn remote_tag(&self) -> &str {
        self.to.split("tag=").nth(1).unwrap_or_default()
    }

    /// Our own tag.
    pub fn local_tag(&self) -> &str {
        self.from.split("tag=").nth(1).unwrap_or_default()
    }

    /// ACK for a refusal, in the INVITE's transaction.
    pub fn ack_refusal(&mut self, response: &Message) {
        self.learn(response);
        self.target = self.uri.clone();
        self.peer.send(self.request("ACK", 1, &self.branch, "", ""));
    }

    /// CANCEL of the INVITE.
    pub fn cancel(&self) {
        self.peer
            .send(self.request("CANCEL", 1, &self.branch, "", ""));
    }

    /// A request with a CSeq that was used before.
    pub fn ask_again(&mut self, method: &str, body: &str) -> Message {
        self.cseq -= 1;
        self.ask(method, body, "")
    }

    /// A request within the dialog; returns its final response.
    pub fn ask(&mut self, method: &str, body: &str, extra: &str) -> Message {
        self.cseq += 1;
        let branch = format!(
            "z9hG4bK-{method}-{}",
            SERIAL.fetch_add(1, Ordering::Relaxed)
        );
        let cseq = format!("{} {method}", self.cseq);
        if method == "INVITE" {
            self.branch.clone_from(&branch);
        }
        self.peer
            .send(self.request(method, self.cseq, &branch, body, extra));
        self.peer
            .wait(&format!("final response to {method}"), |message| {
                message.status() >= 200
                    && message.header("call-id") == Some(&self.call_id)
                    && message.header("cseq") == Some(&cseq)
            })
    }

    /// Waits for a request of the other side in this dialog and answers it.
    pub fn serve(&self, method: &str, status: u16) -> Message {
        let request = self.peer.wait(method, |message| {
            message.method() == method && message.header("call-id") == Some(&self.call_id)
        });
        answer(&self.peer.sip, &request, status, "");
        request
    }
}

/// Answers a request as it came: Via, From, To, Call-ID and CSeq copied.
pub fn answer(socket: &UdpSocket, request: &Message, status: u16, extra: &str) {
    respond(socket, request, status, extra, "");
}

/// Answers an INVITE with SDP and a Contact.
pub fn answer_with(peer: &Peer, request: &Message, status: u16, body: &str) {
    let extra = format!(
        "Contact: <sip:callee@{}>\r\nContent-Type: application/sdp\r\n",
        peer.address()
    );
    respond(&peer.sip, request, status, &extra, body);
}

/// The same with a body.
pub fn respond(socket: &UdpSocket, request: &Message, status: u16, extra: &str, body: &str) {
    let mut text = format!("SIP/2.0 {status} Test\r\n");
    for (name, value) in &request.headers {
        match name.as_str() {
            "via" | "from" | "call-id" | "cseq" => text.push_str(&format!("{name}: {value}\r\n")),
            "to" if value.contains("tag=") => text.push_str(&format!("To: {value}\r\n")),
            "to" => text.push_str(&format!("To: {value};tag=peer\r\n")),
            _ => {}
        }
    }
    text.push_str(&format!(
        "{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    socket
        .send_to(text.as_bytes(), request.from)
        .expect("loopback takes a datagram");
}
