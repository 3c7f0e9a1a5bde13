//! A user agent that can say anything: it keeps calls alive with good
//! messages, and tidies up after the bad ones, so that what they began does
//! not pile up.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::sip::Message;
use crate::template::{self, Values};
use crate::wire::{Kind, Wire, media_socket};

/// How long a final response may take on a busy machine, with sanitizers.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// How long a hostile request is waited for: what pjsip cannot parse it drops.
const PATIENCE: Duration = Duration::from_millis(800);

const INVITE: &str = "INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0\r\n\
    Via: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=[branch]\r\n\
    From: \"Caller\" <sip:+33612345678@[local_ip]:[local_port]>;tag=[pid]caller[call_number]\r\n\
    To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]\r\n\
    Call-ID: [call_id]\r\nCSeq: [cseq] INVITE\r\nMax-Forwards: 70\r\n\
    Contact: <sip:caller@[local_ip]:[local_port];transport=[transport]>\r\n\
    Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE, REFER, NOTIFY\r\nSupported: timer\r\n";

/// The offer that every good call makes.
pub const OFFER: &str = "Content-Type: application/sdp\r\n\r\nv=0\r\no=caller 1 1 IN IP4 [media_ip]\r\ns=-\r\n\
    c=IN IP4 [media_ip]\r\nt=0 0\r\nm=audio [media_port] RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\n";

/// A call that stands.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub number: u64,
    pub cseq: u32,
    peer_tag: String,
    next_url: String,
    /// Where the bridge wants RTP, when it said so.
    pub rtp: Option<SocketAddr>,
}

pub struct Peer {
    pub wire: Wire,
    pub media: UdpSocket,
    remote: SocketAddr,
    kind: Kind,
    service: String,
    next_call: u64,
    messages: u64,
}

impl Peer {
    pub fn open(kind: Kind, from: Ipv4Addr, remote: SocketAddr, service: &str, first: u64) -> Self {
        Self {
            wire: Wire::open(kind.clone(), from, remote),
            media: media_socket(from),
            remote,
            kind,
            service: service.to_owned(),
            next_call: first,
            messages: first,
        }
    }

    /// A number that no call had.
    pub fn number(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    fn values(&mut self, number: u64, dialog: Option<&Dialog>, cseq: u32) -> Values {
        self.messages += 1;
        Values {
            service: self.service.clone(),
            transport: self.kind.name(),
            local: self.wire.local,
            remote: self.remote,
            media: self.media.local_addr().unwrap(),
            call_number: number,
            message_number: self.messages,
            cseq,
            peer_tag: dialog.map_or_else(String::new, |it| it.peer_tag.clone()),
            next_url: dialog.map_or_else(
                || format!("sip:{}@{}", self.service, self.remote),
                |it| it.next_url.clone(),
            ),
        }
    }

    /// Fills a template in, for a new call or in one.
    pub fn filled(&mut self, template: &[u8], dialog: Option<&mut Dialog>) -> Vec<u8> {
        let values = match dialog {
            Some(dialog) => {
                if !template.starts_with(b"ACK") {
                    dialog.cseq += 1;
                }
                let dialog = dialog.clone();
                self.values(dialog.number, Some(&dialog), dialog.cseq)
            }
            None => {
                let number = self.number();
                self.values(number, None, 1)
            }
        };
        template::fill(template, &values)
    }

    /// Sends a template; where a stream carries it, in up to three pieces.
    pub fn send(&mut self, template: &[u8], dialog: Option<&mut Dialog>) {
        let bytes = self.filled(template, dialog);
        let cuts: &[usize] = match bytes.len() % 4 {
            0 => &[1, bytes.len() / 2],
            1 => &[bytes.len() / 3],
            _ => &[],
        };
        self.wire.send(&bytes, cuts);
    }

    /// INVITE with that head of a body and body; the final response.
    pub fn invite(&mut self, body: &[u8]) -> (u64, Option<Message>) {
        self.invite_within(body, PATIENCE)
    }

    /// The same for an offer that is good: its answer is waited for.
    pub fn invite_well(&mut self, body: &[u8]) -> (u64, Option<Message>) {
        self.invite_within(body, ANSWER_LIMIT)
    }

    fn invite_within(&mut self, body: &[u8], limit: Duration) -> (u64, Option<Message>) {
        let number = self.number();
        let values = self.values(number, None, 1);
        let bytes = template::fill(&with_body(INVITE, body), &values);
        self.wire.send(&bytes, &[]);
        (number, self.answer(number, 1, limit))
    }

    /// A good call that stands, with a media address.
    pub fn call(&mut self) -> Option<Dialog> {
        let (number, answer) = self.invite_well(OFFER.as_bytes());
        self.established(number, &answer?)
    }

    /// The call that a 200 makes.
    pub fn dialog(&self, number: u64, answer: &Message) -> Option<Dialog> {
        dialog_of(number, answer)
    }

    /// Acknowledges a 2xx.
    pub fn established(&mut self, number: u64, answer: &Message) -> Option<Dialog> {
        let dialog = dialog_of(number, answer)?;
        self.acknowledge(&dialog, b"\r\n");
        Some(dialog)
    }

    /// ACK of the last 2xx, with that head of a body and body.
    pub fn acknowledge(&mut self, dialog: &Dialog, body: &[u8]) {
        let ack = INVITE.replacen(
            "INVITE sip:[service]@[remote_ip]:[remote_port]",
            "ACK [next_url]",
            1,
        );
        let ack = ack.replace("[cseq] INVITE", "[cseq] ACK");
        let values = self.values(dialog.number, Some(dialog), dialog.cseq);
        let bytes = template::fill(&with_body(&ack, body), &values);
        self.wire.send(&bytes, &[]);
    }

    /// A request within the call with that head of a body and body; its final
    /// response. A 2xx to INVITE is acknowledged.
    pub fn request(&mut self, dialog: &mut Dialog, method: &str, body: &[u8]) -> Option<u16> {
        let text = INVITE.replacen(
            "INVITE sip:[service]@[remote_ip]:[remote_port]",
            &format!("{method} [next_url]"),
            1,
        );
        let text = text.replace("[cseq] INVITE", &format!("[cseq] {method}"));
        let limit = if method == "BYE" {
            ANSWER_LIMIT
        } else {
            PATIENCE
        };
        dialog.cseq += 1;
        let values = self.values(dialog.number, Some(dialog), dialog.cseq);
        let bytes = template::fill(&with_body(&text, body), &values);
        self.wire.send(&bytes, &[]);
        let answer = self.answer(dialog.number, dialog.cseq, limit)?;
        let status = answer.status()?;
        if method == "INVITE" && status < 300 {
            self.acknowledge(dialog, b"\r\n");
        }
        Some(status)
    }

    pub fn bye(&mut self, mut dialog: Dialog) -> Option<u16> {
        self.request(&mut dialog, "BYE", b"\r\n")
    }

    /// The final response of that call and number; refusals of INVITE are
    /// acknowledged, everything else is settled.
    fn answer(&mut self, number: u64, cseq: u32, limit: Duration) -> Option<Message> {
        let deadline = Instant::now() + limit;
        let id = format!("{number}@fuzz");
        while Instant::now() < deadline {
            let text = self.wire.receive(Duration::from_millis(50));
            let Some(message) = text.and_then(|text| Message::parse(text.as_bytes())) else {
                continue;
            };
            let awaited = message.header("call-id") == Some(&id)
                && safe_cseq(&message).is_some_and(|(it, _)| it == cseq);
            match status_of(&message) {
                Some(200..) if awaited => {
                    self.acknowledge_refusal(&message);
                    return Some(message);
                }
                _ => self.settle_one(&message),
            }
        }
        None
    }

    /// Answers what came meanwhile.
    pub fn settle(&mut self, wait: Duration) {
        let mut wait = wait;
        while let Some(text) = self.wire.receive(wait) {
            if let Some(message) = Message::parse(text.as_bytes()) {
                self.settle_one(&message);
            }
            wait = Duration::from_micros(200);
        }
    }

    /// Requests are accepted; calls that came about are ended.
    fn settle_one(&mut self, message: &Message) {
        match (message.method(), status_of(message)) {
            (Some("ACK"), _) => {}
            (Some(_), _) => {
                self.wire.send(message.respond("200 OK").as_bytes(), &[]);
            }
            (None, Some(200..300)) => self.end_unwanted(message),
            _ => self.acknowledge_refusal(message),
        }
    }

    /// ACK and BYE for a 2xx to an INVITE that nobody keeps.
    fn end_unwanted(&mut self, message: &Message) {
        let Some((cseq, method)) = safe_cseq(message) else {
            return;
        };
        let Some(target) = message.contact().filter(|_| method == "INVITE") else {
            return;
        };
        for (method, cseq) in [("ACK", cseq), ("BYE", cseq.wrapping_add(1))] {
            self.send_like(message, method, &target, cseq, true);
        }
    }

    fn acknowledge_refusal(&mut self, message: &Message) {
        let Some((cseq, method)) = safe_cseq(message) else {
            return;
        };
        if method == "INVITE" && status_of(message).is_some_and(|status| status >= 300) {
            let target = format!("sip:{}@{}", self.service, self.remote);
            self.send_like(message, "ACK", &target, cseq, false);
        }
    }

    /// A request whose dialog is that of a response.
    fn send_like(&mut self, message: &Message, method: &str, target: &str, cseq: u32, new: bool) {
        self.messages += 1;
        let via = match (new, message.header("via")) {
            (false, Some(via)) => via.to_owned(),
            _ => format!(
                "SIP/2.0/{} {};rport;branch=z9hG4bKs{}",
                self.kind.name(),
                self.wire.local,
                self.messages
            ),
        };
        let field = |name| message.header(name).unwrap_or_default();
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: {via}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\n\
             CSeq: {cseq} {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            field("from"),
            field("to"),
            field("call-id"),
        );
        self.wire.send(text.as_bytes(), &[]);
    }

    /// Whether OPTIONS is answered.
    pub fn is_answered(&mut self) -> bool {
        let text = INVITE.replace("INVITE", "OPTIONS");
        let number = self.number();
        let values = self.values(number, None, 1);
        let bytes = template::fill(&with_body(&text, b"\r\n"), &values);
        self.wire.send(&bytes, &[]) && self.answer(number, 1, ANSWER_LIMIT).is_some()
    }
}

/// The head, Content-Length, and what is given: more head and the body.
pub fn with_body(head: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("{head}Content-Length: [len]\r\n").into_bytes();
    out.extend(body);
    out
}

fn dialog_of(number: u64, answer: &Message) -> Option<Dialog> {
    if answer.status() != Some(200) {
        return None;
    }
    let tag = answer
        .header("to")?
        .split(";tag=")
        .nth(1)?
        .split(';')
        .next()?;
    let field = |sign: &str| answer.body.lines().find_map(|line| line.strip_prefix(sign));
    let rtp = || {
        let ip = field("c=IN IP4 ")?.trim().parse().ok()?;
        let port = field("m=audio ")?.split(' ').next()?.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    };
    Some(Dialog {
        number,
        cseq: safe_cseq(answer)?.0,
        peer_tag: format!(";tag={tag}"),
        next_url: answer.contact()?,
        rtp: rtp(),
    })
}

/// Number and method of CSeq, when mutation left one.
pub fn safe_cseq(message: &Message) -> Option<(u32, String)> {
    let (number, method) = message.header("cseq")?.split_once(' ')?;
    Some((number.parse().ok()?, method.trim().to_owned()))
}

/// Status of a response, when mutation left one.
fn status_of(message: &Message) -> Option<u16> {
    message
        .start
        .strip_prefix("SIP/2.0 ")?
        .get(..3)?
        .parse()
        .ok()
}
