//! Whole calls under valgrind's memcheck: no byte is read or written that is not the
//! program's, and no memory is lost for good by a call. The only unsafe code is at
//! pjproject, whose memory neither Rust nor Miri sees.
//!
//! Not helgrind: it knows neither the standard library's locks, which are futexes, nor
//! atomics, and reports 200 races of tokio and std before the first call. What threads
//! share here is run by `tests/loom`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::peers::send_signal;
use crate::harness::{Bridge, Caller, Redis, Worker, sound, until, within};

/// A program runs some twenty to fifty times slower there, on one core.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many calls there are: what each of them loses is lost as often.
const CALLS: u64 = 4;

/// What memcheck says at the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    errors: Option<u64>,
    /// Losses of as many blocks as there were calls, or more.
    per_call: Vec<String>,
}

impl Report {
    fn read(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines() {
            // "==7== ERROR SUMMARY: 0 errors from 0 contexts", and
            // "==7== 1,024 bytes in 2 blocks are definitely lost in loss record 3 of 9".
            let number = |before: &str| {
                let rest = line.split_once(before)?.1;
                rest.split_whitespace()
                    .next()?
                    .replace(',', "")
                    .parse()
                    .ok()
            };
            report.errors = number("ERROR SUMMARY: ").or(report.errors);
            let is_loss = line.contains(" definitely lost in loss record ");
            if is_loss && number(" in ").is_none_or(|blocks: u64| blocks >= CALLS) {
                report.per_call.push(line.to_owned());
            }
        }
        report
    }
}

fn suppressions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/valgrind.supp")
}

/// A bridge under memcheck.
async fn under_memcheck(redis: &Redis, log: &Path) -> Bridge {
    let mut setup = Setup::queue(redis).env("RUST_LOG", "info");
    setup.under = [
        "valgrind".to_owned(),
        "--tool=memcheck".to_owned(),
        "--leak-check=full".to_owned(),
        // Losses are judged one by one, and are no errors.
        "--errors-for-leak-kinds=none".to_owned(),
        "--num-callers=24".to_owned(),
        // Else a thread that spins keeps the others waiting.
        "--fair-sched=yes".to_owned(),
        format!("--suppressions={}", suppressions().display()),
        format!("--log-file={}", log.display()),
    ]
    .to_vec();
    setup.start().await
}

/// INVITE, a worker, audio both ways, BYE.
async fn one_call(bridge: std::net::SocketAddr, redis: &Redis) {
    let mut call = Caller::connect(bridge, NUMBER).await;
    let mut worker = Worker::serve(redis).await;
    let words = sound::numbered(0, 20).concat();
    worker.media(&words);
    call.player().play(&sound::numbered(0, 20)).await;
    worker.next_of_within(PATIENCE, "media").await;
    until(PATIENCE, "the worker's words", async || {
        !sound::is_silence(&call.rtp.audio())
    })
    .await;
    call.bye().await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_misuse_no_memory_and_lose_none() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        // Past libtest's capture: tests/run.sh shows it.
        let words = b"not run: calls under memcheck, valgrind is not installed\n";
        std::io::stderr().write_all(words).unwrap();
        return;
    }
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("memcheck.log");
    let redis = Redis::start();
    let mut bridge = under_memcheck(&redis, &log).await;
    for _ in 0..CALLS {
        within(PATIENCE, "a call", one_call(bridge.sip(), &redis)).await;
    }
    send_signal(bridge.pid(), "TERM");
    let exit = bridge.exit(PATIENCE).await;
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(exit.code, Some(0), "{text}");
    bridge.assert_nothing_left();
    let expected = Report {
        errors: Some(0),
        per_call: Vec::new(),
    };
    assert_eq!(Report::read(&text), expected, "{text}");
}

#[test]
fn a_report_of_memcheck_is_read() {
    let text = "==7== 1,024 bytes in 4 blocks are definitely lost in loss record 3 of 9\n\
        ==7==    at 0x4: malloc\n\
        ==7== 16 bytes in 1 blocks are definitely lost in loss record 1 of 9\n\
        ==7==    definitely lost: 1,040 bytes in 5 blocks\n\
        ==7== ERROR SUMMARY: 1,002 errors from 2 contexts (suppressed: 0 from 0)\n";
    let report = Report::read(text);
    assert_eq!(report.errors, Some(1_002));
    assert_eq!(report.per_call, [text.lines().next().unwrap()]);
}
