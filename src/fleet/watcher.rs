//! Keeps the lines as the database has them while the bridge runs: what is
//! added, changed, paused or removed there is registered, registered anew or
//! unregistered; no other line and no call in progress is touched.
//!
//! A change is noticed in three ways: whoever writes through this process
//! notifies the line directory; PostgreSQL tells by NOTIFY; and every few
//! seconds the database is asked, cheaply, whether it is other than before.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::line_directory::LineDirectory;
use super::reconciler::Reading;
use super::snapshot;
use crate::store::{DatabaseMark, Store, StoreError};

/// How often PostgreSQL is asked, which tells by itself.
const POLL: Duration = Duration::from_secs(3);
/// How often SQLite is asked: that costs next to nothing, and nobody else tells.
const POLL_FILE: Duration = Duration::from_secs(1);
/// How long the first of many changes waits for the others.
const GATHER: Duration = Duration::from_millis(50);
/// Between the beginnings of two readings, however many changes there are.
const READ_EVERY: Duration = Duration::from_millis(300);
/// A database that takes longer counts as away.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Watches the database and hands each new state to the reconciler.
pub struct DatabaseWatcher {
    store: Store,
    lines: LineDirectory,
    /// To the reconciler.
    readings: mpsc::Sender<Reading>,
    poll: Duration,
    /// What the database was at the last reading.
    mark: Option<DatabaseMark>,
    is_away: bool,
}

impl DatabaseWatcher {
    /// A watcher that tells the reconciler what the database has.
    #[must_use]
    pub fn new(store: &Store, lines: &LineDirectory, readings: mpsc::Sender<Reading>) -> Self {
        Self {
            store: store.clone(),
            lines: lines.clone(),
            readings,
            poll: if store.tells() { POLL } else { POLL_FILE },
            mark: None,
            is_away: false,
        }
    }

    /// Runs until it is dropped, or the SIP engine is shut down.
    pub async fn run(mut self) {
        let (store, lines) = (self.store.clone(), self.lines.clone());
        tokio::select! {
            () = listen(&store, &lines) => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        // What changed since the start read the database is found at once.
        let mut due = true;
        loop {
            if !due {
                due = self.is_changed().await;
                continue;
            }
            let began = Instant::now();
            let read = self.refresh().await;
            self.log_availability(read.as_ref().err());
            match read {
                Ok(true) => {}
                // The reconciler has said why.
                Ok(false) => return,
                Err(_) => self.mark = None,
            }
            due = false;
            sleep_until(began + READ_EVERY).await;
        }
    }

    /// Waits for a change or the time to ask; whether there is a change.
    async fn is_changed(&mut self) -> bool {
        tokio::select! {
            () = self.lines.changed() => {
                sleep(GATHER).await;
                true
            }
            () = sleep(self.poll) => {
                let mark = answered(self.store.mark()).await;
                self.log_availability(mark.as_ref().err());
                mark.is_ok_and(|mark| self.mark.as_ref() != Some(&mark))
            }
        }
    }

    /// Reads the database, and has the lines brought to what it says. False when
    /// nobody holds lines any more.
    async fn refresh(&mut self) -> Result<bool, StoreError> {
        // Before the reading: what changes in between is found by the next look.
        let mark = answered(self.store.mark()).await?;
        let stored = answered(snapshot::read(&self.store)).await?;
        self.mark = Some(mark);
        let (taken_in, done) = oneshot::channel();
        let reading = Reading { stored, taken_in };
        let is_sent = self.readings.send(reading).await.is_ok();
        Ok(is_sent && done.await.is_ok())
    }

    /// Says once that the database is away, and once that it is back.
    fn log_availability(&mut self, failure: Option<&StoreError>) {
        match failure {
            Some(error) if !self.is_away => {
                warn!(%error, "changes of lines are not seen; the lines stay as they are");
            }
            Some(error) => debug!(%error, "the database is still away"),
            None if self.is_away => info!("the database is back"),
            None => {}
        }
        self.is_away = failure.is_some();
    }
}

async fn answered<T>(asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let answer = timeout(ANSWER_LIMIT, asking).await;
    answer.unwrap_or_else(|_| Err(StoreError::no_answer("reading lines and servers")))
}

/// Notifies of every change that PostgreSQL tells of; for SQLite it has
/// nothing to do, for ever.
async fn listen(store: &Store, lines: &LineDirectory) {
    loop {
        match store.listen().await {
            Ok(None) => std::future::pending().await,
            Ok(Some(mut listener)) => {
                debug!("listening for changes of lines");
                // What was told before nobody listened is not lost.
                lines.notify_changed();
                while listener.changed().await.is_ok() {
                    lines.notify_changed();
                }
            }
            Err(error) => debug!(%error, "cannot listen for changes of lines; polling goes on"),
        }
        sleep(POLL).await;
    }
}
