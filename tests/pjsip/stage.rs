//! The engine under test and what scenarios need around it. pjsua is one per
//! process, so scenarios take turns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sipbridge::core::access::Accept;
use sipbridge::core::access::contact_key::ContactKey;
use sipbridge::core::ids::LineId;
use sipbridge::core::media_link::{MediaLink, RtpPacket};
use sipbridge::core::register_gate::RegisterGate;
use sipbridge::dns::{Files, Servers};
use sipbridge::sip::engine::{
    Access, Account, Admission, Command, ENGINE_QUEUE_EVENTS, EndedBy, EngineConfig, EngineEvent,
    IncomingCall, LegEnd, LegEvent, Refusal, Registration, SipEngine, Transport,
};
use sipbridge::sip::pjsip::PjsipEngine;
use sipbridge::sip::rtp_channel::RtpReceiver;
use sipbridge::sip::source::Latch;
use tokio::sync::{mpsc, oneshot};

use crate::peer::{Dialog, Message, PATIENCE, Peer, answer};

/// Warnings and errors of this process, one a line.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Takes what was logged since the last time.
pub fn take_log() -> String {
    let log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
    String::from_utf8_lossy(&log).into_owned()
}

/// Most calls of the engine at once.
pub const CALLS_MAX: usize = 96;

/// RTP ports of this process: others may run tests beside.
pub fn rtp_ports() -> (u16, u16) {
    let first = 30_000 + (std::process::id() % 100) as u16 * 200;
    (first, first + 199)
}

static REFUSE_WITH: Mutex<Option<Refusal>> = Mutex::new(None);

/// Makes admission refuse from now on, until the next scenario.
pub fn refuse_with(refusal: Refusal) {
    *REFUSE_WITH.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
}

struct Scripted;

impl Admission for Scripted {
    fn admit(&self, _line: &LineId) -> Result<(), Refusal> {
        let refusal = *REFUSE_WITH.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.map_or(Ok(()), Err)
    }
}

/// A running engine and its events.
pub struct Stage {
    pub engine: Arc<PjsipEngine>,
    pub events: mpsc::Receiver<EngineEvent>,
    pub register_gate: RegisterGate,
}

/// The engine, for one scenario at a time, with the line `main`.
pub fn stage() -> MutexGuard<'static, Stage> {
    static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();
    let stage = STAGE.get_or_init(|| Mutex::new(Stage::start()));
    let mut guard = stage.lock().unwrap_or_else(PoisonError::into_inner);
    *REFUSE_WITH.lock().unwrap_or_else(PoisonError::into_inner) = None;
    // What an earlier, failed scenario left behind.
    while guard.events.try_recv().is_ok() {}
    eventually("the legs of earlier scenarios end", || {
        guard.engine.stats().legs == 0
    });
    guard
}

/// An engine that is started for one scenario, and the usual one again after it.
pub struct OwnStage(MutexGuard<'static, Stage>);

/// As [`stage`], of an engine that takes TLS connections, by the certificate of
/// [`identity`].
pub fn tls_stage() -> OwnStage {
    own_stage(Some(identity()))
}

/// As [`stage`], of an engine that still holds nothing of earlier scenarios: pjsua
/// keeps a call until its BYE is answered or given up, which takes 32 s.
pub fn fresh_stage() -> OwnStage {
    own_stage(None)
}

fn own_stage(tls: Option<String>) -> OwnStage {
    let mut stage = stage();
    stage.engine.shutdown();
    *stage = Stage::start_with(Ipv4Addr::LOCALHOST.into(), None, tls.clone(), tls);
    OwnStage(stage)
}

impl Deref for OwnStage {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.0
    }
}

impl DerefMut for OwnStage {
    fn deref_mut(&mut self) -> &mut Stage {
        &mut self.0
    }
}

impl Drop for OwnStage {
    fn drop(&mut self) {
        self.0.engine.shutdown();
        *self.0 = Stage::start();
    }
}

/// The key of the engine's Contact tokens.
pub fn contact_key() -> ContactKey {
    ContactKey::new([7; 32])
}

/// The `line` parameter of a line's Contact.
pub fn line_token(line: &LineId) -> String {
    contact_key().token(line)
}

/// A PEM file with the engine's certificate and key, made once.
pub fn identity() -> String {
    static FILE: OnceLock<String> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let file = place.join("pjsip-identity.pem");
        if !file.exists() {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
            let made = made.expect("a certificate");
            let pem = made.cert.pem() + &made.signing_key.serialize_pem();
            // Whole or not at all, whoever else runs tests.
            let part = place.join(format!("pjsip-identity-{}", std::process::id()));
            std::fs::write(&part, pem).expect("a writable directory");
            std::fs::rename(&part, &file).expect("a writable directory");
        }
        file.display().to_string()
    });
    file.clone()
}

/// A line with a user name, registered at `server` where one is given.
pub fn account(line: &str, username: &str, server: Option<SocketAddr>) -> Account {
    Account {
        line: LineId::new(line),
        domain: "example.test".into(),
        server: Some(server.map_or("127.0.0.1:9".into(), |server| server.to_string())),
        transport: Transport::Udp,
        contact: None,
        username: username.into(),
        password: None,
        aliases: Vec::new(),
        number_forms: Vec::new(),
        register: server.is_some(),
        expires: Duration::from_secs(300),
        allow_from: Vec::new(),
    }
}

/// A registration for so many seconds, of which no other bridge has a share.
pub fn registered_for(seconds: u64) -> Registration {
    Registration::Registered {
        expires: Duration::from_secs(seconds),
        siblings_listed: false,
    }
}

/// The next news of a line's registration.
pub fn registration(stage: &mut Stage, line: &LineId) -> Registration {
    loop {
        if let EngineEvent::Registration { line: of, state } =
            next(&mut stage.events, "state of the registration")
            && of == *line
        {
            return state;
        }
    }
}

/// Whether nothing has come of a line's registration. What earlier scenarios' lines
/// still have to say is passed over.
pub fn is_quiet(stage: &mut Stage, line: &LineId) -> bool {
    let mut news = std::iter::from_fn(|| stage.events.try_recv().ok());
    !news.any(|event| matches!(event, EngineEvent::Registration { line: of, .. } if of == *line))
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn next<T>(receiver: &mut mpsc::Receiver<T>, what: &str) -> T {
    wait_for(|| receiver.try_recv(), what)
}

fn wait_for<T>(mut poll: impl FnMut() -> Result<T, mpsc::error::TryRecvError>, what: &str) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match poll() {
            Ok(value) => return value,
            Err(mpsc::error::TryRecvError::Disconnected) => panic!("closed before {what}"),
            Err(mpsc::error::TryRecvError::Empty) => {
                if Instant::now() >= deadline {
                    panic!("no {what} within {PATIENCE:?}; logged: {}", take_log());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Stage {
    /// Starts an engine on free ports, with the line `main`.
    pub fn start() -> Self {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), None)
    }

    /// The same on an address. ICE is used where there is one to offer.
    pub fn start_on(bind: IpAddr, stun: Option<SocketAddr>) -> Self {
        Self::start_with(bind, stun, None, None)
    }

    /// The same; SIP servers' certificates must come from this file.
    ///
    /// With a certificate of its own it takes TLS connections from the start.
    pub fn start_with(
        bind: IpAddr,
        stun: Option<SocketAddr>,
        tls_identity: Option<String>,
        tls_ca_file: Option<String>,
    ) -> Self {
        // Fails when it is done already.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(|| Log)
            .try_init();
        let (sender, events) = mpsc::channel(ENGINE_QUEUE_EVENTS);
        let mut listen = vec![(Transport::Udp, 0), (Transport::Tcp, 0)];
        listen.extend(tls_identity.as_ref().map(|_| (Transport::Tls, 0)));
        let register_gate = RegisterGate::default();
        let config = EngineConfig {
            bind,
            servers: Servers::start(Files::default()).expect("its thread starts"),
            listen,
            public_address: None,
            rtp_ports: rtp_ports(),
            rtp_latch: Latch::Peer,
            stun_server: stun.map(|server| server.to_string()),
            turn_server: None,
            ice: true,
            max_calls: CALLS_MAX as u32,
            tls_identity: tls_identity.map(|file| (file.clone(), file)),
            tls_ca_file,
            tls_insecure: false,
            user_agent: "sipbridge-test".into(),
            access: Access {
                accept: Accept::Trunks,
                // Peers of every kind call from addresses of their own.
                allow_from: "127.0.0.0/8".parse().into_iter().collect(),
                contact_key: contact_key(),
                calls_per_second: 0,
            },
            register_gate: register_gate.clone(),
        };
        let engine = PjsipEngine::start(config, Arc::new(Scripted), sender).expect("it starts");
        let mut stage = Self {
            engine,
            events,
            register_gate,
        };
        stage.add_line(account("main", "alice", None));
        stage
    }

    pub fn peer(&self) -> Peer {
        let port = self.engine.local_port(Transport::Udp).expect("UDP is open");
        Peer::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    pub fn uri(&self, user: &str) -> String {
        format!(
            "sip:{user}@127.0.0.1:{}",
            self.engine.local_port(Transport::Udp).unwrap_or(0)
        )
    }

    pub fn incoming(&mut self) -> IncomingCall {
        loop {
            if let EngineEvent::Incoming(call) = next(&mut self.events, "incoming call") {
                return *call;
            }
        }
    }

    /// Adds a line and waits until it is there: commands are obeyed in order,
    /// so the refusal of a second, senseless line comes after it.
    pub fn add_line(&mut self, line: Account) {
        self.submit(Command::AddLine(Box::new(line)));
        let mut senseless = account("senseless", "x", None);
        senseless.domain = "not a host".into();
        let id = senseless.line.clone();
        self.submit(Command::AddLine(Box::new(senseless)));
        // Else it would be tried again.
        self.submit(Command::RemoveLine(id));
        while !matches!(
            next(&mut self.events, "refusal of a line"),
            EngineEvent::LineRefused { .. }
        ) {}
    }

    pub fn submit(&self, command: Command) {
        self.engine.submit(command).expect("room in the queue");
    }

    /// Returns once the engine has done what it was told so far. On a busy machine that may
    /// take many seconds; an engine that hangs is a failed test.
    pub fn flush(&self) {
        let (done, mut flushed) = oneshot::channel();
        self.submit(Command::Flush(done));
        let deadline = Instant::now() + Duration::from_secs(120);
        while let Err(error) = flushed.try_recv() {
            let hangs = error == oneshot::error::TryRecvError::Closed || Instant::now() >= deadline;
            assert!(!hangs, "the engine does not do as it is told: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn answer(&self, call: &IncomingCall, status: u16) {
        self.submit(Command::Answer {
            leg: call.leg,
            status,
        });
    }
}

pub fn media(call: &mut IncomingCall) -> MediaLink {
    match next(&mut call.events, "media") {
        LegEvent::Media(link) => link,
        other => panic!("expected media, got {other:?}"),
    }
}

pub fn established(call: &mut IncomingCall) {
    match next(&mut call.events, "established") {
        LegEvent::Established => {}
        other => panic!("expected established, got {other:?}"),
    }
}

pub fn ended(call: &mut IncomingCall) -> LegEnd {
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

pub fn packet(call: &mut IncomingCall) -> RtpPacket {
    packet_of(&mut call.rtp)
}

pub fn packet_of(rtp: &mut RtpReceiver) -> RtpPacket {
    wait_for(|| rtp.try_recv(), "RTP packet")
}

/// An answered call: the caller's dialog, our leg, its media, where our RTP is.
pub fn up<'a>(
    stage: &mut Stage,
    peer: &'a Peer,
    sdp: &str,
) -> (Dialog<'a>, IncomingCall, MediaLink, SocketAddr) {
    up_with(stage, peer, sdp, "")
}

/// The same by an INVITE with more headers.
pub fn up_with<'a>(
    stage: &mut Stage,
    peer: &'a Peer,
    sdp: &str,
    extra: &str,
) -> (Dialog<'a>, IncomingCall, MediaLink, SocketAddr) {
    let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", sdp, extra);
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    let ok = dialog.establish();
    let link = media(&mut call);
    established(&mut call);
    let bridge = ok.rtp_address().expect("an audio line");
    (dialog, call, link, bridge)
}

pub fn bye(dialog: &mut Dialog<'_>, call: &mut IncomingCall) {
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    assert_eq!(ended(call).by, EndedBy::Remote);
}

/// Whether a message is a REGISTER.
pub fn is_register(message: &Message) -> bool {
    message.method() == "REGISTER"
}

/// Answers a REGISTER: its Contact is bound for so many seconds.
pub fn accept(registrar: &Peer, request: &Message, expires: u64) {
    let contact = request.header("contact").expect("Contact");
    let contact = format!("Contact: {contact};expires={expires}\r\n");
    answer(&registrar.sip, request, 200, &contact);
}

/// Adds a line and has its first REGISTER sent, which is not answered yet.
pub fn asked(stage: &mut Stage, registrar: &Peer, id: &str) -> (LineId, Message) {
    let line = LineId::new(id);
    stage.add_line(account(id, id, Some(registrar.address())));
    stage.submit(Command::Register(line.clone()));
    let request = registrar.wait("REGISTER", is_register);
    (line, request)
}
