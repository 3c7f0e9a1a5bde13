//! The bridge under attack: started, looked at after every batch, and started
//! again for a replay.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::bridge::{Bridge, NUMBER, Setup};
use crate::harness::peers::local;
use crate::harness::sound;
use crate::peer::Peer;
use crate::wire::Kind;
use crate::worker;

/// How long its start may take.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a whole call may take to work again: what a batch left behind may
/// fill a share of this source for a moment.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A call that an input put on hold lasts for --max-call-duration (60 s), and its
/// BYE waits for an answer for 64*T1 more.
const GIVEN_BACK: Duration = Duration::from_secs(120);
/// Growth that is no leak: caches of allocators, logs, pools that are kept.
const GROWTH_MB: u64 = 96;
/// With sanitizers: quarantine and shadow beside it.
const GROWTH_SANITIZED_MB: u64 = 700;

/// Signs of a fault in what the program says.
const SIGNS: [&str; 7] = [
    "ERROR: AddressSanitizer",
    "AddressSanitizer:DEADLYSIGNAL",
    "runtime error:",
    "Assertion `",
    "panicked at",
    "panic in",
    "double free",
];

/// What a target needs of the bridge.
#[derive(Clone)]
pub struct Wish {
    pub transport: Transport,
    pub args: Vec<String>,
    /// Where its line's server is.
    pub trunk: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// A process and what it held at first.
pub struct World {
    pub bridge: Bridge,
    pub kind: Kind,
    pub workers: worker::Server,
    before: Option<Holdings>,
    log_read: u64,
    probe: Option<Peer>,
    probes: u64,
    _dir: TempDir,
}

#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    resident_mb: u64,
    ports: BTreeSet<u16>,
}

impl World {
    pub async fn start(wish: &Wish) -> Self {
        let dir = TempDir::new().unwrap();
        let workers = worker::Server::start().await;
        let mut setup = Setup::new()
            .args(&[
                "--ws-target",
                &workers.url(),
                "--data-dir",
                &dir.path().display().to_string(),
            ])
            .args(&[
                "--max-calls-per-second",
                "0",
                "--max-dials-per-hour",
                "0",
                "--allow-dial",
                "*",
            ])
            // The peers come from all over loopback, and what a stranger may
            // is not what is to be reached here: the parsers behind that are.
            .args(&["--allow-from", "127.0.0.0/8"])
            .args(&[
                "--rtp-timeout",
                "15",
                "--max-call-duration",
                "60",
                "--worker-timeout",
                "5",
            ])
            .env("RUST_LOG", "warn,sipbridge=info")
            .env(
                "ASAN_OPTIONS",
                "detect_leaks=0:quarantine_size_mb=64:allocator_may_return_null=1:exitcode=77:handle_abort=1:handle_abort=1",
            )
            .env("UBSAN_OPTIONS", "print_stacktrace=1")
            .line_field("maxConcurrentCalls", json!(50));
        setup.args.extend(wish.args.iter().cloned());
        if let Some(trunk) = wish.trunk {
            setup = setup.line_field("sipDomain", json!(trunk.to_string()));
        }
        let kind = match wish.transport {
            Transport::Udp => Kind::Udp,
            Transport::Tcp => {
                setup.transport = "tcp";
                Kind::Tcp
            }
            Transport::Tls => {
                setup.transport = "tls";
                let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
                let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
                std::fs::write(&cert, made.cert.pem()).unwrap();
                std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
                setup = setup.args(&["--tls-cert", &cert.display().to_string()]);
                setup = setup.args(&["--tls-key", &key.display().to_string()]);
                Kind::tls(&made)
            }
        };
        let bridge = started(setup).await;
        Self {
            bridge,
            kind,
            workers,
            before: None,
            log_read: 0,
            probe: None,
            probes: 0,
            _dir: dir,
        }
    }

    /// A peer on that address.
    pub fn peer(&self, from: Ipv4Addr, first: u64) -> Peer {
        Peer::open(self.kind.clone(), from, self.bridge.sip(), NUMBER, first)
    }

    /// What is wrong with the process itself.
    pub fn fault(&mut self) -> Option<String> {
        let status = self.bridge.process.child.try_wait().unwrap();
        let said = self.new_output();
        if let Some(status) = status {
            let sign = SIGNS.iter().find_map(|sign| said.find(sign));
            let report: String = match sign {
                Some(at) => said[at..].chars().take(6_000).collect(),
                None => tail(&said),
            };
            return Some(format!("the process ended: {status}\n{report}"));
        }
        let sign = SIGNS.iter().find_map(|sign| said.find(sign))?;
        // A report is not written all at once.
        std::thread::sleep(Duration::from_millis(300));
        let rest = self.new_output();
        let from = said[..sign].rfind('\n').map_or(0, |at| at + 1);
        let report = said[from..].chars().chain(rest.chars());
        Some(report.take(6_000).collect())
    }

    fn new_output(&mut self) -> String {
        let path = self.log_path();
        let mut said = Vec::new();
        if let Ok(mut file) = std::fs::File::open(path) {
            let _ = file.seek(SeekFrom::Start(self.log_read));
            let _ = file.read_to_end(&mut said);
        }
        self.log_read += said.len() as u64;
        String::from_utf8_lossy(&said).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.bridge.lines_file().with_file_name("bridge.log")
    }

    /// As [`World::fault`], and OPTIONS of the trunk must be answered.
    pub fn look(&mut self) -> Option<String> {
        if let Some(fault) = self.fault() {
            return Some(fault);
        }
        let deadline = Instant::now() + Duration::from_secs(12);
        while !self.probe().is_answered() {
            self.probe = None;
            if let Some(fault) = self.fault() {
                return Some(fault);
            }
            if Instant::now() > deadline {
                return Some("OPTIONS is not answered".to_owned());
            }
        }
        None
    }

    fn probe(&mut self) -> &mut Peer {
        self.probes += 1;
        let first = u64::MAX / 2 + (self.probes << 20);
        if self.probe.is_none() {
            self.probe = Some(self.peer(Ipv4Addr::LOCALHOST, first));
        }
        self.probe.as_mut().unwrap()
    }

    /// As [`World::look`], and a whole call must work, heard both ways.
    pub fn look_closely(&mut self) -> Option<String> {
        let fault = self.look();
        if fault.is_some() {
            return fault;
        }
        let deadline = Instant::now() + CALL_LIMIT;
        loop {
            match whole_call(self.probe()) {
                Ok(()) => break,
                Err(_) if Instant::now() < deadline => {
                    self.probe = None;
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err(problem) => return self.fault().or(Some(format!("no call works: {problem}"))),
            }
        }
        let panics = self.metric("panics");
        if panics > 0.0 {
            return Some(format!("{panics} panics were counted"));
        }
        self.fault()
    }

    /// The sum of all metrics whose name holds this.
    fn metric(&self, name: &str) -> f64 {
        let text = self.http("/metrics").unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn http(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(local(self.bridge.api_port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Notes what it holds when nothing has happened yet.
    pub fn remember(&mut self) -> Option<String> {
        let fault = self.look_closely();
        self.probe = None;
        std::thread::sleep(Duration::from_millis(300));
        self.before = Some(self.holdings());
        fault
    }

    /// What it does not give back, after everybody has gone.
    pub fn left(&mut self) -> Option<String> {
        self.probe = None;
        let deadline = Instant::now() + GIVEN_BACK;
        let before = self.before.take().expect("remembered");
        let limit = match sanitized(&self.bridge) {
            true => GROWTH_SANITIZED_MB,
            false => GROWTH_MB,
        };
        loop {
            let now = self.holdings();
            let fits = now.descriptors <= before.descriptors + 3
                && now.ports.is_subset(&before.ports)
                && now.resident_mb <= before.resident_mb + limit;
            if fits {
                return self.fault();
            }
            if Instant::now() > deadline {
                return Some(format!("not given back: before {before:?}, after {now:?}"));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Growth of memory so far, in MB.
    pub fn grown_mb(&self) -> u64 {
        let before = self.before.as_ref().map_or(0, |before| before.resident_mb);
        self.holdings().resident_mb.saturating_sub(before)
    }

    fn holdings(&self) -> Holdings {
        let pid = self.bridge.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.trim().split(' ').next()?.parse::<u64>().ok());
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let udp = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
        let bound = udp.lines().filter_map(|line| {
            let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
            u16::from_str_radix(port, 16).ok()
        });
        let (first, last) = self.bridge.rtp_ports;
        Holdings {
            descriptors: descriptors.map_or(0, Iterator::count),
            resident_mb: resident.unwrap_or(0) >> 10,
            ports: bound.filter(|port| (first..=last).contains(port)).collect(),
        }
    }
}

/// Starts the program and waits until it is up: with sanitizers, on a machine
/// that does other things too, that takes its time. A port that was free a
/// moment ago may be another's by now.
async fn started(setup: Setup) -> Bridge {
    for _ in 0..3 {
        let mut bridge = setup.clone().spawn();
        let deadline = Instant::now() + START_LIMIT;
        while bridge.process.is_running() && !bridge.output().contains("sipbridge is up") {
            assert!(Instant::now() < deadline, "the bridge did not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if bridge.process.is_running() {
            return bridge;
        }
        let said = bridge.output();
        assert!(
            said.contains("Address already in use"),
            "the bridge ended: {said}"
        );
    }
    panic!("the bridge found three times a port in use");
}

/// Whether the program carries the run time of a sanitizer.
pub fn sanitized(bridge: &Bridge) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", bridge.pid()));
    maps.is_ok_and(|maps| maps.contains("libasan"))
}

/// A call whose worker echoes it: what we say comes back.
fn whole_call(peer: &mut Peer) -> Result<(), String> {
    let dialog = peer.call().ok_or("no 200 to INVITE")?;
    let heard = dialog
        .rtp
        .ok_or("no media in the answer")
        .map(|rtp| hears_itself(peer, rtp));
    let ended = peer.bye(dialog);
    match heard? {
        false => Err("nothing comes back".to_owned()),
        true if ended != Some(200) => Err(format!("{ended:?} to BYE")),
        true => Ok(()),
    }
}

fn hears_itself(peer: &Peer, rtp: SocketAddr) -> bool {
    const FRAMES: u32 = 250;
    let mut buffer = [0; 2_048];
    let mut good = 0;
    for number in 0..FRAMES {
        let mut packet = vec![0x80, 0];
        packet.extend(u16::try_from(number).unwrap().to_be_bytes());
        packet.extend((number * 160).to_be_bytes());
        packet.extend([0, 0x42, 0x42, 0x42]);
        packet.extend(sound::numbered_frame(number));
        let _ = peer.media.send_to(&packet, rtp);
        let next = Instant::now() + Duration::from_millis(20);
        while Instant::now() < next {
            if let Ok((count @ 12.., from)) = peer.media.recv_from(&mut buffer) {
                let echoed = sound::number_of(&buffer[12..count]).is_some();
                good += u32::from(echoed && from == rtp);
            }
        }
        if good >= 10 {
            return true;
        }
    }
    false
}

fn tail(text: &str) -> String {
    let from = text.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
    text[from..].to_owned()
}
