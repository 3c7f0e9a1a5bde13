//! Makes the driver of each call: its parts, each with the handles that it
//! needs and no others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tracing::{Instrument, Span, info, info_span, warn};

use super::arrival::Arrival;
use super::audio_metrics::AudioMetrics;
use super::call::call_terms::{CallTerms, ForeignWorkers};
use super::call::callee::{FallbackHandles, FallbackLeg};
use super::call::destinations::Destinations;
use super::call::dialled::DialledLegs;
use super::call::driver::{Driver, Parts, Start};
use super::call::idle_sounds::IdleSounds;
use super::call::incoming::{IncomingAsk, Question};
use super::call::opening::{placed_call, voice_facts};
use super::call::parent::ParentCall;
use super::call::publisher::{Outlets, Publisher};
use super::call::voice::{VoiceSide, VoiceTools};
use super::call::voice_stream::StreamDialers;
use super::call::worker_search::{WorkerSearch, WorkerSources};
use super::call::worker_session::WorkerSession;
use super::call_place::CallPlace;
use super::call_store::CallStore;
use super::context::{Context, Settings};
use super::dialling::Dialling;
use super::leg::leg_media::{LegGains, LegMedia};
use super::leg::sip_leg::Leg;
use super::place::OutgoingLegs;
use super::shutdown::Shutdown;
use crate::agents::AgentDirectory;
use crate::core::agents::Agent;
use crate::core::call::{Call, CallPolicy, SearchPolicy, WorkerRoute};
use crate::core::call_facts::CallFacts;
use crate::core::call_object::CallObject;
use crate::core::callback::{CallbackEvent, CallbackReceiver, TwilioReceiver};
use crate::core::ids::LegId;
use crate::core::opus::OpusError;
use crate::core::private::Private;
use crate::core::twiml::document::StatusCallback;
use crate::core::voice::VoiceLine;
use crate::core::voice::webhook::VoiceFacts;
use crate::fleet::CallPermit;
use crate::fleet::LineDirectory;
use crate::fleet::LineProfile;
use crate::media::pacer::Pacer;
use crate::queue::{CallerHash, LostCall, Queue};
use crate::sip::engine::{Command, OutgoingLeg, Refusal, SharedEngine};
use crate::sip::rtp_channel::RtpReceiver;
use crate::worker::Dialer;

/// A call that cannot be set up.
const ERROR: Refusal = Refusal {
    status: 500,
    retry_after: None,
};

/// Makes drivers. What each part of a driver needs is kept ready here.
pub struct Drivers {
    settings: Settings,
    /// For the drivers, which place the legs of their `<Dial>`.
    me: Weak<Self>,
    pub(super) engine: SharedEngine,
    pub(super) outgoing: OutgoingLegs,
    lines: LineDirectory,
    queue: Option<Queue>,
    agents: Option<AgentDirectory>,
    calls: Arc<CallStore>,
    ask: Option<Arc<dyn IncomingAsk>>,
    dialling: Arc<Dialling>,
    shutdown: Arc<Shutdown>,
    cut_off: Arc<AtomicBool>,
    pacer: Arc<Pacer>,
    gauges: Arc<AudioMetrics>,
    outlets: Outlets,
    sources: WorkerSources,
    foreign: ForeignWorkers,
    voice: Arc<VoiceTools>,
    gains: LegGains,
    sounds: IdleSounds,
}

impl Drivers {
    /// Takes the handles of a running bridge.
    #[must_use]
    pub fn new(context: &Context) -> Arc<Self> {
        let settings = context.settings.clone();
        let foreign = ForeignWorkers::new(context.outward.clone(), context.signer.clone());
        let voice = VoiceTools::new(
            context.voice_http.clone(),
            StreamDialers::new(foreign.clone()),
            context.gauges.clone(),
        );
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            engine: context.engine.clone(),
            outgoing: OutgoingLegs::new(context),
            lines: context.lines.clone(),
            queue: context.queue.clone(),
            agents: context.agents.clone(),
            calls: context.calls.clone(),
            ask: context.ask.clone(),
            dialling: context.dialling.clone(),
            shutdown: context.shutdown.clone(),
            cut_off: context.cut_off.clone(),
            pacer: context.pacer.clone(),
            gauges: context.gauges.clone(),
            outlets: Outlets {
                gauges: context.gauges.clone(),
                queue: context.queue.clone(),
                call_log: context.call_log.clone(),
                stream_url: settings.stream_url.as_str().into(),
                worker_timeout: settings.worker_timeout,
            },
            sources: WorkerSources {
                queue: context.queue.clone().filter(|_| settings.pushes_jobs),
                waiting: context.workers.clone(),
                dialer: context.dialer.clone(),
            },
            foreign,
            voice,
            gains: LegGains {
                rx: settings.rx_gain.clone(),
                tx: settings.tx_gain.clone(),
            },
            sounds: IdleSounds::new(context.sounds.clone(), settings.ringback),
            settings,
        })
    }

    /// Runs one call that came in to its end; `place` is given back after that.
    pub(super) async fn run(&self, arrival: Arrival, place: CallPermit) {
        let Some(line) = self.lines.get(arrival.line()) else {
            // The line was removed in this very moment.
            warn!(line = %arrival.line(), "a call of a line that is gone is refused");
            return self.refuse(&arrival, ERROR);
        };
        let caller = arrival.caller(&line);
        // Side by side: two may wait for Redis, and one for the database.
        let lost = self.lost_call(&line, caller.as_ref());
        let place = CallPlace::take(place, self.queue.as_ref());
        let (place, lost, agent) = tokio::join!(place, lost, self.agent_of(&line));
        let place = match place {
            Ok(place) => place,
            Err(refusal) => {
                let status = refusal.status;
                info!(line = %line.id, status, "call refused: all bridges together have as many of the line as it may have");
                return self.refuse(&arrival, refusal);
            }
        };
        let terms = CallTerms {
            lost,
            caller,
            agent,
            ..CallTerms::default()
        };
        let call = arrival.call(&self.settings, &line, &terms);
        let span = span(&call.facts);
        async {
            if let Some(lost) = &terms.lost {
                info!(lost = %lost.id, "the caller lost this call and rings again");
            }
            self.begin(arrival, line, call, terms).await;
            drop(place);
        }
        .instrument(span)
        .await;
    }

    async fn begin(
        &self,
        arrival: Arrival,
        line: Arc<LineProfile>,
        call: CallObject,
        mut terms: CallTerms,
    ) {
        let sip_leg = arrival.sip_leg();
        let headers = arrival.told_headers(&self.settings);
        let voice = self.voice_side(&line, &call, &headers, &terms);
        terms.receiver = receiver_of(&line, &voice.facts);
        let leg = arrival.into_leg(&self.engine);
        // Its webhook says itself whether a call is taken.
        let ask = self.ask.clone().filter(|_| !voice.begins());
        let start = match (voice.begins(), &ask) {
            (true, _) => Start::Scripted,
            (false, Some(_)) => Start::Asked,
            (false, None) => Start::Incoming,
        };
        match self.driver(leg, line, call, terms, ask, voice) {
            Ok(driver) => driver.live(start).await,
            Err(error) => {
                warn!(%error, "the call cannot be set up and is refused");
                // The leg of a call of Twilio's ends with its driver.
                sip_leg.inspect(|leg| self.reject(*leg, ERROR));
            }
        }
    }

    /// The call of the same caller that was lost a short time ago.
    async fn lost_call(&self, line: &LineProfile, caller: Option<&CallerHash>) -> Option<LostCall> {
        let queue = self.sources.queue.as_ref()?;
        queue.lost_call(&line.id, caller?).await
    }

    /// The agent of the line's tenant. Waits for the database for 200 ms at most.
    pub(super) async fn agent_of(&self, line: &LineProfile) -> Option<Arc<Agent>> {
        let agents = self.agents.as_ref()?;
        agents.of_call(line.restaurant_id.as_ref()?).await
    }

    /// The driver of a call that we placed, the call as it begins, and what the
    /// log puts before everything that it says of it.
    pub(super) fn placed(
        &self,
        line: Arc<LineProfile>,
        to: &Private,
        placed: OutgoingLeg,
        terms: CallTerms,
    ) -> Result<(Driver, CallObject, Span), OpusError> {
        let call = placed_call(&self.settings, &line, to, &placed.sip_call_id, &terms);
        let span = span(&call.facts);
        let leg = Leg::outgoing(&self.engine, placed);
        let mut terms = terms;
        let voice = self.placed_voice(&line, &call, &mut terms);
        let driver = self.driver(leg, line, call.clone(), terms, None, voice)?;
        Ok((driver, call, span))
    }

    /// The same of a leg of another call's `<Dial>`.
    pub(super) fn dialled(
        &self,
        line: Arc<LineProfile>,
        to: &Private,
        placed: OutgoingLeg,
        mut terms: CallTerms,
        parent: ParentCall,
    ) -> Result<(Driver, Span), OpusError> {
        let call = placed_call(&self.settings, &line, to, &placed.sip_call_id, &terms);
        let span = span(&call.facts);
        let leg = Leg::outgoing(&self.engine, placed);
        let facts = voice_facts(&self.settings, &line, &call.facts, &BTreeMap::new());
        terms.receiver = twilio_receiver(terms.status_callback.take(), &facts);
        let voice = VoiceSide::new(self.voice.clone(), facts, None);
        let driver = self.driver(leg, line, call, terms, None, voice)?;
        Ok((driver.dialled_by(parent), span))
    }

    fn driver(
        &self,
        (leg, early): (Leg, RtpReceiver),
        line: Arc<LineProfile>,
        call: CallObject,
        terms: CallTerms,
        ask: Option<Arc<dyn IncomingAsk>>,
        voice: VoiceSide,
    ) -> Result<Driver, OpusError> {
        let media = LegMedia::new(&self.gains, &early)?;
        let is_worker_foreign = terms.dialer.is_some();
        let dialer = terms.dialer.or_else(|| self.dialer_of(&line));
        let mut policy = self.policy(&line, dialer.is_some(), terms.agent.as_deref());
        let limits = [policy.max_duration, terms.time_limit];
        policy.max_duration = limits.into_iter().flatten().min();
        let (handle, requests) = if ask.is_some() {
            self.calls.open_untold(call.clone(), terms.receiver)
        } else {
            self.calls.open(call.clone(), terms.receiver)
        };
        let mut search = WorkerSearch::new(self.sources.clone(), call.facts.id.clone());
        if let Some(dialer) = dialer {
            search.dial_instead(dialer);
        }
        let (account, gauges) = (self.settings.account_sid.clone(), self.gauges.clone());
        let shutdown = self.shutdown.clone();
        let parts = Parts {
            publisher: Publisher::new(self.outlets.clone(), call, handle)
                .remembering(terms.caller, terms.lost.map(|lost| lost.id))
                .with_agent(terms.agent),
            leg,
            early,
            media,
            search,
            session: WorkerSession::new(account, gauges),
            fallback: FallbackLeg::new(FallbackHandles {
                engine: self.engine.clone(),
                pacer: self.pacer.clone(),
                gains: self.gains.clone(),
            }),
            voice,
            dialled: DialledLegs::nobody(),
            drivers: self.me.clone(),
            parent: None,
            question: Question::new(ask, self.foreign.clone()),
            requests,
            destinations: Destinations::new(self.dialling.clone(), line.clone(), is_worker_foreign),
            line,
            sounds: self.sounds.clone(),
            pacer: self.pacer.clone(),
            gauges: self.gauges.clone(),
            must_end: Box::pin(async move { shutdown.calls_must_end().await }),
        };
        Ok(Driver::new(Call::new(policy), parts))
    }

    /// What TwiML does with this call: nothing, unless its line has a voice webhook, and the call no worker of its own.
    fn voice_side(
        &self,
        line: &LineProfile,
        call: &CallObject,
        headers: &BTreeMap<String, String>,
        terms: &CallTerms,
    ) -> VoiceSide {
        let facts = voice_facts(&self.settings, line, &call.facts, headers);
        let webhook = self.voice_line(line).filter(|_| terms.dialer.is_none());
        VoiceSide::new(self.voice.clone(), facts, webhook)
    }

    /// The same for a call that we place: it may bring its own TwiML, and its own receiver of Twilio's callbacks, who is told of
    /// the call in the same words as its webhooks.
    fn placed_voice(
        &self,
        line: &LineProfile,
        call: &CallObject,
        terms: &mut CallTerms,
    ) -> VoiceSide {
        let Some(voice) = terms.voice.take() else {
            return self.voice_side(line, call, &BTreeMap::new(), terms);
        };
        let facts = voice_facts(&self.settings, line, &call.facts, &BTreeMap::new());
        if let Some(receiver) = twilio_receiver(voice.status_callback.clone(), &facts) {
            terms.receiver = Some(receiver);
        }
        VoiceSide::placed(self.voice.clone(), facts, voice)
    }

    /// The line's own voice webhook, or that of the flags, where the line has no way of its own.
    fn voice_line(&self, line: &LineProfile) -> Option<VoiceLine> {
        match &line.way {
            Some(way) => way.voice().cloned(),
            None => self.settings.voice.clone(),
        }
    }

    /// Dials the worker at the line's own `wsTarget`.
    fn dialer_of(&self, line: &LineProfile) -> Option<Dialer> {
        let url = line.way.as_ref()?.ws_target()?;
        let dialer = self.foreign.operators_dialer(url.expose());
        let told = |error| warn!(%error, "the line's wsTarget cannot be dialled");
        dialer.map_err(told).ok()
    }

    /// What a call of this line may do, with this agent.
    fn policy(
        &self,
        line: &LineProfile,
        has_own_worker: bool,
        agent: Option<&Agent>,
    ) -> CallPolicy {
        let settings = &self.settings;
        let route = match (&self.sources.queue, &self.sources.dialer) {
            _ if has_own_worker => WorkerRoute::Dial,
            (Some(_), Some(_)) => WorkerRoute::QueueThenDial,
            (None, Some(_)) => WorkerRoute::Dial,
            (_, None) => WorkerRoute::Queue,
        };
        let is_cut_off = self.cut_off.load(Ordering::Relaxed);
        CallPolicy {
            answer: settings.answer,
            search: SearchPolicy {
                route,
                worker_timeout: settings.worker_timeout,
                claim_timeout: settings.claim_timeout,
                max_attempts: settings.max_attempts,
            },
            max_duration: match agent {
                Some(agent) => agent.longest_call(settings.max_duration),
                None => settings.max_duration,
            },
            media_timeout: settings.media_timeout,
            fallback_number: line.fallback_number.clone(),
            ring_before_fallback: is_cut_off.then_some(settings.ring_while_cut_off),
        }
    }

    fn refuse(&self, arrival: &Arrival, refusal: Refusal) {
        match arrival {
            Arrival::Sip(incoming) => self.reject(incoming.leg, refusal),
            Arrival::Twilio { leg, .. } => {
                // A task that is gone has ended the leg.
                let _ = leg.control.hang_up();
            }
        }
    }

    fn reject(&self, leg: LegId, refusal: Refusal) {
        if let Err(error) = self.engine.submit(Command::Reject {
            leg,
            status: refusal.status,
            retry_after: refusal.retry_after,
        }) {
            warn!(%error, "the refusal was not sent");
        }
    }
}

/// Who is told of a call in Twilio's form, in the same words as its webhooks.
fn twilio_receiver(
    callback: Option<StatusCallback>,
    facts: &VoiceFacts,
) -> Option<CallbackReceiver> {
    let facts = facts.clone();
    let twilio = callback.map(|callback| TwilioReceiver { callback, facts });
    twilio.map(|twilio| CallbackReceiver::Twilio(Box::new(twilio)))
}

/// The line's own receiver of status callbacks, in Twilio's form: told once a call is over, as Twilio tells of a call to
/// a number.
fn receiver_of(line: &LineProfile, facts: &VoiceFacts) -> Option<CallbackReceiver> {
    let callback = line.status_callback.clone().map(|webhook| StatusCallback {
        webhook,
        events: vec![CallbackEvent::Completed],
    });
    twilio_receiver(callback, facts)
}

/// What the log puts before everything that it says of this call.
fn span(facts: &CallFacts) -> Span {
    info_span!(
        "call",
        call_id = %facts.id,
        line = %facts.line,
        sip_call_id = facts.sip_call_id.as_deref().unwrap_or_default(),
    )
}
