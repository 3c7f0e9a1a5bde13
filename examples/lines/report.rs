//! The readings of two runs as a table and as JSON, judged by the limits.

use std::time::Duration;

use serde_json::{Value, json};
use sipbridge::fleet::REGISTERS_PER_SECOND_MAX;

use crate::Args;
use crate::control::{self, Control};
use crate::registrar::Registrar;

/// Limit of an idle registered line.
const LINE_MAX_KB: f64 = 50.0;
/// From the start until every line is registered.
const REGISTERED_MAX_S: f64 = 180.0;
/// From the start until the first line asks to be registered.
const FIRST_REGISTER_MAX_S: f64 = 2.0;
/// CPU of all lines while nothing happens but refreshes.
const IDLE_CPU_MAX_PERCENT: f64 = 5.0;

/// How long INVITEs waited for their 200.
pub struct Invites {
    sorted: Vec<Duration>,
    faults: Vec<String>,
}

impl Invites {
    pub fn new(mut answers: Vec<Duration>, faults: Vec<String>) -> Self {
        answers.sort_unstable();
        Self {
            sorted: answers,
            faults,
        }
    }

    fn json(&self) -> Value {
        let at = |share: f64| {
            let last = self.sorted.len().saturating_sub(1);
            let answer = self.sorted.get((last as f64 * share).round() as usize);
            answer.map(|answer| rounded(answer.as_secs_f64() * 1_000.0))
        };
        json!({ "count": self.sorted.len(), "p50": at(0.5), "max": at(1.0) })
    }
}

/// A call to the last line as soon as the bridge serves.
pub struct EarlyCall {
    /// From the start until it was answered.
    pub answered: Duration,
    /// Lines that could not register yet.
    pub decrypting: u64,
}

/// One run.
pub struct Reading {
    pub lines: usize,
    pub serving: Duration,
    /// From the start until the registrar got a first REGISTER.
    pub first_register: Duration,
    /// With `--early-call`.
    pub early: Option<EarlyCall>,
    pub registered: Duration,
    pub idle_cpu_ms: f64,
    pub idle_registers: usize,
    pub rss_kb: u64,
    pub threads: u64,
    pub first: Invites,
    pub last: Invites,
    pub registrar: Registrar,
}

/// The report; the table is made from the same values.
pub struct Report(pub Value);

impl Report {
    pub fn new(args: &Args, one: &Reading, many: &Reading, control: Option<&Control>) -> Self {
        let notes = many.registrar.notes();
        let more = (many.lines as f64 - one.lines as f64).max(1.0);
        let per_line = (many.rss_kb as f64 - one.rss_kb as f64) / more;
        let mut faults = notes.faults.clone();
        faults.extend(many.first.faults.iter().cloned());
        faults.extend(many.last.faults.iter().cloned());
        Self(json!({
            "lines": many.lines,
            "encrypted": args.encrypted,
            "digest": args.digest,
            "database": args.database,
            "servingAfterS": rounded(many.serving.as_secs_f64()),
            "firstRegisterAfterS": rounded(many.first_register.as_secs_f64()),
            "allRegisteredAfterS": rounded(many.registered.as_secs_f64()),
            "earlyCallAfterS":
                many.early.as_ref().map(|call| rounded(call.answered.as_secs_f64())),
            "decryptingAtEarlyCall": many.early.as_ref().map(|call| call.decrypting),
            "registersPeakPerS": notes.peak_per_s(),
            "registrar": {
                "registered": notes.registered, "refreshed": notes.refreshed,
                "late": notes.late, "challenged": notes.challenged,
                "repeated": notes.repeated, "removedAtEnd": notes.removed,
            },
            "rssKb": { "oneLine": one.rss_kb, "allLines": many.rss_kb },
            "kbPerLine": rounded(per_line),
            "threads": many.threads,
            "idle": {
                "seconds": args.idle_seconds,
                "registers": many.idle_registers,
                "cpuShareOfCore":
                    rounded(many.idle_cpu_ms / 10.0 / args.idle_seconds.max(1) as f64),
                "cpuShareOfCoreOneLine":
                    rounded(one.idle_cpu_ms / 10.0 / args.idle_seconds.max(1) as f64),
            },
            "inviteToAnswerMs": {
                "oneLine": one.last.json(),
                "firstLine": many.first.json(), "lastLine": many.last.json(),
            },
            "control": control.map(Control::json),
            "faults": faults,
        }))
    }

    /// Whether every limit was kept.
    pub fn is_good(&self) -> bool {
        let number = |path: &str| self.0.pointer(path).and_then(Value::as_f64);
        // A REGISTER may need two requests, one before and one after the 401.
        let peak_max = f64::from(REGISTERS_PER_SECOND_MAX) * 2.2;
        // Beside a few lines the allocator's moods are all that is seen.
        let few = number("/lines").is_some_and(|lines| lines < 100.0);
        (few || number("/kbPerLine").is_some_and(|kb| kb < LINE_MAX_KB))
            && number("/registersPeakPerS").is_some_and(|peak| peak <= peak_max)
            && number("/registrar/late") == Some(0.0)
            && number("/registrar/registered") == number("/lines")
            && self.0["faults"].as_array().is_some_and(Vec::is_empty)
            && number("/allRegisteredAfterS").is_some_and(|s| s < REGISTERED_MAX_S)
            && number("/firstRegisterAfterS").is_some_and(|s| s < FIRST_REGISTER_MAX_S)
            && number("/idle/cpuShareOfCore").is_some_and(|share| share < IDLE_CPU_MAX_PERCENT)
            && (self.0["control"].is_null() || control::is_good(&self.0["control"]))
    }

    pub fn print(&self) {
        let value = &self.0;
        let at = |path: &str| value.pointer(path).cloned().unwrap_or_default();
        let rows = [
            ("lines", at("/lines")),
            ("serving after, s", at("/servingAfterS")),
            ("first REGISTER after, s", at("/firstRegisterAfterS")),
            ("call to the last line after, s", at("/earlyCallAfterS")),
            ("  lines decrypting then", at("/decryptingAtEarlyCall")),
            ("all registered after, s", at("/allRegisteredAfterS")),
            ("REGISTERs in one second, most", at("/registersPeakPerS")),
            (
                "refreshed / late",
                json!([at("/registrar/refreshed"), at("/registrar/late")]),
            ),
            (
                "401s, repeated REGISTERs",
                json!([at("/registrar/challenged"), at("/registrar/repeated")]),
            ),
            ("resident with one line, kB", at("/rssKb/oneLine")),
            ("resident with all lines, kB", at("/rssKb/allLines")),
            ("per registered line, kB", at("/kbPerLine")),
            ("idle CPU, % of a core", at("/idle/cpuShareOfCore")),
            ("  with one line", at("/idle/cpuShareOfCoreOneLine")),
            ("  REGISTERs meanwhile", at("/idle/registers")),
            (
                "INVITE to 200, first line, ms",
                at("/inviteToAnswerMs/firstLine"),
            ),
            (
                "INVITE to 200, last line, ms",
                at("/inviteToAnswerMs/lastLine"),
            ),
            (
                "INVITE to 200, only line, ms",
                at("/inviteToAnswerMs/oneLine"),
            ),
            ("faults", at("/faults")),
        ];
        for (name, value) in rows {
            println!("{name:<34} {value}");
        }
        if !value["control"].is_null() {
            control::print(&value["control"]);
        }
        println!(
            "{}",
            if self.is_good() {
                "within the limits"
            } else {
                "NOT within the limits"
            }
        );
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
