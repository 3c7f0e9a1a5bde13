//! Callers over TCP and TLS: every body that ended the process once, a
//! multipart body, and requests of ours that go back over the connection.

use std::io::{Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sipbridge::core::media_link::Direction;
use sipbridge::sip::engine::{Command, EndedBy, LegEvent, SipEngine, Transport};

use crate::descriptions::{SDP, a_call_works, killers, port, settle};
use crate::outgoing::{call, reply};
use crate::peer::{Message, PATIENCE, Peer, connection};
use crate::stage::{
    Stage, account, ended, established, eventually, identity, media, next, packet, tls_stage,
};

const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for StreamOwned<ClientConnection, TcpStream> {}

/// A caller at the other end of a connection, in one dialog.
pub struct Caller {
    stream: Box<dyn Stream + Send>,
    received: Vec<u8>,
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
    /// Host and port of its Contact, which says no transport.
    contact: String,
    uri: String,
    to: String,
    call_id: String,
    cseq: u32,
}

impl Caller {
    pub fn connect(stage: &Stage, transport: Transport, call_id: &str) -> Self {
        let port = stage.engine.local_port(transport).expect("it is open");
        let remote = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(remote).expect("it listens");
        let timeout = stream.set_read_timeout(Some(PATIENCE));
        timeout.expect("a timeout");
        let local = stream.local_addr().expect("a bound socket");
        let stream: Box<dyn Stream + Send> = match transport {
            Transport::Tls => Box::new(StreamOwned::new(tls(), stream)),
            _ => Box::new(stream),
        };
        Self {
            stream,
            received: Vec::new(),
            transport,
            local,
            remote,
            contact: local.to_string(),
            uri: format!("sip:alice@127.0.0.1:{port}"),
            to: "<sip:alice@example.test>".to_owned(),
            call_id: format!("{call_id}-{transport}-{}", local.port()),
            cseq: 0,
        }
    }

    /// The callee of a call that we place over TCP.
    fn accept(listener: &TcpListener) -> Self {
        let (stream, remote) = connection(listener);
        let local = stream.local_addr().expect("a bound socket");
        Self {
            stream: Box::new(stream),
            received: Vec::new(),
            transport: Transport::Tcp,
            local,
            remote,
            contact: local.to_string(),
            uri: String::new(),
            to: String::new(),
            call_id: String::new(),
            cseq: 0,
        }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("it is open");
    }

    /// Sends a request.
    pub fn request(&mut self, method: &str, body: &str, extra: &str) {
        if method != "ACK" {
            self.cseq += 1;
        }
        let via = self.transport.to_string().to_uppercase();
        let (local, cseq) = (self.local, self.cseq);
        let text = format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/{via} {local};rport;branch=z9hG4bK-{cseq}-{method}-{}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:+33612345678@127.0.0.1>;tag=stream\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:caller@{}>\r\n{extra}\
             Content-Length: {}\r\n\r\n{body}",
            self.uri,
            self.call_id,
            self.to,
            self.call_id,
            self.contact,
            body.len()
        );
        self.send(&text);
    }

    /// The next message that is `wanted`; it must come over this connection.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        loop {
            while let Some(message) = self.take() {
                if wanted(&message) {
                    return message;
                }
            }
            let mut buffer = [0; 8_192];
            let read = self.stream.read(&mut buffer);
            let read = read.unwrap_or_else(|error| panic!("no {what}: {error}"));
            assert!(read > 0, "closed before {what}");
            self.received.extend_from_slice(&buffer[..read]);
        }
    }

    /// A whole message out of what was received.
    fn take(&mut self) -> Option<Message> {
        let head = self.received.windows(4).position(|at| at == b"\r\n\r\n")? + 4;
        let message = Message::parse(&self.received[..head], self.remote)?;
        let length = message.header("content-length")?.parse::<usize>().ok()?;
        let whole = self.received.get(..head + length)?.to_vec();
        self.received.drain(..head + length);
        Message::parse(&whole, self.remote)
    }

    fn response(&mut self, status: u16) -> Message {
        let cseq = format!("{} ", self.cseq);
        let response = self.wait(&format!("response {status}"), |message| {
            let of = message.header("cseq").unwrap_or_default();
            message.status() >= 200 && of.starts_with(&cseq)
        });
        assert_eq!(response.status(), status, "{response:?}");
        response
    }

    /// A request of the bridge, answered.
    fn serve(&mut self, method: &str, body: &str) -> Message {
        let request = self.wait(method, |message| message.method() == method);
        let mut text = "SIP/2.0 200 OK\r\n".to_owned();
        for (name, value) in &request.headers {
            if matches!(name.as_str(), "via" | "from" | "to" | "call-id" | "cseq") {
                let tag = match name == "to" && !value.contains("tag=") {
                    true => ";tag=callee",
                    false => "",
                };
                text.push_str(&format!("{name}: {value}{tag}\r\n"));
            }
        }
        let kind = if body.is_empty() { "" } else { SDP };
        text.push_str(&format!(
            "Contact: <sip:caller@{}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.contact,
            body.len()
        ));
        self.send(&text);
        if method == "INVITE" {
            // The 200 comes again when the ACK is late.
            self.wait("ACK", |message| message.method() == "ACK");
            self.send(&text);
            self.wait("another ACK", |message| message.method() == "ACK");
        }
        request
    }

    /// Takes tag and Contact of a response.
    fn learn(&mut self, response: &Message) {
        self.to = response.header("to").expect("To").to_owned();
        let contact = response.header("contact").expect("Contact");
        let uri = contact.split(['<', '>']).nth(1);
        self.uri = uri.expect("a URI").to_owned();
    }

    /// Takes a 200 to INVITE, and acknowledges it.
    fn establish(&mut self) -> Message {
        let ok = self.response(200);
        self.learn(&ok);
        self.request("ACK", "", "");
        ok
    }
}

/// TLS that trusts the engine's certificate only.
fn tls() -> ClientConnection {
    let pem = std::fs::read(identity()).expect("it was written");
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(&pem).expect("a certificate");
    roots.add(certificate).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots);
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::new(config.with_no_client_auth()), name).expect("a session")
}

#[test]
fn no_body_ends_the_process_whatever_follows_it() {
    let mut stage = tls_stage();
    let peer = stage.peer();
    let mut bodies = killers(port(&peer));
    bodies.extend(["\r", "\n", "\r\n", "\n\n"].map(str::to_owned));
    for transport in STREAMS {
        for (serial, body) in bodies.iter().enumerate() {
            let mut caller = Caller::connect(&stage, transport, &format!("killer-{serial}"));
            for behind in ["", "\r\n\r\n", "\n\n\n"] {
                // A call of its own each time, over the same connection.
                caller.call_id.push('x');
                caller.request("INVITE", body, SDP);
                caller.send(behind);
                let id = caller.call_id.clone();
                caller.wait(
                    &format!("an answer to {body:?} over {transport}"),
                    |message| message.status() >= 100 && message.header("call-id") == Some(&id),
                );
            }
            settle(&mut stage, &peer);
        }
    }
    a_call_works(&mut stage, &peer);
}

#[test]
fn a_request_of_sixty_thousand_bytes_is_answered() {
    let stage = tls_stage();
    for transport in STREAMS {
        let mut caller = Caller::connect(&stage, transport, "large");
        let padding = format!("X-Padding: {}\r\n", "p".repeat(900)).repeat(60);
        caller.request("OPTIONS", "", &padding);
        caller.response(200);
    }
}

/// A multipart body with the description beside other parts: what cars and
/// emergency calls send (RFC 5621, RFC 7852). Type and body.
fn multipart(sdp: &str) -> (&'static str, String) {
    let body = format!(
        "preamble\r\n--b o\r\nContent-Type: application/pidf+xml\r\nContent-ID: <at@example.test>\r\n\r\n\
         <presence/>\r\n--b o\r\nContent-Type: application/sdp\r\n\
         Content-Disposition: session;handling=required\r\n\r\n{sdp}\r\n--b o\r\n\
         Content-Type: application/isup;version=itu-t92+\r\nContent-Disposition: signal;handling=optional\r\n\r\n\
         \u{1}\u{0}\u{2}\r\n--b o--\r\nepilogue"
    );
    ("Content-Type: multipart/mixed;boundary=\"b o\"\r\n", body)
}

#[test]
fn the_description_of_a_multipart_body_is_found_over_udp() {
    let mut stage = tls_stage();
    let peer = stage.peer();
    let (kind, body) = multipart(&peer.usual_sdp());
    let to = "<sip:alice@example.test>";
    let mut dialog = peer.invite(&stage.uri("alice"), to, &body, kind);
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    let ok = dialog.establish();
    assert_eq!(ok.header("content-type"), Some("application/sdp"));
    let link = media(&mut call);
    established(&mut call);
    let said = Peer::rtp_packet(link.format.receive_payload_type, 1, 5);
    let bridge = ok.rtp_address().expect("an audio line");
    peer.rtp.send_to(&said, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *said);
    // In a re-INVITE, too, with which the caller takes its call back from hold.
    let held = peer.usual_sdp().replace("a=sendrecv", "a=sendonly");
    for (sdp, is_hold) in [(held, true), (peer.usual_sdp(), false)] {
        let (kind, body) = multipart(&sdp);
        assert_eq!(dialog.ask("INVITE", &body, kind).status(), 200);
        dialog.ack();
        assert_eq!(media(&mut call).format.direction.is_hold(), is_hold);
    }
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    assert_eq!(ended(&mut call).by, EndedBy::Remote);
}

/// A TCP socket, and one of UDP at the same address: made anew while another has
/// the UDP port.
fn with_udp<T>(make: impl FnMut() -> (SocketAddr, T)) -> (T, UdpSocket) {
    let mut made = iter::repeat_with(make).take(20);
    let both = made.find_map(|(at, tcp)| Some((tcp, UdpSocket::bind(at).ok()?)));
    both.expect("a port that is free for UDP too")
}

/// Nothing that belongs on a connection went to the same port over UDP.
fn nothing_strayed(datagrams: &UdpSocket) {
    datagrams
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    let strayed = datagrams.recv(&mut [0; 2_000]);
    assert!(strayed.is_err(), "nothing goes there over UDP");
}

/// RFC 3263 section 4.1 would have our requests in the dialog go to the caller's
/// Contact over UDP, where it does not listen, be it of its INVITE or of its
/// answer to our re-INVITE. A private address is one behind a NAT.
#[test]
fn a_contact_without_transport_is_reached_over_the_connection() {
    let mut stage = tls_stage();
    let private = Some("192.168.255.7:5060");
    for (transport, private) in STREAMS
        .into_iter()
        .flat_map(|it| [(it, None), (it, private)])
    {
        let peer = stage.peer();
        let (mut caller, datagrams) = with_udp(|| {
            let caller = Caller::connect(&stage, transport, "contact");
            (caller.local, caller)
        });
        if let Some(private) = private {
            caller.contact = private.to_owned();
        }
        let (kind, body) = multipart(&peer.usual_sdp());
        caller.request("INVITE", &body, kind);
        let mut call = stage.incoming();
        stage.answer(&call, 200);
        let ok = caller.establish();
        let link = media(&mut call);
        established(&mut call);
        let said = Peer::rtp_packet(link.format.receive_payload_type, 1, 5);
        let bridge = ok.rtp_address().expect("an audio line");
        peer.rtp.send_to(&said, bridge).expect("loopback");
        assert_eq!(*packet(&mut call).bytes, *said);

        let leg = call.leg;
        stage.submit(Command::Hold { leg, on: true });
        let held = peer.usual_sdp().replace("a=sendrecv", "a=recvonly");
        let reinvite = caller.serve("INVITE", &held);
        assert!(reinvite.body.contains("a=sendonly"), "{reinvite:?}");
        let direction = loop {
            match next(&mut call.events, "the end of a hold") {
                LegEvent::Held { status } => assert_eq!(status, 200),
                LegEvent::Media(link) => break link.format.direction,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(direction, Direction::SendOnly);
        stage.submit(Command::Hangup { leg, status: 480 });
        caller.serve("BYE", "");
        assert_eq!(ended(&mut call).by, EndedBy::Local);
        nothing_strayed(&datagrams);
    }
}

/// The same for a call of ours, whose INVITE has a hidden Route to the server.
#[test]
fn a_callee_without_transport_in_its_contact_is_reached_over_the_connection() {
    let mut stage = tls_stage();
    let peer = stage.peer();
    let (listener, datagrams) = with_udp(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free TCP port");
        (listener.local_addr().expect("a bound socket"), listener)
    });
    let place = listener.local_addr().expect("a bound socket");
    let mut line = account("stream-trunk", "bob", Some(place));
    line.transport = Transport::Tcp;
    line.register = false;
    stage.add_line(line);
    // The second call goes over the connection of the first one.
    let mut connection = None;
    for private in [None, Some("192.168.255.7:5060")] {
        let mut leg = reply(call(&stage, "stream-trunk", "+33800")).expect("it is placed");
        let callee = connection.get_or_insert_with(|| Caller::accept(&listener));
        if let Some(private) = private {
            callee.contact = private.to_owned();
        }
        callee.serve("INVITE", &peer.sdp("0", "a=sendrecv\r\n"));
        eventually("an answer", || {
            matches!(leg.events.try_recv(), Ok(LegEvent::Established))
        });
        let leg = leg.leg;
        stage.submit(Command::Hangup { leg, status: 480 });
        callee.serve("BYE", "");
        nothing_strayed(&datagrams);
    }
}

/// A PRACK may carry an offer of its own (RFC 3262 section 5).
#[test]
fn no_offer_in_a_prack_ends_the_process() {
    let mut stage = tls_stage();
    let peer = stage.peer();
    for transport in STREAMS {
        for body in killers(port(&peer)) {
            let (kind, wrapped) = multipart(&body);
            for (kind, body) in [(SDP, body), (kind, wrapped)] {
                let answer = prack(&mut stage, &peer, transport, kind, &body);
                let is_known = matches!(answer.status(), 200 | 400 | 415 | 488);
                assert!(is_known, "{answer:?} to {body:?}");
            }
        }
        let (kind, wrapped) = multipart(&peer.usual_sdp());
        for (kind, body) in [(SDP, peer.usual_sdp()), (kind, wrapped)] {
            let answer = prack(&mut stage, &peer, transport, kind, &body);
            assert_eq!(answer.status(), 200, "{answer:?}");
            assert!(answer.body.contains("m=audio"), "{answer:?}");
        }
    }
    a_call_works(&mut stage, &peer);
}

/// The answer to a PRACK with this body, in a call of its own.
fn prack(stage: &mut Stage, peer: &Peer, transport: Transport, kind: &str, body: &str) -> Message {
    let mut caller = Caller::connect(stage, transport, "prack");
    let extra = format!("Require: 100rel\r\n{SDP}");
    caller.request("INVITE", &peer.usual_sdp(), &extra);
    let mut call = stage.incoming();
    stage.answer(&call, 183);
    let progress = caller.wait("183", |message| message.status() == 183);
    let sequence = progress.header("rseq").expect("it is reliable");
    let extra = format!("RAck: {sequence} 1 INVITE\r\n{kind}");
    caller.learn(&progress);
    caller.request("PRACK", body, &extra);
    let answer = caller.wait("an answer to PRACK", |message| {
        message.header("cseq") == Some("2 PRACK")
    });
    let leg = call.leg;
    stage.submit(Command::Hangup { leg, status: 480 });
    ended(&mut call);
    answer
}
