//! Real pjsip against a hand-written SIP peer on loopback. One engine for the
//! whole process, one scenario at a time.

#[path = "support/sip_peer.rs"]
mod sip_peer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sip_peer::{PATIENCE, Peer, answer};
use sipbridge::core::ids::LineId;
use sipbridge::core::link::{Codec, Direction, MediaLink, RtpPacket, SinkError};
use sipbridge::core::private::Private;
use sipbridge::sip::engine::{
    Account, Admission, Command, EndedBy, EngineConfig, EngineEvent, IncomingCall, LegEnd,
    LegEvent, Refusal, Registration, SipEngine, Transport,
};
use sipbridge::sip::matching::line_token;
use sipbridge::sip::pjsip::PjsipEngine;
use tokio::sync::mpsc;

static REFUSE_WITH: Mutex<Option<Refusal>> = Mutex::new(None);

struct Scripted;

impl Admission for Scripted {
    fn admit(&self, _line: &LineId) -> Result<(), Refusal> {
        let refusal = *REFUSE_WITH.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.map_or(Ok(()), Err)
    }
}

struct Stage {
    engine: Arc<PjsipEngine>,
    events: mpsc::Receiver<EngineEvent>,
}

/// The engine, for one scenario at a time.
fn stage() -> MutexGuard<'static, Stage> {
    static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();
    let stage = STAGE.get_or_init(|| {
        let (sender, events) = mpsc::channel(64);
        let config = EngineConfig {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            listen: vec![(Transport::Udp, 0), (Transport::Tcp, 0)],
            public_address: None,
            rtp_ports: (41_000, 41_199),
            stun_server: None,
            turn_server: None,
            ice: false,
            max_calls: 32,
            tls_identity: None,
            tls_ca_file: None,
            user_agent: "sipbridge-test".into(),
        };
        let engine =
            PjsipEngine::start(config, Arc::new(Scripted), sender).expect("the engine starts");
        engine
            .submit(Command::AddLine(Box::new(account("main", "alice", None))))
            .expect("room in the queue");
        Mutex::new(Stage { engine, events })
    });
    let mut guard = stage.lock().unwrap_or_else(PoisonError::into_inner);
    *REFUSE_WITH.lock().unwrap_or_else(PoisonError::into_inner) = None;
    // What an earlier, failed scenario left behind.
    while guard.events.try_recv().is_ok() {}
    eventually("the legs of earlier scenarios end", || {
        guard.engine.stats().legs == 0
    });
    guard
}

fn account(line: &str, username: &str, server: Option<SocketAddr>) -> Account {
    Account {
        line: LineId::new(line),
        domain: "example.test".into(),
        server: server
            .map(|server| server.to_string())
            .or(Some("127.0.0.1:9".into())),
        transport: Transport::Udp,
        username: username.into(),
        password: None,
        aliases: vec!["+33972360682".into()],
        register: server.is_some(),
        expires: Duration::from_secs(300),
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn next<T>(receiver: &mut mpsc::Receiver<T>, what: &str) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match receiver.try_recv() {
            Ok(value) => return value,
            Err(mpsc::error::TryRecvError::Disconnected) => panic!("closed before {what}"),
            Err(mpsc::error::TryRecvError::Empty) => {
                assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Stage {
    fn peer(&self) -> Peer {
        let port = self.engine.local_port(Transport::Udp).expect("UDP is open");
        Peer::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn uri(&self, user: &str) -> String {
        format!(
            "sip:{user}@127.0.0.1:{}",
            self.engine.local_port(Transport::Udp).unwrap_or(0)
        )
    }

    fn incoming(&mut self) -> IncomingCall {
        loop {
            if let EngineEvent::Incoming(call) = next(&mut self.events, "incoming call") {
                return *call;
            }
        }
    }

    fn submit(&self, command: Command) {
        self.engine.submit(command).expect("room in the queue");
    }

    fn answer(&self, call: &IncomingCall, status: u16) {
        self.submit(Command::Answer {
            leg: call.leg,
            status,
        });
    }
}

fn media(call: &mut IncomingCall) -> MediaLink {
    match next(&mut call.events, "media") {
        LegEvent::Media(link) => link,
        other => panic!("expected media, got {other:?}"),
    }
}

fn established(call: &mut IncomingCall) {
    match next(&mut call.events, "established") {
        LegEvent::Established => {}
        other => panic!("expected established, got {other:?}"),
    }
}

fn ended(call: &mut IncomingCall) -> LegEnd {
    loop {
        if let LegEvent::Ended(end) = next(&mut call.events, "end") {
            assert!(
                matches!(
                    call.events.try_recv(),
                    Err(mpsc::error::TryRecvError::Disconnected)
                ),
                "Ended is the last event"
            );
            return end;
        }
    }
}

fn packet(call: &mut IncomingCall) -> RtpPacket {
    next(&mut call.rtp, "RTP packet")
}

#[test]
fn an_answered_call_carries_audio_both_ways_bit_exact() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "X-Trunk-Id: 42\r\n",
    );
    let mut call = stage.incoming();
    assert_eq!(call.line, LineId::new("main"));
    assert_eq!(call.from, Private::new("+33612345678"));
    assert_eq!(call.to, Private::new("alice"));
    assert_eq!(call.sip_call_id, dialog.call_id);
    assert_eq!(
        call.headers.get("x-trunk-id").map(String::as_str),
        Some("42")
    );
    assert_eq!(call.peer, peer.address());
    stage.answer(&call, 180);
    dialog.response(180);
    stage.answer(&call, 200);
    let ok = dialog.establish();
    let link = media(&mut call);
    established(&mut call);
    assert_eq!(
        link.format.codec,
        Codec::Pcmu,
        "PCMU first, whatever the offer's order"
    );
    assert_eq!(link.format.receive_payload_type, 0);
    assert_eq!(link.format.send_event_type, Some(101));
    assert_eq!(link.format.direction, Direction::SendRecv);
    assert!(ok.body.contains("RTP/AVP 0"), "{}", ok.body);
    let contact = ok.header("contact").expect("a Contact");
    assert!(
        contact.contains(&format!(";line={}", line_token(&LineId::new("main")))),
        "{contact}"
    );

    let bridge = ok.rtp_address().expect("an audio line");
    for sequence in 0..50 {
        let sent = Peer::rtp_packet(0, sequence, sequence as u8);
        peer.rtp.send_to(&sent, bridge).expect("loopback");
        assert_eq!(*packet(&mut call).bytes, *sent);
        let back = Peer::rtp_packet(0, sequence, 200 - sequence as u8);
        link.sink.send(&back).expect("the sink is open");
        let mut buffer = [0; 2_000];
        peer.rtp
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        let (length, from) = peer.rtp.recv_from(&mut buffer).expect("RTP back");
        assert_eq!((&buffer[..length], from), (&back[..], bridge));
    }
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    let end = ended(&mut call);
    assert_eq!((end.by, end.status), (EndedBy::Remote, 200));
    assert_eq!(link.sink.send(&[0x80; 172]), Err(SinkError::Closed));
    assert!(matches!(
        call.rtp.try_recv(),
        Err(mpsc::error::TryRecvError::Disconnected)
    ));
}
