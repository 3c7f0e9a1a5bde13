//! A call that the bridge places over real SIP, with a worker of its own: the
//! audio both ways bit for bit, and a hold in the midst of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sipbridge::bridge::call_store::{CallRequest, CallStore};
use sipbridge::bridge::context::{Context, Settings};
use sipbridge::bridge::drivers::Drivers;
use sipbridge::bridge::place::{CallPlacer, NewCall};
use sipbridge::core::address::HostPort;
use sipbridge::core::call::AnswerMode;
use sipbridge::core::call_object::CallStatus;
use sipbridge::core::dialling::DialLine;
use sipbridge::core::g711::{Gain, MULAW_SILENCE};
use sipbridge::core::ids::{AccountSid, CallId, LineId};
use sipbridge::core::media_link::{RtpSink, SinkError};
use sipbridge::core::numbers::Country;
use sipbridge::core::outward::Outward;
use sipbridge::core::private::Private;
use sipbridge::fleet::{CallLimiter, Limits, LineDirectory, LineProfile, SharedFleet};
use sipbridge::lines::ReadyLine;
use sipbridge::media::pacer::Pacer;
use sipbridge::media::sounds::Sounds;
use sipbridge::sip::engine::{
    Command, EngineStats, LEG_QUEUE_EVENTS, LegEvent, SharedEngine, SipEngine, SubmitError,
    Transport,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::holds::{reinvite, take};
use crate::outgoing::{invite, pick_up, trunk};
use crate::peer::{PATIENCE, Peer, answer};
use crate::stage::{eventually, stage};

const FRAME: usize = 160;

/// A context on an engine, with lines.
fn context(engine: SharedEngine, lines: &[&str]) -> Arc<Context> {
    let registered = engine.clone();
    let fleet = SharedFleet::new(Limits {
        calls: 8,
        ..Limits::default()
    });
    let domain = HostPort::parse("example.test").expect("a host");
    for line in lines {
        let (id, username) = (LineId::new(*line), Private::new("u"));
        let profile = LineProfile {
            phone_number: Some(Private::new("+33972360682")),
            dial: DialLine {
                country: Country::parse("FR"),
                hosts: vec!["example.test".into()],
            },
            ..LineProfile::bare(id.clone())
        };
        let ready = ReadyLine::bare(id, &domain, Transport::Udp, username);
        fleet.hold(ready, Arc::new(profile));
    }
    let hold: Arc<[u8]> = numbered(3, 50).concat().into();
    Arc::new(Context {
        settings: Settings {
            answer: AnswerMode::Immediate,
            worker_timeout: PATIENCE,
            ring_while_cut_off: PATIENCE,
            claim_timeout: PATIENCE,
            max_attempts: 1,
            max_duration: None,
            media_timeout: None,
            ringback: true,
            rx_gain: Gain::default(),
            tx_gain: Gain::default(),
            account_sid: AccountSid::of_node("pjsip"),
            stream_url: String::new(),
            params: BTreeMap::new(),
            sip_headers: Default::default(),
            voice: None,
            trust_privacy: true,
            pushes_jobs: true,
        },
        engine,
        pacer: Arc::new(
            Pacer::start(move || registered.register_thread("pacer")).expect("a thread"),
        ),
        queue: None,
        call_log: None,
        dialer: None,
        agents: None,
        ask: None,
        voice_http: sipbridge::app::callbacks::voice_http(None, Arc::default(), None)
            .expect("a client"),
        signer: None,
        outward: Arc::new(Outward {
            allowed: vec!["127.0.0.0/8".parse().expect("a network")],
            own_hosts: Vec::new(),
        }),
        dialling: Arc::default(),
        workers: Default::default(),
        call_limiter: CallLimiter::new(&fleet),
        gauges: Arc::default(),
        lines: LineDirectory::new(&fleet),
        calls: CallStore::new(None),
        sounds: Sounds {
            ringback: hold.clone(),
            hold: hold.clone(),
            unavailable: hold,
        },
        shutdown: Default::default(),
        cut_off: Default::default(),
    })
}

/// Frames of one speaker, no two alike, none of them silence.
fn numbered(speaker: u8, frames: u8) -> Vec<Vec<u8>> {
    let frame = |number: u8| {
        let code = move |at: usize| match at % 4 {
            0 => speaker,
            1 => number,
            _ => (at % 120) as u8,
        };
        (0..FRAME).map(code).collect()
    };
    (0..frames).map(frame).collect()
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// The worker of the call.
struct Worker {
    socket: WebSocketStream<TcpStream>,
    stream: Value,
    audio: Vec<u8>,
}

impl Worker {
    async fn accept(listener: TcpListener) -> Self {
        let (stream, _) = listener.accept().await.expect("the bridge dials");
        let accepted = tokio_tungstenite::accept_async(stream).await;
        let mut worker = Self {
            socket: accepted.expect("a WebSocket"),
            stream: Value::Null,
            audio: Vec::new(),
        };
        while worker.stream.is_null() {
            worker.read().await;
        }
        worker
    }

    /// Takes the next message.
    async fn read(&mut self) {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        let Some(Ok(Message::Text(text))) = next.expect("a message in time") else {
            return;
        };
        let message: Value = serde_json::from_str(&text).expect("JSON");
        if message["event"] == "start" {
            self.stream = message["streamSid"].clone();
            assert_eq!(
                message["start"]["customParameters"]["direction"],
                "outbound"
            );
        }
        if let Some(payload) = message["media"]["payload"].as_str() {
            let payload = BASE64.decode(payload).expect("base64");
            // A stall of this machine puts silence between; no frame has any.
            self.audio
                .extend(payload.into_iter().filter(|code| *code != MULAW_SILENCE));
        }
    }

    async fn hears(&mut self, part: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while !contains(&self.audio, part) {
            assert!(Instant::now() < deadline, "the callee is not heard whole");
            self.read().await;
        }
    }

    async fn say(&mut self, audio: &[u8]) {
        let message = json!({
            "event": "media", "streamSid": self.stream,
            "media": { "payload": BASE64.encode(audio) },
        });
        let sent = self.socket.send(Message::text(message.to_string())).await;
        sent.expect("the socket takes it");
    }
}

/// The callee speaks, a frame every 20 ms.
fn speak(peer: &Peer, to: SocketAddr, frames: &[Vec<u8>], from: u16) {
    for (sequence, frame) in (from..).zip(frames) {
        let mut packet = Peer::rtp_packet(0, sequence, 0);
        packet.truncate(12);
        packet.extend_from_slice(frame);
        peer.rtp.send_to(&packet, to).expect("loopback");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Listens until the callee has heard this without a break; all that it heard.
fn listen(peer: &Peer, part: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let (mut heard, mut buffer) = (Vec::new(), [0; 2_000]);
    let timeout = peer.rtp.set_read_timeout(Some(PATIENCE));
    timeout.expect("a timeout");
    while !contains(&heard, part) {
        assert!(Instant::now() < deadline, "the bridge is not heard whole");
        let (length, _) = peer.rtp.recv_from(&mut buffer).expect("RTP");
        heard.extend_from_slice(&buffer[12..length]);
    }
    heard
}

fn shows(context: &Context, sid: &CallId, status: CallStatus) {
    eventually(status.as_str(), || {
        context.calls.get(sid).map(|call| call.state.status) == Some(status)
    });
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

/// Places a call; its id, and where its worker listens.
async fn place(context: &Context, line: &str, to: &str) -> (CallId, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a bound socket");
    let call = NewCall {
        line: LineId::new(line),
        to: Private::new(to),
        custom_params: BTreeMap::new(),
        ws_target: Some(format!("ws://{address}/")),
        callback_url: None,
        voice: None,
        time_limit: None,
        caller_id: None,
        ring_timeout: PATIENCE,
    };
    let drivers = Drivers::new(context);
    let placed = CallPlacer::new(context, &drivers).place(call).await;
    (placed.expect("it is placed").facts.id.clone(), listener)
}

#[test]
fn a_placed_call_is_streamed_held_resumed_and_ended_by_its_callee() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "placed");
    let runtime = runtime();
    let context = context(stage.engine.clone(), &["placed"]);
    let (sid, listener) = runtime.block_on(place(&context, "placed", "+33612345678"));
    let request = invite(&peer);
    answer(&peer.sip, &request, 180, "");
    shows(&context, &sid, CallStatus::Ringing);
    let mut dialog = pick_up(&peer, &request);
    let mut worker = runtime.block_on(Worker::accept(listener));
    shows(&context, &sid, CallStatus::Active);

    let bridge = request.rtp_address().expect("an audio line");
    let question = numbered(1, 50);
    speak(&peer, bridge, &question, 100);
    runtime.block_on(worker.hears(&question.concat()));
    let reply = numbered(2, 50).concat();
    runtime.block_on(worker.say(&reply));
    listen(&peer, &reply);

    let ask = |request| runtime.block_on(context.calls.ask(&sid, request));
    ask(CallRequest::Hold).expect("it can be held");
    take(&peer, &reinvite(&peer, "sendonly"), "recvonly");
    let later = numbered(4, 50).concat();
    runtime.block_on(worker.say(&later));
    let hold = numbered(3, 25).concat();
    let heard = listen(&peer, &hold);
    assert!(!contains(&heard, &later[..FRAME]), "it waits");
    ask(CallRequest::Resume).expect("it can be taken back");
    take(&peer, &reinvite(&peer, "sendrecv"), "sendrecv");
    listen(&peer, &later);
    let again = numbered(5, 30);
    speak(&peer, bridge, &again, 300);
    runtime.block_on(worker.hears(&again.concat()));

    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    shows(&context, &sid, CallStatus::Completed);
    let ended = context.calls.get(&sid).and_then(|call| call.state.outcome);
    assert_eq!(
        ended.map(|outcome| outcome.as_str()),
        Some("callee-hung-up")
    );
    eventually("nothing is left", || {
        context.call_limiter.active() == 0 && stage.engine.stats().legs == 0
    });
    assert_eq!(stage.engine.stats().panics, 0);
}

/// The engine, but for one fault: the RTP sink of calls to one number panics
/// once it is told to.
struct Faulty {
    engine: SharedEngine,
    number: &'static str,
    panics: Arc<AtomicBool>,
}

/// The sink of such a call.
struct FaultySink {
    sink: Arc<dyn RtpSink>,
    panics: Arc<AtomicBool>,
}

impl RtpSink for FaultySink {
    fn send(&self, packet: &[u8]) -> Result<(), SinkError> {
        assert!(!self.panics.load(Ordering::Relaxed), "injected by the test");
        self.sink.send(packet)
    }
}

impl SipEngine for Faulty {
    fn submit(&self, command: Command) -> Result<(), SubmitError> {
        let mut call = match command {
            Command::Call(call) if call.destination.expose().contains(self.number) => call,
            command => return self.engine.submit(command),
        };
        let (reply, answer) = oneshot::channel();
        let asked = std::mem::replace(&mut call.reply, reply);
        let panics = self.panics.clone();
        tokio::spawn(async move {
            let Ok(mut placed) = answer.await else { return };
            let (sender, events) = mpsc::channel(LEG_QUEUE_EVENTS);
            let told = placed.as_mut().ok();
            let told = told.map(|leg| std::mem::replace(&mut leg.events, events));
            let _ = asked.send(placed);
            let Some(mut told) = told else { return };
            while let Some(mut event) = told.recv().await {
                if let LegEvent::Media(link) = &mut event {
                    let (sink, panics) = (link.sink.clone(), panics.clone());
                    link.sink = Arc::new(FaultySink { sink, panics });
                }
                let _ = sender.send(event).await;
            }
        });
        self.engine.submit(Command::Call(call))
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn local_port(&self, transport: Transport) -> Option<u16> {
        self.engine.local_port(transport)
    }

    fn register_thread(&self, name: &str) {
        self.engine.register_thread(name);
    }

    fn shutdown(&self) {
        self.engine.shutdown();
    }
}

#[test]
fn a_panic_where_a_call_sends_its_audio_ends_that_call_and_no_other() {
    let mut stage = stage();
    let (peer, other) = (trunk(&mut stage, "failing"), trunk(&mut stage, "well"));
    let runtime = runtime();
    let _entered = runtime.enter();
    let panics = Arc::new(AtomicBool::new(false));
    let engine = Arc::new(Faulty {
        engine: stage.engine.clone(),
        number: "33612345678",
        panics: panics.clone(),
    });
    let context = context(engine, &["failing", "well"]);
    let (failing, its_listener) = runtime.block_on(place(&context, "failing", "+33612345678"));
    let its_dialog = pick_up(&peer, &invite(&peer));
    let mut its_worker = runtime.block_on(Worker::accept(its_listener));
    let (well, listener) = runtime.block_on(place(&context, "well", "+33698765432"));
    let request = invite(&other);
    let mut dialog = pick_up(&other, &request);
    let mut worker = runtime.block_on(Worker::accept(listener));
    for sid in [&failing, &well] {
        shows(&context, sid, CallStatus::Active);
    }
    let words = numbered(1, 30).concat();
    runtime.block_on(its_worker.say(&words));
    listen(&peer, &words);

    panics.store(true, Ordering::Relaxed);
    its_dialog.serve("BYE", 200);
    shows(&context, &failing, CallStatus::Failed);

    let reply = numbered(2, 50).concat();
    runtime.block_on(worker.say(&reply));
    listen(&other, &reply);
    let question = numbered(4, 50);
    let bridge = request.rtp_address().expect("an audio line");
    speak(&other, bridge, &question, 100);
    runtime.block_on(worker.hears(&question.concat()));
    shows(&context, &well, CallStatus::Active);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    shows(&context, &well, CallStatus::Completed);
    eventually("nothing is left", || {
        context.call_limiter.active() == 0 && stage.engine.stats().legs == 0
    });
}
