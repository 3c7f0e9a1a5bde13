//! Calls that the bridge places to a server of ours: SDP in its 183 and 200,
//! and whole responses of any kind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::attack::{Driver, Target};
use crate::corpus::{self, Input};
use crate::harness::peers::local;
use crate::harness::sip::Message;
use crate::mutate::{self, pick};
use crate::offers::{typed, with_type};
use crate::peer::safe_cseq;
use crate::template::{self, Values};
use crate::world::{Transport, Wish, World};

pub const CALLEE: Target = Target {
    name: "callee",
    wish: || Wish {
        transport: Transport::Udp,
        args: Vec::new(),
        trunk: Some(local(crate::harness::peers::free_port())),
    },
    driver: |wish, _| Box::new(Callee::new(wish.trunk.expect("a trunk"))),
};

/// How long the INVITE may take.
const INVITE_LIMIT: Duration = Duration::from_secs(4);

/// Whole responses to INVITE; mutation makes of them what it likes.
const RESPONSES: [&str; 10] = [
    "SIP/2.0 100 Trying\r\n",
    "SIP/2.0 180 Ringing\r\nRequire: 100rel\r\nRSeq: 1\r\n",
    "SIP/2.0 183 Session Progress\r\n",
    "SIP/2.0 200 OK\r\nSession-Expires: 1800;refresher=uac\r\nRequire: timer\r\n",
    "SIP/2.0 302 Moved\r\nContact: <sip:b@[local_ip]:[local_port]>;q=0.5, <sip:c@[local_ip]>\r\n",
    "SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\",nonce=\"n\",qop=\"auth\",algorithm=MD5\r\n",
    "SIP/2.0 407 Proxy Authentication Required\r\nProxy-Authenticate: Digest realm=\"r\",nonce=\"n\",stale=true,opaque=\"o\"\r\nProxy-Authenticate: Basic realm=\"x\"\r\n",
    "SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\", Digest realm=\"r\",\r\n nonce=\"n\", NTLM\r\n",
    "SIP/2.0 422 Session Interval Too Small\r\nMin-SE: 4000\r\n",
    "SIP/2.0 503 Service Unavailable\r\nRetry-After: 1\r\nReason: Q.850;cause=34\r\n",
];

struct Callee {
    socket: UdpSocket,
    seeds: Vec<Vec<u8>>,
    answered: u64,
}

impl Callee {
    fn new(address: SocketAddr) -> Self {
        Self {
            socket: UdpSocket::bind(address).unwrap(),
            seeds: corpus::sdp(),
            answered: 0,
        }
    }

    fn receive(&self, wait: Duration) -> Option<(Message, SocketAddr)> {
        let mut buffer = [0; 65_536];
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let (count, from) = self.socket.recv_from(&mut buffer).ok()?;
        Some((Message::parse(&buffer[..count])?, from))
    }

    /// Has the bridge place a call, and waits for its INVITE.
    fn invited(&self, world: &World) -> Option<(Message, SocketAddr)> {
        post(
            world.bridge.api_port,
            "/api/calls",
            "{\"to\":\"+33612345678\",\"timeoutSec\":5}",
        )?;
        let deadline = Instant::now() + INVITE_LIMIT;
        while Instant::now() < deadline {
            let Some((message, from)) = self.receive(Duration::from_millis(100)) else {
                continue;
            };
            if message.method() == Some("INVITE") && !message.header("to")?.contains("tag=") {
                return Some((message, from));
            }
            self.settle(&message, from);
        }
        None
    }

    /// Everything but INVITE is accepted.
    fn settle(&self, message: &Message, from: SocketAddr) {
        match message.method() {
            None | Some("ACK") => {}
            Some("INVITE") => self.send(&message.respond("486 Busy Here").into_bytes(), from),
            Some(_) => self.send(&message.respond("200 OK").into_bytes(), from),
        }
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) {
        let _ = self.socket.send_to(bytes, to);
    }

    /// A response to this INVITE: status line and more, and a body with its head.
    fn response(&self, invite: &Message, start: &str, body: &[u8]) -> Vec<u8> {
        let mut head = start.to_owned();
        for (name, value) in &invite.headers {
            match name.as_str() {
                "via" | "from" | "call-id" | "cseq" => head += &format!("{name}: {value}\r\n"),
                "to" => head += &format!("To: {value};tag=c{}\r\n", self.answered),
                _ => {}
            }
        }
        head += "Contact: <sip:callee@[local_ip]:[local_port]>\r\nContent-Length: [len]\r\n";
        let mut out = head.into_bytes();
        out.extend(body);
        let local = self.socket.local_addr().unwrap();
        let values = Values {
            service: "callee".to_owned(),
            transport: "UDP",
            local,
            remote: local,
            media: local,
            call_number: self.answered,
            message_number: self.answered,
            cseq: 1,
            peer_tag: String::new(),
            next_url: String::new(),
        };
        template::fill(&out, &values)
    }

    /// Lets the call end: BYE of ours, and what the bridge still sends.
    fn end(&self, invite: &Message, to: SocketAddr) {
        let field = |name| invite.header(name).unwrap_or_default();
        let local = self.socket.local_addr().unwrap();
        let text = format!(
            "BYE {} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bKc{n}\r\nFrom: {};tag=c{n}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: 9 BYE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            invite.contact().unwrap_or_default(),
            field("to"),
            field("from"),
            field("call-id"),
            n = self.answered,
        );
        self.send(text.as_bytes(), to);
        while let Some((message, from)) = self.receive(Duration::from_millis(8)) {
            self.settle(&message, from);
        }
    }
}

impl Driver for Callee {
    fn draw(&mut self, random: &mut StdRng) -> Input {
        let (seed, other) = (pick(random, &self.seeds), pick(random, &self.seeds));
        match random.random_range(0..3) {
            0 => {
                let start = pick(random, &RESPONSES);
                let body = typed("application/sdp", seed);
                let whole = [start.as_bytes(), &body].concat();
                Input::new("response", mutate::sip(random, &whole, start.as_bytes()))
            }
            kind => {
                let body = mutate::sdp(random, seed, other);
                let kind = if kind == 1 { "183" } else { "200" };
                Input::new(kind, with_type(random, &body))
            }
        }
    }

    fn play(&mut self, world: &mut World, input: &Input) {
        self.answered += 1;
        let Some((invite, from)) = self.invited(world) else {
            return;
        };
        if safe_cseq(&invite).is_none() {
            return;
        }
        let bytes = match input.kind.as_str() {
            "183" => self.response(&invite, "SIP/2.0 183 Session Progress\r\n", &input.bytes),
            "200" => self.response(&invite, "SIP/2.0 200 OK\r\n", &input.bytes),
            _ => {
                // Its own headers first: the mutated ones come on top.
                let end = input
                    .bytes
                    .windows(2)
                    .position(|it| it == b"\r\n")
                    .map_or(0, |at| at + 2);
                let (start, rest) = input.bytes.split_at(end);
                self.response(&invite, &String::from_utf8_lossy(start), rest)
            }
        };
        self.send(&bytes, from);
        if input.kind == "183" {
            // The same once more as the final answer.
            let bytes = self.response(&invite, "SIP/2.0 200 OK\r\n", &input.bytes);
            self.send(&bytes, from);
        }
        std::thread::sleep(Duration::from_millis(3));
        let refusal = self.response(&invite, "SIP/2.0 486 Busy Here\r\n", b"\r\n");
        self.send(&refusal, from);
        self.end(&invite, from);
    }

    fn seeds(&self) -> Vec<Input> {
        let sdp = |kind: &'static str| {
            let seeds = self.seeds.iter();
            seeds.map(move |body| Input::new(kind, typed("application/sdp", body)))
        };
        let whole = RESPONSES
            .iter()
            .map(|start| Input::new("response", format!("{start}\r\n").into_bytes()));
        sdp("183").chain(sdp("200")).chain(whole).collect()
    }

    fn leave(&mut self, _: &mut World) {
        while let Some((message, from)) = self.receive(Duration::from_millis(500)) {
            self.settle(&message, from);
        }
    }
}

/// POST with a JSON body; whether anything came back.
fn post(port: u16, path: &str, body: &str) -> Option<()> {
    let mut stream = TcpStream::connect(local(port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let text = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(())
}
