//! What is known about one call, and how others are told: the job, the
//! events in Redis, the record in the database, the last line in the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::{debug, error, info};

use super::call_terms::CallTerms;
use super::context::Context;
use super::inbound_audio::InboundAudio;
use super::leg_media::leg_stats;
use super::outbound_audio::OutboundAudio;
use crate::core::audio_counters::AudioCounters;
use crate::core::call::{Attempt, Reason, Report};
use crate::core::call_object::{CallDirection, CallObject, CallStatus};
use crate::core::ids::{CallId, StreamId, Token};
use crate::core::mos;
use crate::core::numbers;
use crate::core::outcome::Outcome;
use crate::core::private::Private;
use crate::fleet::LineProfile;
use crate::queue::{CallEvent, CallEventKind, Job};
use crate::sip::engine::IncomingCall;
use crate::store::{AudioStats, CallRecord};
use crate::worker::attach_url;

/// Facts about one call.
pub(super) struct Record {
    /// `callSid`.
    pub(super) call_id: CallId,
    /// `streamSid` of the present attempt.
    pub(super) stream_id: StreamId,
    /// Who called whom.
    pub(super) direction: CallDirection,
    /// The line that was called, or that we call from.
    pub(super) line: Arc<LineProfile>,
    /// Who calls.
    pub(super) from: Private,
    /// `customParameters` of `start`.
    pub(super) custom_parameters: BTreeMap<String, String>,
    /// The SIP status that ended the leg.
    pub(super) sip_status: u16,
    /// The present attempt.
    pub(super) attempt: Attempt,
    pub(super) sip_call_id: String,
    to: Private,
    came: Instant,
    started: SystemTime,
    answered: Option<(Instant, SystemTime)>,
    /// The last worker: how it came, and its stream.
    worker: Option<(String, StreamId)>,
}

impl Record {
    /// The call that this INVITE begins.
    pub(super) fn new(
        context: &Context,
        line: Arc<LineProfile>,
        incoming: &IncomingCall,
        terms: &CallTerms,
    ) -> Self {
        // The number the line is known by; what the trunk wrote into To may be anything.
        let to = line.phone_number.as_ref().unwrap_or(&incoming.to);
        let parties = Parties {
            direction: CallDirection::Inbound,
            from: in_e164(
                incoming.caller.number(context.settings.trust_privacy),
                &line,
            ),
            to: in_e164(to, &line),
        };
        let sip_call_id = incoming.sip_call_id.clone();
        let mut record = Self::between(context, line, parties, sip_call_id, terms);
        record.hand_on_headers(context, incoming);
        record
    }

    /// The headers that the operator names, behind everything else that has
    /// their name; none that gives away who calls and does not want it told.
    fn hand_on_headers(&mut self, context: &Context, incoming: &IncomingCall) {
        let settings = &context.settings;
        let withheld = incoming.caller.withheld.as_ref();
        let withheld = withheld.filter(|_| settings.trust_privacy);
        for (name, value) in settings.sip_headers.pick(&incoming.headers) {
            if !withheld.is_some_and(|withheld| withheld.is_told_by(value)) {
                let place = self.custom_parameters.entry(name);
                place.or_insert_with(|| value.to_owned());
            }
        }
    }

    /// A call that we placed from this line.
    pub(super) fn placed(
        context: &Context,
        line: Arc<LineProfile>,
        to: Private,
        sip_call_id: String,
        terms: &CallTerms,
    ) -> Self {
        let parties = Parties {
            direction: CallDirection::Outbound,
            from: in_e164(&line.phone_number.clone().unwrap_or_default(), &line),
            to: in_e164(&to, &line),
        };
        Self::between(context, line, parties, sip_call_id, terms)
    }

    fn between(
        context: &Context,
        line: Arc<LineProfile>,
        parties: Parties,
        sip_call_id: String,
        terms: &CallTerms,
    ) -> Self {
        Self {
            call_id: CallId::random(),
            stream_id: StreamId::random(),
            custom_parameters: custom_parameters(context, &line, &parties, terms),
            direction: parties.direction,
            line,
            from: parties.from,
            to: parties.to,
            sip_status: 0,
            attempt: Attempt {
                number: 1,
                resumed: false,
                until: None,
            },
            sip_call_id,
            came: Instant::now(),
            started: SystemTime::now(),
            answered: None,
            worker: None,
        }
    }

    /// Another attempt to find a worker begins: its stream is another one.
    pub(super) fn begin(&mut self, context: &Context, attempt: Attempt) {
        context
            .gauges
            .counters
            .attempt(self.attempt.until.is_none());
        if attempt.number != self.attempt.number {
            self.stream_id = StreamId::random();
        }
        if attempt.resumed {
            let parameters = &mut self.custom_parameters;
            parameters.insert("resumed".into(), "true".into());
        }
        self.attempt = attempt;
    }

    /// The dialog stands; since when.
    pub(super) fn answered(&mut self, now: Instant) -> SystemTime {
        self.answered.get_or_insert((now, SystemTime::now())).1
    }

    /// The call as others see it at its beginning.
    pub(super) fn object(&self) -> CallObject {
        CallObject {
            sid: self.call_id.clone(),
            direction: self.direction,
            line: self.line.id.clone(),
            restaurant: self.line.restaurant_id.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            status: CallStatus::Initiated,
            on_hold: false,
            custom_params: self.custom_parameters.clone(),
            created: self.started,
            answered: None,
            ended: None,
            outcome: None,
            sip_status: 0,
        }
    }

    /// Adds parameters, but for those that the contract promises.
    pub(super) fn add_parameters(&mut self, more: &BTreeMap<String, String>) {
        for (name, value) in more {
            let is_promised = match name.as_str() {
                "callerPhone" | "to" | "direction" | "phoneLineId" => true,
                "restaurantId" => self.line.restaurant_id.is_some(),
                _ => false,
            };
            if !is_promised {
                self.custom_parameters.insert(name.clone(), value.clone());
            }
        }
    }

    /// A worker is attached: how it came.
    pub(super) fn attached(&mut self, worker: String) {
        self.worker = Some((worker, self.stream_id.clone()));
    }

    /// Leaves the record of a call in progress.
    pub(super) fn begun(&self, context: &Context) {
        self.keep(context, None);
    }

    /// The job of the present attempt.
    pub(super) fn job(&self, context: &Context, token: &Token) -> Job {
        let created = SystemTime::now();
        let until = self.attempt.until.map(Instant::from_std);
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        Job {
            call: self.call_id.clone(),
            stream: self.stream_id.clone(),
            line: self.line.id.clone(),
            restaurant: self.line.restaurant_id.clone(),
            from: Some(self.from.clone()),
            to: Some(self.to.clone()),
            direction: self.direction,
            stream_url: attach_url(&context.settings.stream_url, &self.call_id, token),
            created,
            expires: created + left.unwrap_or(context.settings.worker_timeout),
            attempt: self.attempt.number,
            resumed: self.attempt.resumed,
            custom_parameters: self.custom_parameters.clone(),
        }
    }

    /// Tells Redis and the log of a step.
    pub(super) fn report(&self, context: &Context, report: Report) {
        context.gauges.counters.step(report);
        let kind = match report {
            Report::Initiated => CallEventKind::Initiated,
            Report::Ringing => CallEventKind::Ringing,
            Report::Transfer(status) => CallEventKind::Transfer { status },
            Report::Queued(reason) => CallEventKind::Queued {
                reason: reason.map(Reason::as_str),
            },
            Report::Answered => CallEventKind::Answered,
            Report::WorkerLost => CallEventKind::WorkerLost,
            Report::WorkerAttached => CallEventKind::WorkerAttached {
                stream: self.stream_id.clone(),
            },
            Report::Fallback(step, reason) => {
                let (step, reason) = (step.as_str(), reason.as_str());
                info!(rung = step, reason, "no worker takes the call: fallback");
                CallEventKind::Fallback { rung: step, reason }
            }
        };
        debug!(event = kind.name(), "event");
        if report == Report::WorkerAttached {
            info!(
                stream = %self.stream_id,
                attempt = self.attempt.number,
                after_ms = self.came.elapsed().as_millis() as u64,
                "worker attached"
            );
        }
        self.publish(context, kind);
    }

    /// Tells Redis and the log that the call is over.
    pub(super) fn ended(
        &self,
        context: &Context,
        outcome: Outcome,
        port: &InboundAudio,
        stream: &OutboundAudio,
    ) {
        context.gauges.counters.ended(self.direction, outcome);
        let duration = self.answered.map(|(at, _)| at.elapsed());
        let duration = duration.unwrap_or_default();
        let dropped = port.lock().dropped;
        let stats = leg_stats(port, stream);
        let (up, down) = (stats.received, stats.sent);
        let counters = AudioCounters::of(&up, &down);
        info!(
            %outcome,
            duration_ms = duration.as_millis() as u64,
            sip_status = self.sip_status,
            rtp_in = up.packets,
            rtp_lost = up.lost,
            rtp_out = down.packets,
            jitter_ms = up.jitter.as_millis() as u64,
            dropped,
            unsent = stream.unsent(),
            underruns = down.underruns,
            trimmed = down.trimmed_frames,
            %counters,
            "call ended"
        );
        let audio = AudioStats {
            packets_received: up.packets,
            packets_lost: up.lost,
            packets_sent: down.packets,
            jitter: up.jitter,
            mos: mos::estimate(up.packets, up.lost, up.jitter),
            counters: Some(counters),
        };
        self.keep(context, Some((outcome, audio)));
        self.publish(context, CallEventKind::Ended { outcome, duration });
    }

    /// Tells Redis and the log that the call is over because its driver failed.
    pub(super) fn abandoned(&self, context: &Context) {
        let outcome = Outcome::Failed;
        context.gauges.counters.ended(self.direction, outcome);
        let duration = self.answered.map(|(at, _)| at.elapsed());
        let duration = duration.unwrap_or_default();
        error!(
            call_id = %self.call_id,
            line = %self.line.id,
            %outcome,
            duration_ms = duration.as_millis() as u64,
            "a fault of the bridge has ended this call; please report the panic above"
        );
        self.keep(context, Some((outcome, AudioStats::default())));
        self.publish(context, CallEventKind::Ended { outcome, duration });
    }

    /// Leaves the record for the database, where there is one. Never waits.
    fn keep(&self, context: &Context, end: Option<(Outcome, AudioStats)>) {
        let Some(log) = &context.call_log else { return };
        log.record(CallRecord {
            call: self.call_id.clone(),
            sip_call_id: Some(self.sip_call_id.clone()),
            node: log.node().to_owned(),
            line: self.line.id.clone(),
            restaurant: self.line.restaurant_id.clone(),
            direction: self.direction.as_str().to_owned(),
            from: self.from.clone(),
            to: self.to.clone(),
            started: self.started,
            answered: self.answered.map(|(_, at)| at),
            ended: end.map(|_| SystemTime::now()),
            outcome: end.map(|(outcome, _)| outcome.as_str().to_owned()),
            attempts: self.attempt.number,
            stream: self.worker.as_ref().map(|(_, stream)| stream.clone()),
            worker: self.worker.as_ref().map(|(worker, _)| worker.clone()),
            // 0 until the leg has ended.
            sip_status: Some(self.sip_status).filter(|&status| status > 0),
            audio: end.map(|(_, audio)| audio),
        });
    }

    fn publish(&self, context: &Context, kind: CallEventKind) {
        let Some(queue) = &context.queue else { return };
        queue.record(CallEvent {
            call: self.call_id.clone(),
            line: self.line.id.clone(),
            restaurant: self.line.restaurant_id.clone(),
            direction: self.direction,
            attempt: self.attempt.number,
            at: SystemTime::now(),
            kind,
        });
    }
}

/// A number as everybody is told it: in E.164 where that is certain.
fn in_e164(number: &Private, line: &LineProfile) -> Private {
    let e164 = numbers::to_e164(number.expose(), line.dial.country);
    e164.map_or_else(|| number.clone(), Private::new)
}

/// Who calls whom.
struct Parties {
    direction: CallDirection,
    from: Private,
    to: Private,
}

/// `--param`, the line's own parameters and the call's, then what the contract
/// promises: a later one replaces an earlier one. `callerPhone` is who calls,
/// so the line's own number where we do, and `to` who is called.
fn custom_parameters(
    context: &Context,
    line: &LineProfile,
    parties: &Parties,
    terms: &CallTerms,
) -> BTreeMap<String, String> {
    let mut parameters = context.settings.params.clone();
    parameters.extend(line.custom_parameters.clone());
    parameters.extend(terms.custom_params.clone());
    let mut put = |name: &str, value: &str| parameters.insert(name.to_owned(), value.to_owned());
    put("callerPhone", parties.from.expose());
    put("to", parties.to.expose());
    put("direction", parties.direction.as_str());
    put("phoneLineId", line.id.as_str());
    if let Some(restaurant) = &line.restaurant_id {
        put("restaurantId", restaurant);
    }
    parameters
}
