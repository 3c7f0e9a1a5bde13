//! Fuzzing of the running program, and of its readers without it: seeded mutations of everything that it
//! reads from the network, sent over real sockets, a good part of it within
//! real calls. After each batch OPTIONS is answered; a whole call works, heard
//! both ways; at the end memory, descriptors and ports are back; no sanitizer
//! reports anything, nothing panics. The last word is libtest's.
//!
//! ```text
//! cargo test --test fuzz                       all targets side by side, 15 s each
//! cargo test --test fuzz -- --minutes 10       10 minutes each, as many at a time as there are cores
//! cargo test --test fuzz -- invite rtp         targets with that in their name
//! SEED=7 cargo test --test fuzz -- udp         the same inputs again
//! cargo test --test fuzz -- --replay FILE      a kept input, on a fresh process
//! ```
//!
//! A finding is shrunk and kept in `corpus/crashes/` as TARGET-SEED.case, and
//! is played first in every later run.
//!
//! | module | what it holds |
//! |---|---|
//! | `attack` | the run of one target |
//! | `callee` | answers to calls that the bridge places |
//! | `corpus` | seeds and kept findings |
//! | `inside`, `readers` | what reads foreign bytes, called in this process |
//! | `media` | RTP, RTCP, STUN |
//! | `messages` | SIP messages over UDP, TCP and TLS |
//! | `mutate`, `words` | what is done to good input |
//! | `offers` | SDP in INVITE, re-INVITE, UPDATE and ACK |
//! | `peer`, `template`, `wire` | a user agent that can say anything |
//! | `streams` | WebSocket messages of workers, HTTP requests |
//! | `torture` | the messages of RFC 4475, each with what is expected |
//! | `worker` | a worker that echoes |
//! | `world` | the bridge, and what is wrong with it |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod attack;
mod callee;
mod corpus;
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with tests that use other parts of it"
)]
#[path = "../e2e/harness/mod.rs"]
mod harness;
mod inside;
mod media;
mod messages;
mod mutate;
mod offers;
mod peer;
mod readers;
mod streams;
mod template;
mod torture;

mod wire;
mod words;
mod worker;
mod world;

use std::iter;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rand::RngExt;

use attack::Target;
use inside::Reader;
use readers::READERS;

/// How long each target is attacked unless minutes are given.
const SHORT: Duration = Duration::from_secs(15);

const TARGETS: &[Target] = &[
    messages::UDP,
    messages::TCP,
    messages::TLS,
    offers::INVITE,
    offers::REINVITE,
    offers::UPDATE,
    offers::PRACK,
    offers::ACK,
    callee::CALLEE,
    media::RTP,
    media::RTCP,
    media::STUN,
    streams::WORKER,
    streams::HTTP,
];

/// What was asked for.
#[derive(Default)]
struct Wish {
    minutes: Option<f64>,
    replay: Option<PathBuf>,
    names: Vec<String>,
    list: bool,
}

impl Wish {
    /// Flags of libtest that mean nothing here are passed over.
    fn read(mut args: impl Iterator<Item = String>) -> Self {
        let mut wish = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--minutes" => wish.minutes = args.next().and_then(|text| text.parse().ok()),
                "--replay" => wish.replay = args.next().map(PathBuf::from),
                "--test-threads" => drop(args.next()),
                "--list" => wish.list = true,
                flag if flag.starts_with('-') => {}
                _ => wish.names.push(arg),
            }
        }
        wish
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|it| name.contains(it.as_str()))
    }
}

fn main() -> ExitCode {
    let wish = Wish::read(std::env::args().skip(1));
    if wish.list {
        for target in TARGETS {
            println!("{}: test", target.name);
        }
        for reader in READERS {
            println!("{}: test", reader.name);
        }
        println!("torture: test");
        return ExitCode::SUCCESS;
    }
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let (passed, failed) = match &wish.replay {
        Some(file) => replay(file),
        None => run(&wish, seed),
    };
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored");
    ExitCode::from(u8::from(failed > 0))
}

fn run(wish: &Wish, seed: u64) -> (u32, u32) {
    println!("fuzz: SEED={seed}");
    let wanted: Vec<&Target> = TARGETS.iter().filter(|it| wish.wants(it.name)).collect();
    let mut results = Vec::new();
    match wish.minutes {
        Some(minutes) => {
            let time = Duration::from_secs_f64(minutes * 60.0);
            results.extend(play_in_turn(&wanted, seed, time));
        }
        None => {
            let running = wanted
                .into_iter()
                .map(|it| thread::spawn(move || play(it, seed, SHORT)));
            let running: Vec<_> = running.collect();
            results.extend(running.into_iter().map(|it| it.join().unwrap_or(false)));
        }
    }
    // After the others: these leave them no time.
    let time = wish
        .minutes
        .map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    results.extend(read_all(wish, seed, time.unwrap_or(SHORT)));
    if wish.wants("torture") {
        let played = thread::spawn(|| runtime().block_on(torture::run())).join();
        let word = if played.is_ok() {
            "as expected"
        } else {
            "FAILED"
        };
        println!("fuzz: torture: {word}");
        results.push(played.is_ok());
    }
    let passed = results.iter().filter(|good| **good).count();
    (
        u32::try_from(passed).unwrap(),
        u32::try_from(results.len() - passed).unwrap(),
    )
}

/// Readers, side by side.
fn read_all(wish: &Wish, seed: u64, time: Duration) -> Vec<bool> {
    let wanted = READERS.iter().filter(|it| wish.wants(it.name));
    let running: Vec<_> = wanted
        .map(|reader| thread::spawn(move || read(reader, seed, time)))
        .collect();
    let join = |it: thread::JoinHandle<bool>| it.join().unwrap_or(false);
    running.into_iter().map(join).collect()
}

/// Attacks one reader; whether nothing was found.
fn read(reader: &Reader, seed: u64, time: Duration) -> bool {
    let found = inside::attack(reader, seed, time);
    match &found {
        Ok(done) => println!("fuzz: {}: {done}", reader.name),
        Err(finding) => println!("fuzz: {}: FAILED, SEED={seed}: {finding}", reader.name),
    }
    found.is_ok()
}

/// Attacks as many targets at a time as there are cores.
fn play_in_turn(wanted: &[&'static Target], seed: u64, time: Duration) -> Vec<bool> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let attack_next = || {
        let target = wanted.get(next.fetch_add(1, Ordering::Relaxed));
        target.map(|target| play(target, seed, time))
    };
    thread::scope(|scope| {
        let turns: Vec<_> = (0..cores)
            .map(|_| scope.spawn(|| iter::from_fn(attack_next).collect::<Vec<_>>()))
            .collect();
        let join = |turn: thread::ScopedJoinHandle<'_, Vec<bool>>| turn.join().unwrap();
        turns.into_iter().flat_map(join).collect()
    })
}

/// Attacks one target; whether nothing was found.
fn play(target: &'static Target, seed: u64, time: Duration) -> bool {
    let attack = move || runtime().block_on(attack::attack(target, seed, time));
    match thread::spawn(attack).join() {
        Ok(Ok(_)) => true,
        Ok(Err(finding)) => {
            println!("fuzz: {}: FAILED, SEED={seed}: {finding}", target.name);
            false
        }
        Err(_) => {
            println!(
                "fuzz: {}: FAILED in the harness itself, SEED={seed}",
                target.name
            );
            false
        }
    }
}

fn replay(file: &PathBuf) -> (u32, u32) {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    if let Some(reader) = READERS
        .iter()
        .find(|it| name.starts_with(&format!("{}-", it.name)))
    {
        let inputs = corpus::read(&std::fs::read(file).unwrap());
        let mut faults = inputs
            .iter()
            .filter_map(|it| inside::fault_of(reader, &it.bytes).err());
        let fault = faults
            .next()
            .unwrap_or_else(|| "nothing is wrong".to_owned());
        println!("fuzz: {name}: {fault}");
        return if fault == "nothing is wrong" {
            (1, 0)
        } else {
            (0, 1)
        };
    }
    let own = |it: &&Target| name.starts_with(&format!("{}-", it.name));
    let target = TARGETS.iter().find(own).expect("TARGET-SEED.case");
    let inputs = corpus::read(&std::fs::read(file).unwrap());
    for input in &inputs {
        println!(
            "-- {}:\n{}",
            input.kind,
            String::from_utf8_lossy(&input.bytes)
        );
    }
    let wish = (target.wish)();
    let fault = runtime().block_on(attack::replay(target, &wish, 0, &inputs));
    match &fault {
        Some(fault) => println!("fuzz: {name}: {fault}"),
        None => println!("fuzz: {name}: nothing is wrong"),
    }
    if fault.is_some() { (0, 1) } else { (1, 0) }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}
