//! A scripted SIP engine in memory, for call scenarios: the test is the trunk
//! and the caller. Commands act at once, in `submit`; there are no threads, no
//! clock and no sockets. What it leaves out: SIP timers, SDP, who may send RTP.
//!
//! ```
//! # use std::sync::Arc;
//! # use sipbridge::sip::{engine::*, sim::*};
//! # use sipbridge::core::ids::LineId;
//! let (sim, mut events) = SimEngine::new(Arc::new(AdmitAll));
//! let call = sim.invite(&LineId::new("line-1"), "+33612345678", "+33972360682").unwrap();
//! let Ok(EngineEvent::Incoming(incoming)) = events.try_recv() else { panic!() };
//! sim.submit(Command::Answer { leg: incoming.leg, status: 200 }).unwrap();
//! assert_eq!(call.statuses(), [200]);
//! ```

mod call;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::core::ids::{LegId, LineId};
use crate::core::link::{Codec, Direction, MediaFormat, MediaLink, RtpSink, SinkError};
use crate::core::private::Private;
use crate::sip::engine::{
    Account, Admission, Command, ENGINE_QUEUE_EVENTS, EndedBy, EngineEvent, EngineStats,
    IncomingCall, LEG_QUEUE_EVENTS, LegEnd, LegEvent, Refusal, Registration, SipEngine,
    SubmitError, Transport,
};
use crate::sip::rtp_channel::{RtpSender, rtp_channel};

pub use call::SimCall;

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
    stats: EngineStats,
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
        state.next_leg += 1;
        let leg = LegId {
            index: state.next_leg,
            generation: 1,
        };
        let (events, event_receiver) = mpsc::channel(LEG_QUEUE_EVENTS + 1);
        let (rtp, rtp_receiver) = rtp_channel();
        let script = Arc::new(Script::default());
        let incoming = IncomingCall {
            leg,
            line: line.clone(),
            sip_call_id: format!("sim-{}", leg.index),
            from: Private::new(from),
            to: Private::new(to),
            headers,
            peer: SocketAddr::from(([127, 0, 0, 1], 5060)),
            events: event_receiver,
            rtp: rtp_receiver,
        };
        let told = state.events.as_ref().is_some_and(|events| {
            events
                .try_send(EngineEvent::Incoming(Box::new(incoming)))
                .is_ok()
        });
        if !told {
            state.stats.refused += 1;
            return Err(full);
        }
        let entry = Leg {
            last_place: events.clone().try_reserve_owned().ok(),
            events,
            rtp,
            format,
            script: Arc::clone(&script),
        };
        state.legs.insert(leg, entry);
        state.stats.legs += 1;
        drop(state);
        Ok(SimCall::new(Arc::clone(self), leg, script))
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

impl State {
    fn announce(&self, event: EngineEvent) {
        if let Some(events) = &self.events
            && events.try_send(event).is_err()
        {
            tracing::warn!("engine event queue is full, an event was dropped");
        }
    }

    fn emit(&mut self, leg: LegId, event: LegEvent) {
        let lost = self
            .legs
            .get(&leg)
            .is_some_and(|entry| entry.events.try_send(event).is_err());
        if lost {
            let reason = "its driver does not read its events".to_owned();
            self.end(
                leg,
                LegEnd {
                    by: EndedBy::Failure,
                    status: 500,
                    reason,
                },
            );
        }
    }

    fn end(&mut self, leg: LegId, end: LegEnd) {
        if let Some(entry) = self.legs.remove(&leg) {
            self.stats.legs -= 1;
            entry.script.seen().sink_open = false;
            if let Some(place) = entry.last_place {
                place.send(LegEvent::Ended(end));
            }
        }
    }

    fn media(&mut self, leg: LegId, change: impl FnOnce(&mut MediaFormat)) {
        let Some(entry) = self.legs.get_mut(&leg) else {
            return;
        };
        change(&mut entry.format);
        entry.script.seen().sink_open = true;
        let sink: Arc<dyn RtpSink> = Arc::clone(&entry.script) as _;
        let link = MediaLink {
            format: entry.format,
            sink,
        };
        self.emit(leg, LegEvent::Media(link));
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Flush(done) => drop(done.send(())),
            Command::AddLine(account) => {
                self.lines.insert(account.line.clone(), *account);
            }
            Command::RemoveLine(line) => {
                self.lines.remove(&line);
            }
            Command::Register(line) => self.register(line),
            Command::Unregister(line) => {
                self.announce(EngineEvent::Registration {
                    line,
                    state: Registration::Unregistered,
                });
            }
            Command::Answer { leg, status } => self.answer(leg, status),
            Command::Reject {
                leg,
                status,
                retry_after,
            } => self.end_locally(leg, status, retry_after),
            Command::Hangup { leg, status } => self.end_locally(leg, status, None),
            Command::Transfer { leg, destination } => {
                if let Some(entry) = self.legs.get(&leg) {
                    entry.script.seen().transfers.push(destination);
                }
            }
        }
    }

    fn register(&mut self, line: LineId) {
        let Some(account) = self.lines.get(&line) else {
            return;
        };
        let success = Registration::Registered {
            expires: account.expires,
        };
        let state = self.answers.get(&line).cloned().unwrap_or(success);
        self.registers.push(line.clone());
        self.announce(EngineEvent::Registration { line, state });
    }

    fn answer(&mut self, leg: LegId, status: u16) {
        let Some(entry) = self.legs.get(&leg) else {
            return;
        };
        let first_media = {
            let mut seen = entry.script.seen();
            if seen.statuses.contains(&200) {
                return;
            }
            seen.statuses.push(status);
            !seen.sink_open && matches!(status, 183 | 200)
        };
        if first_media {
            self.media(leg, |_| ());
        }
        if status == 200 {
            self.emit(leg, LegEvent::Established);
        }
    }

    fn end_locally(&mut self, leg: LegId, status: u16, retry_after: Option<Duration>) {
        if let Some(entry) = self.legs.get(&leg) {
            entry.script.seen().local_end = Some(LocalEnd {
                status,
                retry_after,
            });
            self.end(
                leg,
                LegEnd {
                    by: EndedBy::Local,
                    status,
                    reason: String::new(),
                },
            );
        }
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
        self.state().stats
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
    use crate::sip::engine::RTP_QUEUE_PACKETS;
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
