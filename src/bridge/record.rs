//! What is known about one call, and how others are told: the job, the
//! events in Redis, the last line in the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::{debug, info};

use super::context::{Context, LineProfile};
use super::stream::CallStream;
use super::uplink_port::UplinkPort;
use crate::core::call::Report;
use crate::core::ids::{CallId, StreamId, Token};
use crate::core::outcome::Outcome;
use crate::core::private::Private;
use crate::queue::{CallEvent, CallEventKind, Job, JobDirection};
use crate::sip::engine::IncomingCall;
use crate::worker::attach_url;

/// Facts about one call.
pub(super) struct Record {
    /// `callSid`.
    pub(super) call_id: CallId,
    /// `streamSid` of the present attempt.
    pub(super) stream_id: StreamId,
    /// The line that was called.
    pub(super) line: Arc<LineProfile>,
    /// The caller's number.
    pub(super) from: Private,
    /// `customParameters` of `start`.
    pub(super) custom_parameters: BTreeMap<String, String>,
    /// The SIP status that ended the leg.
    pub(super) sip_status: u16,
    to: Private,
    attempt: u32,
    came: Instant,
    answered: Option<Instant>,
}

impl Record {
    /// The call that this INVITE begins.
    pub(super) fn new(context: &Context, line: Arc<LineProfile>, incoming: &IncomingCall) -> Self {
        // The number the line is known by; what the trunk wrote into To may be anything.
        let to = line
            .phone_number
            .clone()
            .unwrap_or_else(|| incoming.to.clone());
        let from = incoming.from.clone();
        Self {
            call_id: CallId::random(),
            stream_id: StreamId::random(),
            custom_parameters: custom_parameters(context, &line, &from, &to),
            line,
            from,
            to,
            sip_status: 0,
            attempt: 1,
            came: Instant::now(),
            answered: None,
        }
    }

    /// The caller acknowledged the answer.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
    }

    /// The job of the present attempt.
    pub(super) fn job(&self, context: &Context, token: &Token) -> Job {
        let created = SystemTime::now();
        Job {
            call: self.call_id.clone(),
            stream: self.stream_id.clone(),
            line: self.line.id.clone(),
            restaurant: self.line.restaurant_id.clone(),
            from: Some(self.from.clone()),
            to: Some(self.to.clone()),
            direction: JobDirection::Inbound,
            stream_url: attach_url(&context.settings.stream_url, &self.call_id, token),
            created,
            expires: created + context.settings.worker_timeout,
            attempt: self.attempt,
            resumed: false,
            custom_parameters: self.custom_parameters.clone(),
        }
    }

    /// Tells Redis and the log of a step.
    pub(super) fn report(&self, context: &Context, report: Report) {
        let kind = match report {
            Report::Ringing => CallEventKind::Ringing,
            Report::Queued => CallEventKind::Queued,
            Report::Answered => CallEventKind::Answered,
            Report::WorkerLost => CallEventKind::WorkerLost,
            Report::WorkerAttached => CallEventKind::WorkerAttached {
                stream: self.stream_id.clone(),
            },
            Report::Fallback => {
                info!("no worker: the caller gets the fallback");
                return;
            }
        };
        debug!(event = kind.name(), "event");
        if report == Report::WorkerAttached {
            info!(stream = %self.stream_id, after_ms = self.came.elapsed().as_millis() as u64, "worker attached");
        }
        self.publish(context, kind);
    }

    /// Tells Redis and the log that the call is over.
    pub(super) fn ended(
        &self,
        context: &Context,
        outcome: Outcome,
        port: &UplinkPort,
        stream: &CallStream,
    ) {
        let duration = self.answered.map(|at| at.elapsed()).unwrap_or_default();
        let (up, dropped) = {
            let state = port.lock();
            (state.uplink.stats(), state.dropped)
        };
        let down = stream.downlink().stats();
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
            "call ended"
        );
        self.publish(context, CallEventKind::Ended { outcome, duration });
    }

    fn publish(&self, context: &Context, kind: CallEventKind) {
        let Some(queue) = &context.queue else { return };
        queue.record(CallEvent {
            call: self.call_id.clone(),
            line: self.line.id.clone(),
            restaurant: self.line.restaurant_id.clone(),
            attempt: self.attempt,
            at: SystemTime::now(),
            kind,
        });
    }
}

/// The line's own parameters and `--param`, then what the contract promises.
fn custom_parameters(
    context: &Context,
    line: &LineProfile,
    from: &Private,
    to: &Private,
) -> BTreeMap<String, String> {
    let mut parameters = context.settings.params.clone();
    parameters.extend(line.custom_parameters.clone());
    let mut put = |name: &str, value: &str| parameters.insert(name.to_owned(), value.to_owned());
    put("callerPhone", from.expose());
    put("to", to.expose());
    put("direction", JobDirection::Inbound.as_str());
    put("phoneLineId", line.id.as_str());
    if let Some(restaurant) = &line.restaurant_id {
        put("restaurantId", restaurant);
    }
    parameters
}
