//! What the system says of this process, from `/proc/self`. What cannot be
//! read is absent.

use std::fs;

/// Ticks of CPU time in a second, as `/proc` counts them on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Facts of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Seconds of CPU, user and system.
    pub(super) cpu_seconds: Option<f64>,
    /// Bytes of memory in use.
    pub(super) resident_bytes: Option<u64>,
    /// Threads.
    pub(super) threads: Option<u64>,
    /// File descriptors in use.
    pub(super) open_fds: Option<u64>,
    /// And the most that are possible.
    pub(super) max_fds: Option<u64>,
}

impl Process {
    /// Reads them: some small files that the kernel makes up at once, and a
    /// folder with an entry for each file descriptor.
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let fds = fs::read_dir("/proc/self/fd").ok();
        Self {
            cpu_seconds: cpu_seconds(&fs::read_to_string("/proc/self/stat").unwrap_or_default()),
            resident_bytes: after(&status, "VmRSS:").map(|kib| kib * 1_024),
            threads: after(&status, "Threads:"),
            // Without the one that reads the folder.
            open_fds: fds.and_then(|fds| u64::try_from(fds.count()).ok()?.checked_sub(1)),
            max_fds: after(&limits, "Max open files"),
        }
    }
}

/// Fields 14 and 15; the name in field 2 may hold anything but ends at the last `)`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// The first number after a word.
fn after(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let process = Process::read();
        assert!(process.cpu_seconds.is_some_and(|seconds| seconds >= 0.0));
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(process.threads.is_some_and(|threads| threads > 0));
        assert!(process.open_fds.is_some_and(|fds| fds >= 3));
        assert!(process.max_fds > process.open_fds);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }
}
