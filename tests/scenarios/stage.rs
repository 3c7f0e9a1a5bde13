//! One bridge without SIP: how a scenario sets it up, and what must be true
//! when it is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sim::{SimCallee, SimEngine, pcmu};
use sipbridge::agents::AgentDirectory;
use sipbridge::bridge::call_store::{CallStore, StatusListener};
use sipbridge::bridge::context::{Context, RING_WHILE_CUT_OFF, Settings};
use sipbridge::bridge::dialling::Dialling;
use sipbridge::bridge::drivers::Drivers;
use sipbridge::bridge::intake::Intake;
use sipbridge::bridge::place::{CallPlacer, NewCall, PlaceError};
use sipbridge::core::address::{HostPort, Transport};
use sipbridge::core::call::AnswerMode;
use sipbridge::core::call_object::{CallObject, CallStatus};
use sipbridge::core::dialling::{DialLine, DialPolicy};
use sipbridge::core::g711::Gain;
use sipbridge::core::ids::{AccountSid, CallId, LineId};
use sipbridge::core::numbers::Country;
use sipbridge::core::outward::Outward;
use sipbridge::core::private::{Private, Secret};
use sipbridge::fleet::{
    CallLimiter, Limits, LineDirectory, LineProfile, RegistrarHandle, SharedFleet,
};
use sipbridge::lines::ReadyLine;
use sipbridge::media::pacer::Pacer;
use sipbridge::media::sounds::Sounds;
use sipbridge::queue::{LEASE_TTL, Queue, QueueConfig, RedisState};
use sipbridge::sip::engine::SipEngine;
use sipbridge::worker::{AttachTable as Workers, Dialer, StreamServer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::caller::Caller;
use super::harness::peers::local;
use super::harness::worker::QUEUE;
use super::harness::{Redis, SOON, sound, until, within};

/// The number that callers show.
pub const FROM: &str = "+33612345678";
pub const LINE: &str = "line-1";

/// How a bridge is set up.
pub struct Setup {
    pub settings: Settings,
    pub fallback_number: Option<&'static str>,
    pub dials_per_hour: Option<u32>,
    pub judges_transfers: bool,
    pub cut_off: bool,
    pub listener: Option<Arc<dyn StatusListener>>,
    agents: Option<AgentDirectory>,
    redis: Option<Redis>,
    target: Option<String>,
}

impl Setup {
    fn new(redis: Option<Redis>, target: Option<String>) -> Self {
        Self {
            settings: Settings {
                answer: AnswerMode::Immediate,
                worker_timeout: Duration::from_secs(20),
                ring_while_cut_off: RING_WHILE_CUT_OFF,
                claim_timeout: Duration::from_secs(5),
                max_attempts: 3,
                max_duration: None,
                media_timeout: None,
                ringback: true,
                rx_gain: Gain::from_factor(1.0),
                tx_gain: Gain::from_factor(1.0),
                account_sid: AccountSid::of_node("scenarios"),
                stream_url: String::new(),
                params: BTreeMap::new(),
                sip_headers: Default::default(),
                voice: None,
                trust_privacy: true,
                pushes_jobs: true,
            },
            fallback_number: None,
            dials_per_hour: None,
            judges_transfers: false,
            cut_off: false,
            listener: None,
            agents: None,
            redis,
            target,
        }
    }

    /// Queue mode, with a Redis of its own.
    pub fn queue() -> Self {
        Self::new(Some(Redis::start()), None)
    }

    /// Queue mode, and no Redis.
    pub fn redis_away() -> Self {
        Self::new(Some(Redis::absent()), None)
    }

    /// Push mode: dials workers at this listener.
    pub fn dial(listener: &TcpListener) -> Self {
        Self::new(None, None).or_dial(listener)
    }

    /// Dials workers at this listener where the queue is away.
    pub fn or_dial(mut self, listener: &TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        self.target = Some(format!("ws://{address}/worker"));
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub fn fallback_number(mut self, number: &'static str) -> Self {
        self.fallback_number = Some(number);
        self
    }

    /// Tenants have agents.
    pub fn agents(mut self, agents: &AgentDirectory) -> Self {
        self.agents = Some(agents.clone());
        self
    }

    /// Others may have its lines.
    pub fn cut_off(mut self) -> Self {
        self.cut_off = true;
        self
    }

    pub async fn start(mut self) -> Stage {
        let workers = Workers::default();
        let server = StreamServer::bind("127.0.0.1:0".parse().unwrap(), workers.clone());
        let server = server.await.unwrap();
        self.settings.stream_url = format!("ws://{}", server.local_addr());
        let queue = match &self.redis {
            Some(redis) => Some(connect(redis, &self.settings.stream_url).await),
            None => None,
        };
        let fleet = SharedFleet::new(Limits {
            calls: 1_000,
            ..Limits::default()
        });
        let line = LineId::new(LINE);
        let domain = HostPort::parse("sip.example").unwrap();
        let ready = ReadyLine::bare(line.clone(), &domain, Transport::Udp, Private::new("u"));
        fleet.hold(ready, profile(line, self.fallback_number));
        let call_limiter = CallLimiter::new(&fleet);
        let (sim, events) = SimEngine::new(call_limiter.clone());
        let context = Arc::new(Context {
            engine: sim.clone(),
            pacer: Arc::new(Pacer::start(|| ()).unwrap()),
            queue,
            call_log: None,
            dialer: self.target.map(|url| Dialer::new(&url, None).unwrap()),
            agents: self.agents,
            ask: None,
            voice_http: sipbridge::app::callbacks::voice_http(None, loopback(), None).unwrap(),
            signer: None,
            outward: loopback(),
            workers,
            call_limiter,
            gauges: Arc::default(),
            lines: LineDirectory::new(&fleet),
            calls: CallStore::new(self.listener),
            sounds: sounds(),
            dialling: Arc::new(
                Dialling::new(DialPolicy::default(), self.dials_per_hour)
                    .judging_workers(self.judges_transfers),
            ),
            shutdown: Arc::default(),
            cut_off: Arc::new(self.cut_off.into()),
            settings: self.settings,
        });
        let registrar = RegistrarHandle::new(&fleet, None);
        let drivers = Drivers::new(&context);
        let intake = Intake::new(&context, &drivers, registrar);
        Stage {
            intake: tokio::spawn(intake.run(events)),
            placer: CallPlacer::new(&context, &drivers),
            server,
            sim,
            context,
            redis: self.redis,
            invited: AtomicU64::new(0),
            in_vain: AtomicU64::new(0),
            callees: Mutex::default(),
        }
    }
}

fn is_up(redis: &Redis) -> bool {
    std::net::TcpStream::connect(local(redis.port)).is_ok()
}

async fn connect(redis: &Redis, stream_url: &str) -> Queue {
    let config = QueueConfig {
        url: Secret::new(redis.url()),
        queue: QUEUE.into(),
        node_id: "scenarios".into(),
        stream_url_base: Some(stream_url.into()),
        ca_file: None,
        dead_after: sipbridge::queue::dead_after(LEASE_TTL),
        lease_ttl: LEASE_TTL,
        shares_lines: false,
    };
    let queue = Queue::start(&config).unwrap();
    if is_up(redis) {
        let mut state = queue.watch();
        let connected = state.wait_for(|state| matches!(state, RedisState::Connected { .. }));
        within(SOON, "Redis", connected).await.unwrap();
    }
    queue
}

fn profile(id: LineId, fallback_number: Option<&str>) -> Arc<LineProfile> {
    Arc::new(LineProfile {
        restaurant_id: Some("resto-7".into()),
        phone_number: Some(Private::new("+33972360682")),
        fallback_number: fallback_number.map(Private::new),
        sip_headers: [("orderId".to_owned(), "X-Order".to_owned())].into(),
        dial: DialLine {
            country: Country::parse("FR"),
            hosts: vec!["sim.test".into()],
        },
        ..LineProfile::bare(id)
    })
}

/// The announcement: a fifth of a second that is like nothing else.
pub fn announcement() -> Vec<u8> {
    sound::numbered(900_000, 10).concat()
}

/// The hold audio: a second that is like nothing else.
pub fn hold() -> Vec<u8> {
    sound::numbered(700_000, 50).concat()
}

fn sounds() -> Sounds {
    Sounds {
        ringback: sound::numbered(800_000, 50).concat().into(),
        hold: hold().into(),
        unavailable: announcement().into(),
    }
}

/// A running bridge.
pub struct Stage {
    pub sim: Arc<SimEngine>,
    pub context: Arc<Context>,
    pub placer: CallPlacer,
    pub redis: Option<Redis>,
    server: StreamServer,
    intake: JoinHandle<()>,
    invited: AtomicU64,
    in_vain: AtomicU64,
    callees: Mutex<Vec<SimCallee>>,
}

/// One event of `stream:call_events`.
#[derive(Debug)]
pub struct Event {
    pub name: String,
    pub call: String,
    pub outcome: Option<String>,
    fields: HashMap<String, String>,
}

impl Event {
    /// Any other field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

impl Stage {
    /// A caller's INVITE.
    pub fn call(&self) -> Caller {
        let line = LineId::new(LINE);
        self.invited.fetch_add(1, Ordering::Relaxed);
        Caller::new(self.sim.invite(&line, FROM, "anything").unwrap())
    }

    /// The INVITE of somebody, with headers.
    pub fn call_from(&self, from: &str, headers: &[(&str, &str)]) -> Caller {
        let line = LineId::new(LINE);
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        self.invited.fetch_add(1, Ordering::Relaxed);
        let call = self
            .sim
            .invite_with(&line, from, "anything", pcmu(), headers.collect());
        Caller::new(call.unwrap())
    }

    /// Places a call.
    pub async fn place(&self, call: NewCall) -> Result<CallObject, PlaceError> {
        let placed = self.placer.place(call).await;
        self.invited
            .fetch_add(u64::from(placed.is_ok()), Ordering::Relaxed);
        placed
    }

    /// Somebody whom the bridge has called.
    pub fn take_callee(&self) -> Option<SimCallee> {
        let mut callees = self.callees.lock().unwrap();
        callees.extend(self.sim.take_outgoing());
        callees.pop()
    }

    /// So many calls took a place and came to nothing.
    pub fn taken_in_vain(&self, calls: u64) {
        self.in_vain.fetch_add(calls, Ordering::Relaxed);
    }

    /// Waits until the call store says so of a call.
    pub async fn shows(&self, sid: &CallId, status: CallStatus) -> CallObject {
        let shown = || self.context.calls.get(sid).unwrap();
        until(status.as_str(), async || shown().state.status == status).await;
        shown()
    }

    pub fn redis(&self) -> &Redis {
        self.redis.as_ref().unwrap()
    }

    /// Jobs in the queue.
    pub async fn jobs(&self) -> usize {
        self.redis().query(&["LLEN", QUEUE]).await
    }

    /// Jobs that were ever pushed.
    pub async fn pushes(&self) -> u32 {
        let stats: String = self.redis().query(&["INFO", "commandstats"]).await;
        let pushes = stats.split("cmdstat_lpush:calls=").nth(1);
        pushes.map_or(0, |rest| {
            let digits = rest.split(',').next().unwrap();
            digits.parse().unwrap()
        })
    }

    /// Waits for the end of all calls and checks that nothing of them is left:
    /// no place, leg, ticket, job or task, and one `call.ended` each. Workers
    /// must have been dropped. Gives the outcomes, in the order of the ends.
    pub async fn finish(self) -> Vec<String> {
        let invited = self.invited.load(Ordering::Relaxed);
        until("every INVITE is taken", async || {
            self.context.call_limiter.taken() == invited + self.in_vain.load(Ordering::Relaxed)
        })
        .await;
        until("no call in progress", async || {
            self.context.call_limiter.active() == 0
        })
        .await;
        assert_eq!(self.context.workers.calls(), 0, "tickets left");
        until("no leg left", async || self.sim.stats().legs == 0).await;
        let outcomes = self.settle_redis(invited).await;
        self.sim.shutdown();
        within(SOON, "intake ends", self.intake).await.unwrap();
        self.server.stop().await;
        drop((self.context, self.placer));
        let tasks = tokio::runtime::Handle::current().metrics();
        until("no task left", async || tasks.num_alive_tasks() == 0).await;
        outcomes
    }

    /// What Redis was told of all calls.
    async fn settle_redis(&self, invited: u64) -> Vec<String> {
        let Some(queue) = &self.context.queue else {
            return Vec::new();
        };
        if !is_up(self.redis()) {
            queue.stop().await;
            return Vec::new();
        }
        until("no job left", async || self.jobs().await == 0).await;
        queue.stop().await;
        let events = self.events().await;
        let ended: Vec<&Event> = events.iter().filter(|e| e.name == "call.ended").collect();
        assert_eq!(ended.len() as u64, invited, "one call.ended each");
        for end in &ended {
            let last = events.iter().rfind(|event| event.call == end.call);
            assert_eq!(last.unwrap().name, "call.ended", "nothing after the end");
            let ends = ended.iter().filter(|event| event.call == end.call);
            assert_eq!(ends.count(), 1, "{}", end.call);
        }
        let outcomes = ended.iter().map(|event| event.outcome.clone().unwrap());
        outcomes.collect()
    }

    /// All events so far.
    pub async fn events(&self) -> Vec<Event> {
        type Entry = (String, HashMap<String, String>);
        let range = ["XRANGE", "stream:call_events", "-", "+"];
        let entries: Vec<Entry> = self.redis().query(&range).await;
        let events = entries.into_iter().map(|(_, mut fields)| Event {
            name: fields.remove("event").unwrap(),
            call: fields.remove("callId").unwrap(),
            outcome: fields.remove("outcome"),
            fields,
        });
        events.collect()
    }
}

/// Workers of calls listen on this machine.
fn loopback() -> Arc<Outward> {
    Arc::new(Outward {
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
        own_hosts: Vec::new(),
    })
}
