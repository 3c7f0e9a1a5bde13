//! What stands between those who log and whoever reads the log: a bounded
//! queue and one thread that writes.
//!
//! The reader of standard error may stop reading (a stuck supervisor, a full disk behind a
//! pipe). No thread but the writing one waits for it. The policy once the queue is full: what waits stays,
//! new lines are dropped and counted; the last quarter of the room is kept for WARN, ERROR and the audit.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Most that waits, beside as much that is being written.
const ROOM_BYTES: usize = 1 << 20;
/// What lines of little weight may fill of it.
const ROOM_LIGHT_BYTES: usize = ROOM_BYTES / 4 * 3;
/// Pause before a reader that takes nothing without blocking is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Whether a line may use the room that is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// INFO and below.
    Light,
    /// WARN, ERROR and the audit.
    Heavy,
}

/// Lines on their way to the reader of the log.
#[derive(Debug)]
pub struct LogQueue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    is_writing: bool,
    /// Lines dropped since it was said last.
    unsaid: u64,
}

impl LogQueue {
    /// Nothing waits.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a static of which there is one")]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: Vec::new(),
                is_writing: false,
                unsaid: 0,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Leaves a line. Never waits for the reader.
    pub fn push(&self, line: &[u8], weight: Weight) {
        let room = match weight {
            Weight::Light => ROOM_LIGHT_BYTES,
            Weight::Heavy => ROOM_BYTES,
        };
        let mut state = self.state();
        if state.waiting.len() + line.len() > room {
            state.unsaid += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        self.filled.notify_one();
    }

    /// Lines that nobody will read, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, for so long at most; whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let unwritten = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let waited = self
            .emptied
            .wait_timeout_while(self.state(), limit, unwritten);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes what comes, for ever. `tell` hears how many lines were dropped
    /// once the reader takes lines again.
    pub fn write_to(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut batch = Vec::new();
        loop {
            let dropped = self.take(&mut batch);
            if write_all(&mut out, &batch).is_err() {
                let lost = batch.iter().filter(|byte| **byte == b'\n').count();
                let lost = u64::try_from(lost).unwrap_or(u64::MAX);
                self.dropped.fetch_add(lost, Ordering::Relaxed);
            } else if dropped > 0 {
                // It becomes a line of the log itself, and there is room again.
                tell(dropped);
            }
            batch.clear();
            batch.shrink_to(ROOM_BYTES / 16);
            self.written();
        }
    }

    /// Waits for lines and takes them all.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let nothing = |state: &mut State| state.waiting.is_empty();
        let state = self.filled.wait_while(self.state(), nothing);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, batch);
        state.is_writing = true;
        std::mem::take(&mut state.unsaid)
    }

    fn written(&self) {
        self.state().is_writing = false;
        self.emptied.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the standard library's, but it waits where standard error is one that
/// does not block: whoever shares it with us may have made it so.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_reader_that_stops_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = Arc::new(LogQueue::new());
        thread::spawn({
            let (queue, told) = (queue.clone(), queue.clone());
            move || {
                queue.write_to(writer, |n| {
                    told.push(format!("dropped {n}\n").as_bytes(), Weight::Heavy);
                });
            }
        });
        let line = [b'x'; 99];
        let line = [&line[..], b"\n"].concat();
        let lines = 3 * ROOM_BYTES / line.len();
        (0..lines).for_each(|_| queue.push(&line, Weight::Light));
        queue.push(b"an error\n", Weight::Heavy);
        let dropped = queue.dropped();
        assert!(dropped > 0);
        assert!(!queue.flush(Duration::from_millis(50)), "nobody reads");

        let mut read = BufReader::new(reader).lines().map(Result::unwrap);
        let before = read.by_ref().take_while(|line| line != "an error").count();
        assert_eq!(u64::try_from(lines - before).unwrap(), dropped);
        // The reader may have kept up for a moment in between: each time that
        // it is back, what was lost until then is told.
        let mut told = 0;
        while told < dropped {
            let line = read.next().unwrap();
            told += line
                .strip_prefix("dropped ")
                .unwrap()
                .parse::<u64>()
                .unwrap();
        }
        assert_eq!(told, dropped);
        assert!(queue.flush(Duration::from_secs(5)));
    }

    #[test]
    fn a_reader_that_is_gone_is_counted() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = Arc::new(LogQueue::new());
        queue.push(b"one\ntwo\n", Weight::Light);
        thread::spawn({
            let queue = queue.clone();
            move || queue.write_to(writer, |_| ())
        });
        assert!(queue.flush(Duration::from_secs(5)));
        assert_eq!(queue.dropped(), 2);
    }
}
