//! A scripted SIP engine in memory, for call scenarios: the test is the trunk
//! and the caller. Commands act at once, in `submit`; there are no threads, no
//! clock and no sockets. What it leaves out: SIP timers, SDP, who may send RTP.

mod call;
mod callee;
mod legs;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use sipbridge::core::ids::{LegId, LineId};
use sipbridge::core::media_link::{Codec, Direction, MediaFormat, RtpSink, SinkError};
use sipbridge::core::private::Private;
use sipbridge::core::sip_header::SipHeader;
use sipbridge::sip::engine::{
    Account, Admission, CallRefused, Command, ENGINE_QUEUE_EVENTS, EngineEvent, EngineStats,
    IncomingCall, LegEvent, Refusal, Registration, SipEngine, SubmitError, Transport,
};
use sipbridge::sip::identity::Caller;
use sipbridge::sip::rtp_channel::RtpSender;

pub use call::SimCall;
pub use callee::SimCallee;

/// How many sent RTP packets a call keeps for the test; older ones go.
const SENT_PACKETS_MAX: usize = 65_536;
/// Most legs at once, as in the real engine.
const LEGS_MAX: usize = 1_024;

/// Admits every INVITE.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit(&self, _line: &LineId) -> Result<(), Refusal> {
        Ok(())
    }
}

/// The format that calls get unless the test says otherwise: PCMU both ways,
/// telephone-event 101.
#[must_use]
pub const fn pcmu() -> MediaFormat {
    MediaFormat {
        codec: Codec::Pcmu,
        send_payload_type: 0,
        receive_payload_type: 0,
        send_event_type: Some(101),
        receive_event_type: Some(101),
        ssrc: 0x5349_4d31,
        direction: Direction::SendRecv,
    }
}

/// How the bridge refused or ended a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEnd {
    /// Status of `Reject` or `Hangup`.
    pub status: u16,
    /// Retry-After of `Reject`.
    pub retry_after: Option<Duration>,
}

/// The engine.
pub struct SimEngine {
    admission: Arc<dyn Admission>,
    state: Mutex<State>,
}

struct State {
    /// `None` after shutdown.
    events: Option<mpsc::Sender<EngineEvent>>,
    legs: HashMap<LegId, Leg>,
    next_leg: u32,
    lines: BTreeMap<LineId, Account>,
    /// What REGISTER of a line is answered with; success when not scripted.
    answers: HashMap<LineId, Registration>,
    registers: Vec<LineId>,
    refuse_commands: Option<SubmitError>,
    /// Calls of the bridge that the test has not taken yet.
    outgoing: Vec<Outgoing>,
    refuse_calls: Option<CallRefused>,
    stats: EngineStats,
}

struct Outgoing {
    leg: LegId,
    line: LineId,
    destination: Private,
    headers: Vec<SipHeader>,
    script: Arc<Script>,
}

struct Leg {
    events: mpsc::Sender<LegEvent>,
    last_place: Option<mpsc::OwnedPermit<LegEvent>>,
    rtp: RtpSender,
    format: MediaFormat,
    script: Arc<Script>,
}

/// What a call records; outlives the leg.
#[derive(Default)]
struct Script {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    statuses: Vec<u16>,
    local_end: Option<LocalEnd>,
    transfers: Vec<Private>,
    /// What re-INVITEs of the bridge asked for.
    holds: Vec<bool>,
    refuse_holds: Option<u16>,
    sent: VecDeque<Vec<u8>>,
    sink_open: bool,
    refuse_sends: Option<i32>,
}

impl Script {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RtpSink for Script {
    fn send(&self, packet: &[u8]) -> Result<(), SinkError> {
        let mut seen = self.seen();
        if !seen.sink_open {
            return Err(SinkError::Closed);
        }
        if let Some(status) = seen.refuse_sends {
            return Err(SinkError::Refused(status));
        }
        if seen.sent.len() == SENT_PACKETS_MAX {
            seen.sent.pop_front();
        }
        seen.sent.push_back(packet.to_vec());
        Ok(())
    }
}

impl SimEngine {
    /// An engine and its events.
    #[must_use]
    pub fn new(admission: Arc<dyn Admission>) -> (Arc<Self>, mpsc::Receiver<EngineEvent>) {
        let (events, receiver) = mpsc::channel(ENGINE_QUEUE_EVENTS);
        let state = State {
            events: Some(events),
            legs: HashMap::new(),
            next_leg: 0,
            lines: BTreeMap::new(),
            answers: HashMap::new(),
            registers: Vec::new(),
            refuse_commands: None,
            outgoing: Vec::new(),
            refuse_calls: None,
            stats: EngineStats::default(),
        };
        let engine = Self {
            admission,
            state: Mutex::new(state),
        };
        (Arc::new(engine), receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller's INVITE for a line. Lines need not be added first.
    ///
    /// # Errors
    /// The refusal that the caller gets, from `Admission` or a full queue.
    pub fn invite(
        self: &Arc<Self>,
        line: &LineId,
        from: &str,
        to: &str,
    ) -> Result<SimCall, Refusal> {
        self.invite_with(line, from, to, pcmu(), BTreeMap::new())
    }

    /// The same with a codec of the test's choice and `X-` headers.
    ///
    /// # Errors
    /// As [`invite`](Self::invite).
    pub fn invite_with(
        self: &Arc<Self>,
        line: &LineId,
        from: &str,
        to: &str,
        format: MediaFormat,
        headers: BTreeMap<String, String>,
    ) -> Result<SimCall, Refusal> {
        if let Err(refusal) = self.admission.admit(line) {
            self.state().stats.refused += 1;
            return Err(refusal);
        }
        let mut state = self.state();
        let full = Refusal {
            status: 503,
            retry_after: Some(Duration::from_secs(5)),
        };
        if state.legs.len() >= LEGS_MAX {
            state.stats.refused += 1;
            return Err(full);
        }
        let (leg, opened) = state.open(format);
        let incoming = IncomingCall {
            leg,
            line: line.clone(),
            sip_call_id: format!("sim-{}", leg.index),
            caller: Caller {
                shown: Private::new(from),
                withheld: None,
            },
            to: Private::new(to),
            headers,
            peer: SocketAddr::from(([127, 0, 0, 1], 5060)),
            events: opened.events,
            rtp: opened.rtp,
        };
        let told = state.events.as_ref().is_some_and(|events| {
            events
                .try_send(EngineEvent::Incoming(Box::new(incoming)))
                .is_ok()
        });
        if !told {
            state.forget(leg);
            state.stats.refused += 1;
            return Err(full);
        }
        drop(state);
        Ok(SimCall::new(Arc::clone(self), leg, opened.script))
    }

    /// Takes the calls that the bridge placed since the last time, in order.
    /// Lines need not be added first.
    #[must_use]
    pub fn take_outgoing(self: &Arc<Self>) -> Vec<SimCallee> {
        let calls = std::mem::take(&mut self.state().outgoing);
        let callee = |call: Outgoing| {
            let own = SimCall::new(Arc::clone(self), call.leg, call.script);
            SimCallee::new(own, call.line, call.destination, call.headers)
        };
        calls.into_iter().map(callee).collect()
    }

    /// Makes the engine refuse to place calls from now on, or place them again.
    pub fn refuse_calls(&self, refused: Option<CallRefused>) {
        self.state().refuse_calls = refused;
    }

    /// The lines that were added, in order of their ids.
    #[must_use]
    pub fn lines(&self) -> Vec<LineId> {
        self.state().lines.keys().cloned().collect()
    }

    /// Takes the REGISTERs that were sent since the last call.
    #[must_use]
    pub fn take_registers(&self) -> Vec<LineId> {
        std::mem::take(&mut self.state().registers)
    }

    /// Scripts what REGISTER of a line is answered with from now on.
    pub fn answer_register(&self, line: &LineId, state: Registration) {
        self.state().answers.insert(line.clone(), state);
    }

    /// Reports a registration state on its own, as a failed refresh does.
    pub fn report_registration(&self, line: &LineId, registration: Registration) {
        self.state().announce(EngineEvent::Registration {
            line: line.clone(),
            state: registration,
        });
    }

    /// Makes `submit` fail from now on, or work again.
    pub fn refuse_commands(&self, error: Option<SubmitError>) {
        self.state().refuse_commands = error;
    }
}

impl SipEngine for SimEngine {
    fn submit(&self, command: Command) -> Result<(), SubmitError> {
        let mut state = self.state();
        if state.events.is_none() {
            return Err(SubmitError::Closed);
        }
        if let Some(error) = state.refuse_commands {
            return Err(error);
        }
        state.execute(command);
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        self.state().stats.clone()
    }

    fn local_port(&self, _transport: Transport) -> Option<u16> {
        None
    }

    fn register_thread(&self, _name: &str) {}

    fn shutdown(&self) {
        let mut state = self.state();
        for leg in state.legs.keys().copied().collect::<Vec<_>>() {
            state.end_locally(leg, 503, None);
        }
        state.events = None;
    }
}

#[cfg(test)]
mod tests {
    use sipbridge::sip::engine::{
        EndedBy, LEG_QUEUE_EVENTS, OutgoingCall, OutgoingLeg, RTP_QUEUE_PACKETS,
    };
    use std::time::Instant;

    use super::*;

    fn answered() -> (Arc<SimEngine>, SimCall, Box<IncomingCall>) {
        let (sim, mut events) = SimEngine::new(Arc::new(AdmitAll));
        let call = sim.invite(&LineId::new("a"), "+331", "+332").unwrap();
        let Ok(EngineEvent::Incoming(incoming)) = events.try_recv() else {
            panic!("no incoming call");
        };
        sim.submit(Command::Answer {
            leg: incoming.leg,
            status: 200,
        })
        .unwrap();
        (sim, call, incoming)
    }

    #[test]
    fn an_answered_call_has_media_then_is_established_then_ends_once() {
        let (sim, call, mut incoming) = answered();
        let Ok(LegEvent::Media(link)) = incoming.events.try_recv() else {
            panic!("no media");
        };
        assert!(matches!(
            incoming.events.try_recv(),
            Ok(LegEvent::Established)
        ));
        link.sink.send(&[1; 172]).unwrap();
        assert_eq!(call.take_sent(), [vec![1; 172]]);
        assert!(call.send_rtp(&[2; 172], Instant::now()));
        assert_eq!(*incoming.rtp.try_recv().unwrap().bytes, [2; 172]);
        call.hang_up();
        call.hang_up();
        assert!(
            matches!(incoming.events.try_recv(), Ok(LegEvent::Ended(end)) if end.by == EndedBy::Remote && end.status == 200)
        );
        assert!(matches!(
            incoming.events.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
        assert!(matches!(
            incoming.rtp.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
        assert_eq!(link.sink.send(&[1; 172]), Err(SinkError::Closed));
        assert_eq!(sim.stats().legs, 0);
    }

    #[test]
    fn commands_are_seen_by_the_caller() {
        let (sim, call, incoming) = answered();
        let destination = Private::new("+33900");
        sim.submit(Command::Transfer {
            leg: incoming.leg,
            destination: destination.clone(),
        })
        .unwrap();
        assert_eq!(call.transfers(), [destination]);
        sim.submit(Command::Hangup {
            leg: incoming.leg,
            status: 480,
        })
        .unwrap();
        assert_eq!(
            call.local_end(),
            Some(LocalEnd {
                status: 480,
                retry_after: None
            })
        );
        assert!(!call.is_up());
        sim.shutdown();
        let late = sim.submit(Command::Answer {
            leg: incoming.leg,
            status: 200,
        });
        assert_eq!(late, Err(SubmitError::Closed));
    }

    type Answer = tokio::sync::oneshot::Receiver<Result<OutgoingLeg, CallRefused>>;

    fn call(sim: &SimEngine) -> Answer {
        let (reply, answer) = tokio::sync::oneshot::channel();
        place(sim, reply);
        answer
    }

    fn place(
        sim: &SimEngine,
        reply: tokio::sync::oneshot::Sender<Result<OutgoingLeg, CallRefused>>,
    ) {
        sim.submit(Command::Call(Box::new(OutgoingCall {
            line: LineId::new("a"),
            destination: Private::new("+333"),
            headers: Vec::new(),
            shown: None,
            reply,
        })))
        .unwrap();
    }

    #[test]
    fn a_placed_call_rings_is_answered_and_ends_as_the_callee_says() {
        let (sim, _events) = SimEngine::new(Arc::new(AdmitAll));
        let mut leg = call(&sim).try_recv().unwrap().unwrap();
        let [callee] = &sim.take_outgoing()[..] else {
            panic!("one call");
        };
        assert_eq!((callee.leg(), callee.line()), (leg.leg, &LineId::new("a")));
        assert_eq!(callee.destination(), &Private::new("+333"));
        callee.ring();
        callee.progress(183);
        callee.answer();
        callee.ring();
        let mut next = || leg.events.try_recv();
        assert!(matches!(next(), Ok(LegEvent::Progress(180))));
        assert!(matches!(next(), Ok(LegEvent::Progress(183))));
        let Ok(LegEvent::Media(link)) = next() else {
            panic!("no media");
        };
        assert!(matches!(next(), Ok(LegEvent::Established)));
        assert!(next().is_err());
        link.sink.send(&[3; 172]).unwrap();
        assert_eq!(callee.take_sent(), [vec![3; 172]]);
        assert!(callee.send_rtp(&[4; 172], Instant::now()));
        assert_eq!(*leg.rtp.try_recv().unwrap().bytes, [4; 172]);
        callee.hang_up();
        assert!(
            matches!(leg.events.try_recv(), Ok(LegEvent::Ended(end)) if end.by == EndedBy::Remote && end.status == 200)
        );

        let mut busy = call(&sim).try_recv().unwrap().unwrap();
        sim.take_outgoing()[0].refuse(486);
        assert!(
            matches!(busy.events.try_recv(), Ok(LegEvent::Ended(end)) if end.by == EndedBy::Remote && end.status == 486)
        );
        assert_eq!(sim.stats().legs, 0);
    }

    #[test]
    fn a_call_can_be_refused_and_ends_when_nobody_waits_for_it() {
        let (sim, _events) = SimEngine::new(Arc::new(AdmitAll));
        sim.refuse_calls(Some(CallRefused::Full));
        let refused = call(&sim).try_recv().unwrap();
        assert_eq!(refused.unwrap_err(), CallRefused::Full);
        sim.refuse_calls(None);
        assert!(sim.take_outgoing().is_empty());
        let leg = call(&sim).try_recv().unwrap().unwrap();
        sim.submit(Command::Hangup {
            leg: leg.leg,
            status: 487,
        })
        .unwrap();
        let callee = &sim.take_outgoing()[0];
        assert_eq!(callee.local_end().unwrap().status, 487);
        let (reply, answer) = tokio::sync::oneshot::channel();
        drop(answer);
        place(&sim, reply);
        assert_eq!((sim.stats().legs, sim.take_outgoing().len()), (0, 0));
    }

    #[test]
    fn queues_are_bounded() {
        let (sim, call, incoming) = answered();
        for _ in 0..RTP_QUEUE_PACKETS {
            assert!(call.send_rtp(&[0; 12], Instant::now()));
        }
        assert!(!call.send_rtp(&[0; 12], Instant::now()));
        assert_eq!(sim.stats().rtp_overflow, 1);
        for _ in 0..=LEG_QUEUE_EVENTS {
            call.digit('1');
        }
        assert!(!call.is_up(), "a driver that reads nothing loses its leg");
        drop(incoming);
    }
}
