//! Passwords on their way from sealed to open: a bounded number at a time, each on a
//! blocking thread, and handed over in the order in which they were begun.
//! While calls are in progress the threads step back behind them.

use std::collections::VecDeque;
use std::num::NonZero;
use std::thread;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::sealed::SealedPassword;
use crate::core::key::MasterKey;
use crate::lines::credential_cache::{Opened, gently};
use crate::lines::credentials::Credential;

/// A password, and what it came to.
pub type Decrypted = (SealedPassword, Opened);

/// Begins to decrypt a password: about 20 ms of CPU.
pub fn begin(
    key: Option<MasterKey>,
    password: SealedPassword,
    beside_calls: bool,
) -> JoinHandle<Decrypted> {
    spawn_blocking(move || {
        let sealed = password.clone();
        let open = move || {
            let line = sealed.line.as_str();
            Credential::open(key.as_ref(), line, Some(&sealed.stored))
        };
        let opened = if beside_calls { gently(open) } else { open() };
        (password, opened)
    })
}

/// As many as there are processors.
pub fn at_once() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Work that is being done, in the order in which it was begun.
#[derive(Debug)]
pub struct InTurn<T> {
    begun: VecDeque<JoinHandle<T>>,
    most: usize,
}

impl<T> InTurn<T> {
    /// Does so many at a time.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            begun: VecDeque::new(),
            most,
        }
    }

    /// Begins what is given, as long as there is room for more.
    pub fn fill(&mut self, mut begin: impl FnMut() -> Option<JoinHandle<T>>) {
        while self.begun.len() < self.most {
            let Some(task) = begin() else { return };
            self.begun.push_back(task);
        }
    }

    /// Waits for what was begun first; for ever where there is nothing. Dropped
    /// half way, nothing is lost.
    pub async fn next(&mut self) -> Result<T, JoinError> {
        let Some(first) = self.begun.front_mut() else {
            return std::future::pending().await;
        };
        let done = first.await;
        self.begun.pop_front();
        done
    }

    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::time::{Instant, sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn results_come_in_the_order_of_the_beginnings_and_few_are_under_way() {
        let mut in_turn = InTurn::new(3);
        let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut waiting: VecDeque<u64> = (0..20).collect();
        let mut begin = || {
            let number = waiting.pop_front()?;
            let (under_way, most) = (under_way.clone(), most.clone());
            Some(tokio::spawn(async move {
                most.fetch_max(
                    under_way.fetch_add(1, Ordering::SeqCst) + 1,
                    Ordering::SeqCst,
                );
                // The later ones of each three are done sooner.
                sleep(Duration::from_millis(40 - 10 * (number % 3))).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                number
            }))
        };
        let mut results = Vec::new();
        loop {
            in_turn.fill(&mut begin);
            if in_turn.is_empty() {
                break;
            }
            // What is dropped half way is not lost.
            let early = timeout(Duration::from_millis(1), in_turn.next()).await;
            let done = match early {
                Ok(done) => done,
                Err(_) => in_turn.next().await,
            };
            results.push(done.expect("it ends"));
        }
        assert_eq!(results, (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_is_begun_nothing_comes() {
        let started = Instant::now();
        let mut none = InTurn::<()>::new(1);
        none.fill(|| None);
        let waited = timeout(Duration::from_secs(60), none.next()).await;
        assert!(waited.is_err() && started.elapsed() == Duration::from_secs(60));
    }
}
