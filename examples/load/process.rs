//! What a process used so far, from /proc (proc(5)): CPU time of all of its
//! threads, its waited-for and its living children; resident memory.

use std::fs;

/// CPU ticks per second; Linux has told every program 100 for decades.
const TICKS_PER_S: f64 = 100.0;

/// A reading of one process tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system CPU time.
    pub cpu_ms: f64,
    /// Resident memory.
    pub rss_kb: u64,
    /// Threads.
    pub threads: u64,
}

impl Usage {
    /// Reads a process and its living descendants; `None` when it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let mut total = Self::alone(pid)?;
        for child in children(pid) {
            if let Some(usage) = Self::of(child) {
                total.cpu_ms += usage.cpu_ms;
                total.rss_kb += usage.rss_kb;
                total.threads += usage.threads;
            }
        }
        Some(total)
    }

    fn alone(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; fields 14 to 17 are
        // utime, stime, cutime, cstime, field 3 the first after it.
        let fields = &stat[stat.rfind(')')? + 2..];
        let ticks: f64 = fields
            .split(' ')
            .skip(11)
            .take(4)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            cpu_ms: ticks * 1_000.0 / TICKS_PER_S,
            rss_kb: status_field(&status, "VmRSS:"),
            threads: status_field(&status, "Threads:"),
        })
    }
}

fn status_field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Idle and total ticks of the whole machine, for its share of idle time.
pub fn machine_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|tick| tick.parse().ok())
        .collect();
    // Fields 4 and 5 are idle and iowait.
    (ticks.iter().skip(3).take(2).sum(), ticks.iter().sum())
}
