//! The books: for each scenario, how many callers were cut off, heard nobody,
//! how many jobs were delivered twice, were left, and what the bridge still
//! holds. All of it must be 0.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::harness::until;
use crate::pool::Line;
use crate::record::{End, Record};
use crate::stage::Stage;

/// French, then English, as the program has it built in: where it begins and
/// where it ends.
const BEGINNING: &[u8] = include_bytes!("../../src/media/announcements/unavailable.fr.ulaw");
const ANNOUNCEMENT: &[u8] = include_bytes!("../../src/media/announcements/unavailable.en.ulaw");
/// Between a take and the worker's note of it, on a busy machine.
const NOTED_MS: u64 = 250;
/// How soon after a call's end its job must be gone.
const REMOVED: Duration = Duration::from_secs(3);
/// Statistics are recomputed with each heartbeat.
const STATISTICS: Duration = Duration::from_secs(25);

/// A round that goes wrong may go wrong for everybody.
const FINDINGS_SHOWN: usize = 15;

/// What a scenario holds callers and bridge to.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Longest time without RTP.
    pub gap: Duration,
    /// Longest time without any sound, once the worker has spoken.
    pub quiet: Duration,
    /// How long a caller may wait for worker or announcement.
    pub waits: Duration,
    /// Whether callers may hear the fallback.
    pub fallback: bool,
    /// Whether Redis has forgotten some of what happened.
    pub redis_lost: bool,
}

impl Terms {
    /// Everybody is served by a worker all the time.
    pub fn new() -> Self {
        Self {
            gap: Duration::from_millis(1_000),
            quiet: Duration::from_millis(2_500),
            waits: Duration::from_secs(8),
            fallback: false,
            redis_lost: false,
        }
    }
}

/// Whether a caller heard the announcement to its end.
pub fn heard_announcement(record: &Record) -> bool {
    // Its very last frame may be padded.
    let end = ANNOUNCEMENT.len() - ANNOUNCEMENT.len() % 160;
    record.heard_part(&ANNOUNCEMENT[end - 4_800..end])
}

/// Whether a caller heard it begin: one who hangs up while it speaks was told.
fn heard_beginning(record: &Record) -> bool {
    record.heard_part(&BEGINNING[..4_800])
}

/// The findings under each heading; all must be empty.
#[derive(Debug, Default)]
pub struct Books {
    cut_off: Vec<String>,
    heard_nobody: Vec<String>,
    twice: Vec<String>,
    ghosts: Vec<String>,
    left: Vec<String>,
    faults: Vec<String>,
    calls: usize,
}

/// Closes the books of a scenario: waits until all calls are over, looks at
/// everything, ends the bridge, and panics with whatever is not 0.
pub async fn close(stage: Stage, records: &[Record], terms: Terms) -> Books {
    stage.idle().await;
    let mut books = Books::default();
    books.look(&stage, records, terms).await;
    // Ends by TERM with 0 and leaves no port: panics by itself.
    stage.bridge.shut_down().await;
    books.judge();
    books
}

impl Books {
    /// Looks at everything, and leaves the bridge running.
    pub async fn look(&mut self, stage: &Stage, records: &[Record], terms: Terms) {
        self.calls += records.len();
        let lines = stage.pool.lines();
        for record in records {
            self.caller(record, &lines, terms);
        }
        self.deliveries(stage, &lines, terms);
        self.ghosts(stage, &lines).await;
        self.events(stage, terms).await;
        self.left.extend(stage.left().await);
        for line in lines.iter().filter(|line| line.is("fault")) {
            self.faults.push(format!("worker: {}", line.json));
        }
        let sip = stage.sip_faults();
        self.faults
            .extend(sip.into_iter().map(|fault| format!("SIP: {fault}")));
    }

    /// A call of which only the end counts.
    pub fn note_end(&mut self, record: &Record) {
        self.calls += 1;
        self.caller(record, &[], Terms::new());
    }

    fn caller(&mut self, record: &Record, lines: &[Line], terms: Terms) {
        let who = format!("caller {}", record.index);
        let announced = heard_announcement(record);
        match &record.end {
            End::HungUp | End::Refused(487) => {}
            End::ByBridge if announced => {}
            End::ByBridge if closed_by_worker(record, lines) => {}
            End::ByBridge => self
                .cut_off
                .push(format!("{who}: BYE after {:?}", record.talked())),
            End::Refused(status) => self.heard_nobody.push(format!("{who}: {status}")),
            End::NotAnswered => self.heard_nobody.push(format!("{who}: no answer")),
            End::Unanswered(why) => self.faults.push(format!("{who}: BYE: {why}")),
        }
        if record.longest_gap() > terms.gap {
            let gap = record.longest_gap();
            self.cut_off.push(format!("{who}: no RTP for {gap:?}"));
        }
        if record.longest_quiet() > terms.quiet {
            let quiet = record.longest_quiet();
            self.cut_off.push(format!("{who}: silence for {quiet:?}"));
        }
        if announced && !terms.fallback {
            self.cut_off.push(format!(
                "{who}: heard the fallback while workers were there"
            ));
        }
        let heard_worker = record.first_worker_at().is_some();
        let unheard = !heard_worker && !announced && !heard_beginning(record);
        if unheard && record.talked() > terms.waits {
            let talked = record.talked();
            self.heard_nobody.push(format!("{who}: in {talked:?}"));
        }
        if record.foreign_frames() > 0 {
            let frames = record.foreign_frames();
            self.faults
                .push(format!("{who}: {frames} frames of another call"));
        }
    }

    /// A job taken twice, or two workers of which the caller needs one.
    fn deliveries(&mut self, stage: &Stage, lines: &[Line], terms: Terms) {
        let mut taken: HashMap<(&str, u64), usize> = HashMap::new();
        for line in lines.iter().filter(|line| line.is("took")) {
            let attempt = line.json["attempt"].as_u64().unwrap_or_default();
            *taken.entry((line.call(), attempt)).or_default() += 1;
        }
        if !terms.redis_lost {
            for ((call, attempt), times) in taken.iter().filter(|(_, times)| **times > 1) {
                let job = format!("{call}: attempt {attempt} taken {times} times");
                self.twice.push(job);
            }
        }
        for (at, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.is("attached"))
        {
            let over = lines[at..].iter().find(|other| {
                other.is("over") && other.worker == line.worker && other.call() == line.call()
            });
            let gone = stage.pool.gone_ms(line.worker).unwrap_or(u64::MAX);
            let until_ms = over.map_or(u64::MAX, |over| over.at_ms).min(gone);
            let second = lines[at + 1..].iter().find(|other| {
                other.is("attached") && other.call() == line.call() && other.at_ms < until_ms
            });
            if let Some(second) = second {
                self.twice
                    .push(format!("{} and {}", line.json, second.json));
            }
        }
    }

    /// Jobs of calls that are over: in the queue, or handed out.
    async fn ghosts(&mut self, stage: &Stage, lines: &[Line]) {
        let deadline = Instant::now() + REMOVED;
        while stage.store.jobs().await != 0 {
            if Instant::now() > deadline {
                let jobs = stage.store.jobs().await;
                self.ghosts.push(format!("{jobs} jobs in the queue"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for ended in stage.store.events("call.ended").await {
            let late = lines.iter().find(|line| {
                line.is("took")
                    && line.call() == ended.field("callId")
                    && line.at_ms > ended.at_ms + NOTED_MS
            });
            self.ghosts
                .extend(late.map(|line| format!("handed out after the end: {}", line.json)));
        }
    }

    /// Each call that rang ended once, and the statistics say so.
    async fn events(&mut self, stage: &Stage, terms: Terms) {
        let rang = stage.store.events("call.ringing").await;
        let mut ends: HashMap<String, usize> = HashMap::new();
        for ended in stage.store.events("call.ended").await {
            *ends.entry(ended.field("callId").to_owned()).or_default() += 1;
        }
        // What happened while Redis was away is told nowhere.
        for call in rang.iter().filter(|_| !terms.redis_lost) {
            let call = call.field("callId");
            let times = ends.get(call).copied().unwrap_or_default();
            if times != 1 {
                self.left.push(format!("{call}: ended {times} times"));
            }
        }
        // The stream forgets the first of some 10,000 events.
        let forgot = terms.redis_lost || stage.store.events_kept().await > 9_000;
        let today = async || {
            let rang = stage.store.events("call.ringing").await;
            i64::try_from(rang.len()).unwrap()
        };
        let right = async || {
            stage.store.count("stats:active_calls").await == 0
                && stage.store.count("stats:queued_calls").await == 0
                && (forgot || stage.store.count("stats:calls_today").await == today().await)
        };
        until(STATISTICS, "right statistics", right).await;
    }

    /// Panics with whatever is not 0.
    pub fn judge(&self) {
        let findings = [
            &self.cut_off,
            &self.heard_nobody,
            &self.twice,
            &self.ghosts,
            &self.left,
            &self.faults,
        ];
        let all: Vec<_> = findings.into_iter().flatten().cloned().collect();
        let some = &all[..all.len().min(FINDINGS_SHOWN)];
        assert!(all.is_empty(), "{self}\n  {}", some.join("\n  "));
    }
}

impl std::fmt::Display for Books {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} calls: cut off {}, heard nobody {}, jobs delivered twice {}, ghost jobs {}, left {}, faults {}",
            self.calls,
            self.cut_off.len(),
            self.heard_nobody.len(),
            self.twice.len(),
            self.ghosts.len(),
            self.left.len(),
            self.faults.len()
        )
    }
}

/// Whether a worker that served this caller closed normally.
fn closed_by_worker(record: &Record, lines: &[Line]) -> bool {
    let hears = lines
        .iter()
        .find(|line| line.is("hears") && line.json["caller"] == record.index);
    hears.is_some_and(|hears| {
        lines.iter().any(|line| {
            line.is("over") && line.json["how"] == "closed" && line.call() == hears.call()
        })
    })
}
