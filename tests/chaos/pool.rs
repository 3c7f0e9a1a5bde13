//! The worker processes of one stage: started, killed with -9, stopped, and
//! their accounts read.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::peers::Process;
use crate::harness::until;
use crate::stamp::now_ms;
use crate::worker::Orders;

/// How long a worker process may take to come up on a busy machine.
const COMES_UP: Duration = Duration::from_secs(15);

/// All worker processes that a stage ever had.
pub struct Pool {
    dir: TempDir,
    all: Vec<Member>,
}

struct Member {
    process: Process,
    log: PathBuf,
    /// Since when nobody can count on it: killed, stopped or cut off.
    gone_ms: Option<u64>,
}

/// One line of a worker's account.
#[derive(Clone, Debug)]
pub struct Line {
    pub worker: usize,
    pub at_ms: u64,
    pub json: Value,
}

impl Line {
    pub fn is(&self, what: &str) -> bool {
        self.json["what"] == what
    }

    pub fn call(&self) -> &str {
        self.json["call"].as_str().unwrap_or_default()
    }
}

impl Pool {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            all: Vec::new(),
        }
    }

    /// Starts a process and waits until it asks for jobs; its number.
    pub async fn start(&mut self, orders: &Orders) -> usize {
        let number = self.launch(orders);
        until(COMES_UP, "a worker process is up", async || {
            self.lines_of(number).iter().any(|line| line.is("ready"))
        })
        .await;
        number
    }

    /// Starts a process and waits for nothing.
    pub fn launch(&mut self, orders: &Orders) -> usize {
        let number = self.all.len();
        let log = self.dir.path().join(format!("worker-{number}.log"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["worker", &serde_json::to_string(orders).unwrap()]);
        self.all.push(Member {
            process: Process::start("worker", command, &log),
            log,
            gone_ms: None,
        });
        number
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        let member = &mut self.all[number];
        member.gone_ms.get_or_insert(now_ms());
        member.process.child.kill().unwrap();
        member.process.child.wait().unwrap();
    }

    /// SIGSTOP: its sockets stay, and say nothing any more.
    pub fn freeze(&mut self, number: usize) {
        self.cut_off(number);
        self.all[number].process.signal("STOP");
    }

    /// SIGCONT. What it does from here on counts as a ghost's doing.
    pub fn thaw(&mut self, number: usize) {
        self.all[number].process.signal("CONT");
    }

    /// From now on nobody hears of it.
    pub fn cut_off(&mut self, number: usize) {
        self.all[number].gone_ms.get_or_insert(now_ms());
    }

    /// Those that were not killed, stopped or cut off.
    pub fn alive(&self) -> Vec<usize> {
        let numbers = 0..self.all.len();
        numbers
            .filter(|number| self.all[*number].gone_ms.is_none())
            .collect()
    }

    pub fn gone_ms(&self, number: usize) -> Option<u64> {
        self.all[number].gone_ms
    }

    fn lines_of(&self, number: usize) -> Vec<Line> {
        let text = std::fs::read(&self.all[number].log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // The last line of one that was killed may be half a line.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .map(|json| Line {
                worker: number,
                at_ms: json["at"].as_u64().unwrap_or_default(),
                json,
            })
            .collect()
    }

    /// Everything that all of them wrote, in order of time.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<_> = (0..self.all.len())
            .flat_map(|number| self.lines_of(number))
            .collect();
        lines.sort_by_key(|line| line.at_ms);
        lines
    }

    /// How many lines of a kind there are.
    pub fn count(&self, what: &str) -> usize {
        self.lines().iter().filter(|line| line.is(what)).count()
    }

    /// Attaches in which a worker took over a call.
    pub fn resumed(&self) -> usize {
        let lines = self.lines();
        let resumed = lines
            .iter()
            .filter(|line| line.is("start") && line.json["resumed"] == true);
        resumed.count()
    }
}
