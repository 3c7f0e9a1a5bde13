//! How others are told of one call: the job, the events in Redis, the row in
//! the database, the entry that the API and callbacks show, the log. All are
//! made from the call's facts and state, which are kept here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, error, info};

use super::opening;
use crate::bridge::audio_metrics::AudioMetrics;
use crate::bridge::call_store::CallHandle;
use crate::bridge::leg::leg_media::{LegMedia, leg_stats};
use crate::core::agents::Agent;
use crate::core::answering_machine::AnsweredBy;
use crate::core::audio_counters::AudioCounters;
use crate::core::call::{Attempt, Reason, Report};
use crate::core::call_facts::{CallFacts, CustomParams};
use crate::core::call_object::{CallDirection, CallObject, CallStatus};
use crate::core::callback::{CallbackReceiver, WebhookEvent};
use crate::core::ids::{CallId, StreamId, Token};
use crate::core::mos;
use crate::core::outcome::Outcome;
use crate::queue::{CallEvent, CallEventKind, CallMemory, CallerHash, Job, Queue};
use crate::store::{AudioStats, CallLog, CallRecord};
use crate::worker::attach_url;

/// Where the calls are told of, but for the call store.
#[derive(Clone)]
pub(in crate::bridge) struct Outlets {
    /// Counts what becomes of calls.
    pub(in crate::bridge) gauges: Arc<AudioMetrics>,
    /// Redis, in queue mode.
    pub(in crate::bridge) queue: Option<Queue>,
    /// Takes the records of calls, where there is a database.
    pub(in crate::bridge) call_log: Option<CallLog>,
    /// Where workers dial in, for jobs.
    pub(in crate::bridge) stream_url: Arc<str>,
    /// How long a job without a deadline is good for.
    pub(in crate::bridge) worker_timeout: Duration,
}

/// One call, and those who are told of it.
pub(in crate::bridge) struct Publisher {
    call: CallObject,
    handle: CallHandle,
    outlets: Outlets,
    /// The present attempt, and its stream.
    attempt: Attempt,
    stream: StreamId,
    /// What a document says beside the call's own parameters to the worker of its stream.
    stream_parameters: CustomParams,
    /// Who calls, where he may be recognised when he rings again.
    caller: Option<CallerHash>,
    /// The caller's call before, which was lost.
    resumed_from: Option<CallId>,
    /// The agent of the line's tenant.
    agent: Option<Arc<Agent>>,
    /// A worker was attached.
    has_worker: bool,
    /// The last worker was lost, and no other has come.
    is_worker_lost: bool,
    came: Instant,
    answered: Option<Instant>,
}

impl Publisher {
    /// Tells of this call, which `handle` has entered into the call store.
    pub(in crate::bridge) fn new(outlets: Outlets, call: CallObject, handle: CallHandle) -> Self {
        Self {
            call,
            handle,
            outlets,
            attempt: Attempt {
                number: 1,
                resumed: false,
                until: None,
            },
            stream: StreamId::random(),
            stream_parameters: CustomParams::default(),
            caller: None,
            resumed_from: None,
            agent: None,
            has_worker: false,
            is_worker_lost: false,
            came: Instant::now(),
            answered: None,
        }
    }

    /// The same, of a caller who may be recognised, and of a call that he lost before.
    pub(in crate::bridge) fn remembering(
        mut self,
        caller: Option<CallerHash>,
        resumed_from: Option<CallId>,
    ) -> Self {
        self.caller = caller;
        self.resumed_from = resumed_from;
        self
    }

    /// The same, of a line whose tenant has this agent.
    pub(in crate::bridge) fn with_agent(mut self, agent: Option<Arc<Agent>>) -> Self {
        self.agent = agent;
        self
    }

    /// The call as others see it.
    pub(in crate::bridge) const fn call(&self) -> &CallObject {
        &self.call
    }

    /// What never changes in the call.
    pub(in crate::bridge) fn facts(&self) -> &CallFacts {
        &self.call.facts
    }

    /// The stream of the present attempt.
    pub(in crate::bridge) const fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Whether an earlier worker of the call was lost.
    pub(in crate::bridge) const fn is_resumed(&self) -> bool {
        self.attempt.resumed
    }

    // ---- how the call stands ----

    /// The call begins: the log and the database hear of it.
    pub(in crate::bridge) fn begun(&self) {
        let facts = self.facts();
        info!(from = %facts.from, direction = facts.direction.as_str(), "a call begins");
        self.keep(None);
    }

    /// It is settled that the call is taken or not, and with which parameters
    /// more. `receiver` is its own receiver of callbacks, where it has one.
    pub(in crate::bridge) fn settled(
        &mut self,
        parameters: &BTreeMap<String, String>,
        receiver: Option<CallbackReceiver>,
    ) {
        opening::add_parameters(&mut self.call, parameters);
        self.show();
        self.handle.announce(receiver);
    }

    /// The other side rings, or our caller hears that it does.
    pub(in crate::bridge) fn ringing(&mut self) {
        self.call.state.status = CallStatus::Ringing;
        self.show();
    }

    /// The dialog stands.
    pub(in crate::bridge) fn answered(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
        let state = &mut self.call.state;
        state.answered.get_or_insert_with(SystemTime::now);
        state.status = CallStatus::Answered;
        self.show();
        self.show_worker();
    }

    /// One that is there before the ACK shows with it.
    fn show_worker(&mut self) {
        if self.answered.is_some() && self.has_worker {
            self.call.state.status = CallStatus::Active;
            self.show();
        }
    }

    /// The other side is held, or not any more.
    pub(in crate::bridge) fn held(&mut self, held: bool) {
        self.call.state.on_hold = held;
        self.show();
    }

    /// A detection has told who answered.
    pub(in crate::bridge) fn answered_by(&mut self, answered_by: AnsweredBy) {
        self.call.state.answered_by = Some(answered_by);
        self.show();
    }

    /// Tells somebody something beside the call's status; it is kept and tried as that is.
    pub(in crate::bridge) fn tell(&self, event: WebhookEvent) {
        self.handle.tell(event);
    }

    /// The leg has ended with this status.
    pub(in crate::bridge) fn leg_ended(&mut self, sip_status: u16) {
        self.call.state.sip_status = sip_status;
    }

    fn show(&self) {
        self.handle.show(&self.call.state);
    }

    // ---- the search for a worker ----

    /// Another attempt to find a worker begins: its stream is another one.
    pub(in crate::bridge) fn begin(&mut self, attempt: Attempt) {
        let is_first = self.attempt.until.is_none();
        self.outlets.gauges.counters.attempt(is_first);
        if attempt.number != self.attempt.number {
            self.stream = StreamId::random();
        }
        self.call.state.attempt = attempt.number;
        self.attempt = attempt;
    }

    /// The job of the present attempt.
    pub(in crate::bridge) fn job(&self, token: &Token) -> Job {
        let created = SystemTime::now();
        let until = self.attempt.until.map(Instant::from_std);
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        Job {
            facts: self.call.facts.clone(),
            stream: self.stream.clone(),
            stream_url: attach_url(&self.outlets.stream_url, &self.call.facts.id, token),
            created,
            expires: created + left.unwrap_or(self.outlets.worker_timeout),
            attempt: self.attempt.number,
            resumed: self.attempt.resumed,
            resumed_from: self.resumed_from.clone(),
            custom_parameters: self.parameters(),
            agent: self.agent.clone(),
        }
    }

    /// `customParameters` of the present attempt. That the call is resumed, and
    /// its agent, are for its workers only: prompts are no business of whoever is
    /// told of calls, and would not fit into a callback by GET.
    pub(in crate::bridge) fn parameters(&self) -> CustomParams {
        let mut parameters = self.call.state.custom_params.clone();
        if !self.stream_parameters.is_empty() {
            let own = self.stream_parameters.iter();
            parameters.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        }
        if self.attempt.resumed {
            parameters.extend([("resumed".into(), "true".into())]);
        }
        if let Some(agent) = &self.agent {
            parameters.extend([("agent".into(), agent.json().to_owned())]);
        }
        parameters
    }

    /// `customParameters` of a one-way copy, whose document says these: over what the call says by itself.
    pub(in crate::bridge) fn copy_parameters(&self, own: &CustomParams) -> CustomParams {
        let mut parameters = self.call.state.custom_params.clone();
        parameters.extend(
            own.iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        parameters
    }

    /// A document opens a stream: what its worker is told, over all that the call says by itself.
    pub(in crate::bridge) fn stream_parameters(&mut self, parameters: CustomParams) {
        self.stream_parameters = parameters;
    }

    /// A worker is attached: how it came.
    pub(in crate::bridge) fn attached(&mut self, worker: String) {
        self.call.state.worker = Some(worker);
        self.call.state.stream = Some(self.stream.clone());
    }

    // ---- steps and the end ----

    /// Tells of a step.
    pub(in crate::bridge) fn report(&mut self, report: Report) {
        match report {
            // Of a call that came in, the 180 says it.
            Report::Ringing if self.facts().direction == CallDirection::Outbound => self.ringing(),
            Report::WorkerAttached => {
                self.has_worker = true;
                self.is_worker_lost = false;
                self.show_worker();
            }
            Report::WorkerLost => self.is_worker_lost = true,
            _ => {}
        }
        self.outlets.gauges.counters.step(report);
        let kind = self.event_of(report);
        debug!(event = kind.name(), "event");
        if report == Report::WorkerAttached {
            info!(
                stream = %self.stream,
                attempt = self.attempt.number,
                after_ms = self.came.elapsed().as_millis() as u64,
                "worker attached"
            );
        }
        self.publish(kind);
    }

    fn event_of(&self, report: Report) -> CallEventKind {
        match report {
            Report::Initiated => CallEventKind::Initiated,
            Report::Ringing => CallEventKind::Ringing,
            Report::Transfer(status) => CallEventKind::Transfer { status },
            Report::Queued(reason) => CallEventKind::Queued {
                reason: reason.map(Reason::as_str),
            },
            Report::Answered => CallEventKind::Answered,
            Report::WorkerLost => CallEventKind::WorkerLost,
            Report::WorkerAttached => CallEventKind::WorkerAttached {
                stream: self.stream.clone(),
            },
            Report::Fallback(step, reason) => {
                let (step, reason) = (step.as_str(), reason.as_str());
                info!(rung = step, reason, "no worker takes the call: fallback");
                CallEventKind::Fallback { rung: step, reason }
            }
        }
    }

    /// Tells that the call is over, and what became of its audio.
    pub(in crate::bridge) fn ended(&mut self, outcome: Outcome, media: &LegMedia) {
        let duration = self.end(outcome);
        let dropped = media.port.lock().dropped;
        let stats = leg_stats(&media.port, &media.stream);
        let (up, down) = (stats.received, stats.sent);
        let counters = AudioCounters::of(&up, &down);
        info!(
            %outcome,
            duration_ms = duration.as_millis() as u64,
            sip_status = self.call.state.sip_status,
            rtp_in = up.packets,
            rtp_lost = up.lost,
            rtp_out = down.packets,
            jitter_ms = up.jitter.as_millis() as u64,
            dropped,
            unsent = media.stream.unsent(),
            underruns = down.underruns,
            trimmed = down.trimmed_frames,
            %counters,
            "call ended"
        );
        self.keep(Some(AudioStats {
            packets_received: up.packets,
            packets_lost: up.lost,
            packets_sent: down.packets,
            jitter: up.jitter,
            mos: mos::estimate(up.packets, up.lost, up.jitter),
            counters: Some(counters),
        }));
        self.publish(CallEventKind::Ended { outcome, duration });
        self.show();
    }

    /// Tells that the call is over because its driver failed. Dropping the
    /// handle ends its entry.
    pub(in crate::bridge) fn abandoned(&mut self) {
        let outcome = Outcome::Failed;
        // The caller is cut off in mid-conversation, whoever is to blame.
        self.is_worker_lost = self.has_worker;
        let duration = self.end(outcome);
        error!(
            call_id = %self.facts().id,
            line = %self.facts().line,
            %outcome,
            duration_ms = duration.as_millis() as u64,
            "a fault of the bridge has ended this call; please report the panic above"
        );
        self.keep(Some(AudioStats::default()));
        self.publish(CallEventKind::Ended { outcome, duration });
    }

    /// Counts the end of the call; how long it had been answered.
    fn end(&mut self, outcome: Outcome) -> Duration {
        self.outlets
            .gauges
            .counters
            .ended(self.facts().direction, outcome);
        self.call.state.end(outcome, SystemTime::now());
        self.answered.map(|at| at.elapsed()).unwrap_or_default()
    }

    /// Leaves the record for the database, where there is one. Never waits.
    fn keep(&self, audio: Option<AudioStats>) {
        let Some(log) = &self.outlets.call_log else {
            return;
        };
        log.record(CallRecord {
            call: self.call.clone(),
            node: log.node().to_owned(),
            audio,
        });
    }

    /// What is kept of the call in case that it is lost, with the events that need it.
    fn memory(&self, kind: &CallEventKind) -> Option<CallMemory> {
        let is_lost = match kind {
            CallEventKind::Queued { .. }
            | CallEventKind::Answered
            | CallEventKind::WorkerAttached { .. } => false,
            CallEventKind::Ended { outcome, .. } => {
                self.is_worker_lost && *outcome != Outcome::Transferred
            }
            _ => return None,
        };
        Some(CallMemory {
            caller: self.caller.clone()?,
            custom_parameters: self.call.state.custom_params.clone(),
            is_lost,
        })
    }

    fn publish(&self, kind: CallEventKind) {
        let Some(queue) = &self.outlets.queue else {
            return;
        };
        let memory = self.memory(&kind);
        queue.record(CallEvent {
            memory,
            facts: self.call.facts.clone(),
            attempt: self.attempt.number,
            at: SystemTime::now(),
            kind,
        });
    }
}
