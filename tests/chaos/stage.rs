//! One scenario's world: a private Redis, the real bridge, worker processes
//! and callers, and what the bridge held before the first call.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::caller::{self, Leave, Plan};
use crate::common::sip_uac::Uac;
use crate::harness::bridge::{Bridge, Setup};
use crate::harness::peers::{free_port, local};
use crate::harness::worker::QUEUE;
use crate::harness::{http, until, within};
use crate::pool::Pool;
use crate::record::Record;
use crate::store::Store;
use crate::worker::Orders;

/// Longest that any one call of a scenario may take.
const CALL_LIMIT: Duration = Duration::from_secs(180);
/// What is given back when the last call is over may take a moment: tokio keeps
/// a blocking thread for 10 s.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// RTP ports of one bridge, for 60 calls.
const RTP_PORTS: u16 = 120;
/// Where the ranges begin, and how many there are, up to the ports of the
/// other parts.
const RTP_FIRST: u16 = 10_000;
const RTP_RANGES: u16 = 80;

/// What a process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    pub descriptors: usize,
    pub threads: usize,
    /// UDP ports of the SIP and RTP ranges that are bound.
    pub ports: BTreeSet<u16>,
}

impl Holdings {
    pub fn of(bridge: &Bridge) -> Self {
        let count = |what: &str| {
            let folder = std::fs::read_dir(format!("/proc/{}/{what}", bridge.pid()));
            folder.map_or(0, Iterator::count)
        };
        let udp = std::fs::read_to_string("/proc/net/udp").unwrap();
        let bound = udp.lines().filter_map(|line| {
            let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
            u16::from_str_radix(port, 16).ok()
        });
        let (first, last) = bridge.rtp_ports;
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            ports: bound
                .filter(|port| (first..=last).contains(port) || *port == bridge.sip_port)
                .collect(),
        }
    }

    fn is_within(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.ports.is_subset(&before.ports)
    }
}

/// A failing scenario shows what the bridge on this API port thinks of itself.
struct LastWords(u16);

impl LastWords {
    /// `/health`, without a runtime.
    fn health(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(local(self.0))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("-- /health: {}", self.health().unwrap_or_default());
        }
    }
}

/// The world of one scenario.
pub struct Stage {
    /// Before the bridge, so that it is asked before it ends.
    _last_words: LastWords,
    pub random: StdRng,
    pub store: Store,
    pub bridge: Bridge,
    pub pool: Pool,
    pub before: Holdings,
    uac: Uac,
    seed: u64,
    callers: u16,
    args: Vec<String>,
}

impl Stage {
    /// Starts Redis and a bridge, and lets one call pass, so that what the
    /// bridge opens once is open.
    pub async fn start(seed: u64, args: &[&str]) -> Self {
        let store = Store::start();
        let rtp_ports = rtp_ports();
        let range = format!("{}-{}", rtp_ports.0, rtp_ports.1);
        let args: Vec<String> = [
            "--redis-url",
            &store.url(),
            "--rtp-ports",
            &range,
            "--trust-worker-transfers=yes",
        ]
        .iter()
        .chain(args)
        .map(|arg| (*arg).to_owned())
        .collect();
        let mut bridge = bridge(&args).await;
        bridge.rtp_ports = rtp_ports;
        let mut stage = Self {
            _last_words: LastWords(bridge.api_port),
            random: StdRng::seed_from_u64(seed),
            before: Holdings::of(&bridge),
            store,
            bridge,
            pool: Pool::new(),
            // Below the callers' RTP ports: beside one of them it would get RTCP.
            uac: Uac::bind(local(free_port())).await.unwrap(),
            seed,
            callers: 0,
            args,
        };
        stage.warm_up().await;
        stage
    }

    /// Lets one call pass, and notes what the bridge holds then.
    pub async fn warm_up(&mut self) {
        let call = self.call(Plan::new(Leave::Cancel(Duration::from_millis(300))));
        within(CALL_LIMIT, "the first call", call).await.unwrap();
        self.idle().await;
        self.before = Holdings::of(&self.bridge);
    }

    /// An order for a worker that echoes this stage's calls.
    pub fn echo(&self) -> Orders {
        Orders::echo(&self.store.url(), QUEUE)
    }

    /// A call that begins now, on its own.
    pub fn call(&mut self, plan: Plan) -> JoinHandle<Record> {
        self.callers += 1;
        let call = caller::call(
            self.uac.clone(),
            self.bridge.sip(),
            self.callers,
            self.seed,
            plan,
        );
        tokio::spawn(call)
    }

    /// Calls that begin one after the other within `over`.
    pub async fn calls(
        &mut self,
        count: usize,
        over: Duration,
        mut plan: impl FnMut(&mut StdRng) -> Plan,
    ) -> Vec<JoinHandle<Record>> {
        let mut calls = Vec::with_capacity(count);
        for _ in 0..count {
            let plan = plan(&mut self.random);
            calls.push(self.call(plan));
            tokio::time::sleep(over / u32::try_from(count).unwrap()).await;
        }
        calls
    }

    /// A time drawn between two.
    pub fn draw(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        draw(&mut self.random, from_ms, to_ms)
    }

    /// What the bridge's health says at that place.
    async fn health(&self, at: &str) -> Option<Value> {
        let health = http::get(self.bridge.api_port, "/health").await?;
        health.json().pointer(at).cloned()
    }

    /// Calls in progress.
    pub async fn active(&self) -> Option<u64> {
        self.health("/calls/active").await?.as_u64()
    }

    /// Whether the bridge has a connection to Redis.
    pub async fn has_redis(&self) -> bool {
        self.health("/redis/connected").await == Some(Value::Bool(true))
    }

    /// Waits until no call is in progress.
    pub async fn idle(&self) {
        until(GIVEN_BACK, "no call in progress", async || {
            self.active().await == Some(0)
        })
        .await;
    }

    /// Waits until workers have attached so many times in all.
    pub async fn attached(&self, count: usize) {
        until(Duration::from_secs(30), "workers attach", async || {
            self.pool.count("attached") >= count
        })
        .await;
    }

    /// What the bridge holds beyond what it held before the calls, when it
    /// does not give it back.
    pub async fn left(&self) -> Option<String> {
        let given_back = async {
            while !Holdings::of(&self.bridge).is_within(&self.before) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let late = tokio::time::timeout(GIVEN_BACK, given_back).await.is_err();
        let after = Holdings::of(&self.bridge);
        late.then(|| format!("before the calls {:?}, after them {after:?}", self.before))
    }

    /// kill -9 to the bridge, and the same one again: node, ports and all.
    pub async fn restart_bridge(&mut self) {
        self.bridge.process.child.kill().unwrap();
        self.bridge.process.child.wait().unwrap();
        let old = &self.bridge;
        let (sip, api, stream) = (old.sip_port, old.api_port, old.stream_port);
        let rtp_ports = old.rtp_ports;
        let mut args = self.args.clone();
        for (flag, value) in [
            ("--sip-port", sip.to_string()),
            ("--api-port", api.to_string()),
            ("--stream-port", stream.to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        let mut again = bridge(&args).await;
        (again.sip_port, again.api_port, again.stream_port) = (sip, api, stream);
        again.rtp_ports = rtp_ports;
        self.bridge = again;
    }

    /// What callers' user agent found wrong with the bridge's SIP.
    pub fn sip_faults(&self) -> Vec<String> {
        self.uac.faults()
    }
}

/// RTP ports that no other stage of this program gets: a bridge binds its
/// range only call by call, so that a range which looks free may be another's.
fn rtp_ports() -> (u16, u16) {
    static TAKEN: Mutex<u16> = Mutex::new(0);
    let mut taken = TAKEN.lock().unwrap();
    if *taken == 0 {
        *taken = rand::rng().random_range(1..RTP_RANGES);
    }
    loop {
        *taken = *taken % RTP_RANGES + 1;
        let first = RTP_FIRST + *taken * RTP_PORTS;
        let last = first + RTP_PORTS - 1;
        if (first..=last).all(|port| UdpSocket::bind(local(port)).is_ok()) {
            return (first, last);
        }
    }
}

async fn bridge(args: &[String]) -> Bridge {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // Debug lines of 50 calls would cost more than the calls.
    Setup::new()
        .args(&args)
        .env("RUST_LOG", "info")
        .start()
        .await
}

/// A time drawn between two.
pub fn draw(random: &mut StdRng, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(random.random_range(from_ms..=to_ms))
}

/// What became of calls.
pub async fn records(calls: Vec<JoinHandle<Record>>) -> Vec<Record> {
    let mut records = Vec::with_capacity(calls.len());
    for call in calls {
        let record = within(CALL_LIMIT, "a call ends", call).await;
        records.push(record.expect("a caller does not panic"));
    }
    records
}

/// Where a test's own sockets lie.
pub fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
