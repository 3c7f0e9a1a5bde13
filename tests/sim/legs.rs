//! The legs of the scripted engine: what commands and the script do to them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{LEGS_MAX, Leg, LocalEnd, Outgoing, Script, State, pcmu};
use sipbridge::core::ids::{LegId, LineId};
use sipbridge::core::media_link::{Direction, MediaFormat, MediaLink, RtpSink};
use sipbridge::sip::engine::{
    CallRefused, Command, EndedBy, EngineEvent, LEG_QUEUE_EVENTS, LegEnd, LegEvent, OutgoingCall,
    OutgoingLeg, Registration,
};
use sipbridge::sip::rtp_channel::{RtpReceiver, rtp_channel};

/// What an opened leg leaves for its driver and its script.
pub(super) struct Opened {
    pub(super) events: mpsc::Receiver<LegEvent>,
    pub(super) rtp: RtpReceiver,
    pub(super) script: Arc<Script>,
}

impl State {
    /// Opens a leg.
    pub(super) fn open(&mut self, format: MediaFormat) -> (LegId, Opened) {
        self.next_leg += 1;
        let leg = LegId {
            index: self.next_leg,
            generation: 1,
        };
        let (events, event_receiver) = mpsc::channel(LEG_QUEUE_EVENTS + 1);
        let (rtp, rtp_receiver) = rtp_channel();
        let script = Arc::new(Script::default());
        let entry = Leg {
            last_place: events.clone().try_reserve_owned().ok(),
            events,
            rtp,
            format,
            script: Arc::clone(&script),
        };
        self.legs.insert(leg, entry);
        self.stats.legs += 1;
        let opened = Opened {
            events: event_receiver,
            rtp: rtp_receiver,
            script,
        };
        (leg, opened)
    }

    /// Takes back a leg that nobody was told of.
    pub(super) fn forget(&mut self, leg: LegId) {
        if self.legs.remove(&leg).is_some() {
            self.stats.legs -= 1;
        }
    }

    pub(super) fn announce(&self, event: EngineEvent) {
        if let Some(events) = &self.events
            && events.try_send(event).is_err()
        {
            tracing::warn!("engine event queue is full, an event was dropped");
        }
    }

    pub(super) fn emit(&mut self, leg: LegId, event: LegEvent) {
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

    pub(super) fn end(&mut self, leg: LegId, end: LegEnd) {
        if let Some(entry) = self.legs.remove(&leg) {
            self.stats.legs -= 1;
            entry.script.seen().sink_open = false;
            if let Some(place) = entry.last_place {
                place.send(LegEvent::Ended(end));
            }
        }
    }

    pub(super) fn media(&mut self, leg: LegId, change: impl FnOnce(&mut MediaFormat)) {
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

    pub(super) fn execute(&mut self, command: Command) {
        match command {
            Command::Flush(done) => drop(done.send(())),
            Command::AddLine(account) => {
                self.lines.insert(account.line.clone(), *account);
            }
            Command::RemoveLine(line) => {
                self.lines.remove(&line);
            }
            Command::Register(line) => self.register(line),
            // The registrar of the script does not tell one from the other.
            Command::Unregister(line) | Command::Forget(line) => {
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
            Command::Hold { leg, on } => self.hold(leg, on),
            Command::Call(call) => self.call(*call),
        }
    }

    pub(super) fn register(&mut self, line: LineId) {
        let Some(account) = self.lines.get(&line) else {
            return;
        };
        let success = Registration::Registered {
            expires: account.expires,
            siblings_listed: false,
        };
        let state = self.answers.get(&line).cloned().unwrap_or(success);
        self.registers.push(line.clone());
        self.announce(EngineEvent::Registration { line, state });
    }

    /// Notes a response to an INVITE; whether it brings the leg's first media.
    /// `None` when nothing may follow any more.
    fn note_status(&self, leg: LegId, status: u16) -> Option<bool> {
        let mut seen = self.legs.get(&leg)?.script.seen();
        if seen.statuses.contains(&200) {
            return None;
        }
        seen.statuses.push(status);
        Some(!seen.sink_open && matches!(status, 183 | 200))
    }

    pub(super) fn answer(&mut self, leg: LegId, status: u16) {
        let Some(first_media) = self.note_status(leg, status) else {
            return;
        };
        if first_media {
            self.media(leg, |_| ());
        }
        if status == 200 {
            self.emit(leg, LegEvent::Established);
        }
    }

    pub(super) fn end_locally(&mut self, leg: LegId, status: u16, retry_after: Option<Duration>) {
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

    fn call(&mut self, call: OutgoingCall) {
        if call.reply.is_closed() {
            return;
        }
        let full = (self.legs.len() >= LEGS_MAX).then_some(CallRefused::Full);
        if let Some(refused) = self.refuse_calls.clone().or(full) {
            drop(call.reply.send(Err(refused)));
            return;
        }
        let (leg, opened) = self.open(pcmu());
        self.outgoing.push(Outgoing {
            leg,
            line: call.line,
            destination: call.destination,
            headers: call.headers,
            script: opened.script,
        });
        let placed = OutgoingLeg {
            leg,
            sip_call_id: format!("sim-{}", leg.index),
            events: opened.events,
            rtp: opened.rtp,
        };
        if call.reply.send(Ok(placed)).is_err() {
            self.end_locally(leg, 487, None);
        }
    }

    /// A re-INVITE of the bridge, answered at once as the script says.
    fn hold(&mut self, leg: LegId, on: bool) {
        let Some(entry) = self.legs.get(&leg) else {
            return;
        };
        let status = {
            let mut seen = entry.script.seen();
            seen.holds.push(on);
            seen.refuse_holds.unwrap_or(200)
        };
        if status == 200 {
            let direction = if on {
                Direction::SendOnly
            } else {
                Direction::SendRecv
            };
            self.media(leg, |format| format.direction = direction);
        }
        self.emit(leg, LegEvent::Held { status });
    }

    /// A provisional response of a callee.
    pub(super) fn progress(&mut self, leg: LegId, status: u16) {
        let Some(first_media) = self.note_status(leg, status) else {
            return;
        };
        self.emit(leg, LegEvent::Progress(status));
        if first_media {
            self.media(leg, |_| ());
        }
    }
}
