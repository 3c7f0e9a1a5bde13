//! Keeps the lines as the database has them while the bridge runs: what is
//! added, changed, paused or removed there is registered, registered anew or
//! unregistered; no other line and no call in progress is touched.
//!
//! A change is noticed in three ways: whoever writes through this process
//! rings the bell of the line book; PostgreSQL tells by NOTIFY; and every few
//! seconds the database is asked, cheaply, whether it is other than before.
//!
//! | file | what it holds |
//! |---|---|
//! | [`books`] | what is held, and what to do so that it is what there is |
//! | `apply` | doing it |

mod apply;
pub mod books;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

pub use apply::enlist;
pub use books::Books;

use super::database::{self, Stored};
use crate::bridge::context::Context;
use crate::bridge::registrar::RegistrarHandle;
use crate::config::Config;
use crate::store::{Mark, Store, StoreError};

/// How often PostgreSQL is asked, which tells by itself.
const POLL: Duration = Duration::from_secs(3);
/// How often SQLite is asked: that costs next to nothing, and nobody else tells.
const POLL_FILE: Duration = Duration::from_secs(1);
/// How long the first of many changes waits for the others.
const GATHER: Duration = Duration::from_millis(50);
/// Between the beginnings of two readings, however often the bell rings.
const READ_EVERY: Duration = Duration::from_millis(300);
/// A database that takes longer counts as away.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Passwords opened at once: 20 ms of CPU each, and whatever else has changed
/// waits meanwhile.
const OPENED_AT_ONCE: usize = 50;

/// See the module.
pub struct Keeper {
    config: Arc<Config>,
    store: Store,
    context: Arc<Context>,
    registrar: RegistrarHandle,
    /// Locked by one blocking task at a time.
    books: Arc<Mutex<Books>>,
    poll: Duration,
    /// What the database was at the last reading.
    mark: Option<Mark>,
    is_away: bool,
}

impl Keeper {
    /// A keeper of the lines that were started.
    #[must_use]
    pub fn new(
        config: &Config,
        store: &Store,
        context: &Arc<Context>,
        registrar: &RegistrarHandle,
        mut books: Books,
    ) -> Self {
        books.vaults.lines.be_gentle(OPENED_AT_ONCE);
        Self {
            config: Arc::new(config.clone()),
            store: store.clone(),
            context: context.clone(),
            registrar: registrar.clone(),
            books: Arc::new(Mutex::new(books)),
            poll: if store.tells() { POLL } else { POLL_FILE },
            mark: None,
            is_away: false,
        }
    }

    /// Runs until it is dropped, or the SIP engine is shut down.
    pub async fn run(mut self) {
        let (store, context) = (self.store.clone(), self.context.clone());
        tokio::select! {
            () = listen(&store, &context) => {}
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
            self.tell(read.as_ref().err());
            match read {
                Ok(Some(more)) => due = more,
                Ok(None) => {
                    error!("the SIP engine is gone: changes of lines are not seen any more");
                    return;
                }
                Err(_) => {
                    self.mark = None;
                    due = false;
                }
            }
            sleep_until(began + READ_EVERY).await;
        }
    }

    /// Waits for the bell or the time to ask; whether there is a change.
    async fn is_changed(&mut self) -> bool {
        tokio::select! {
            () = self.context.lines.rung() => {
                sleep(GATHER).await;
                true
            }
            () = sleep(self.poll) => {
                let mark = answered(self.store.mark()).await;
                self.tell(mark.as_ref().err());
                mark.is_ok_and(|mark| self.mark.as_ref() != Some(&mark))
            }
        }
    }

    /// Reads the database and does what is to be done. The answer is whether
    /// there is more to do at once; `None` when the engine is gone.
    async fn refresh(&mut self) -> Result<Option<bool>, StoreError> {
        // Before the reading: what changes in between is found by the next look.
        let mark = answered(self.store.mark()).await?;
        let stored: Stored = answered(database::read(&self.store)).await?;
        self.mark = Some(mark);
        let (config, books) = (self.config.clone(), self.books.clone());
        let planned = tokio::task::spawn_blocking(move || {
            let mut books = books::lock(&books);
            books.plan(&config, stored)
        });
        let plan = match planned.await {
            Ok(plan) => plan,
            Err(error) => {
                error!(%error, "the lines of the database cannot be worked out; they stay as they are");
                return Ok(Some(false));
            }
        };
        let more = plan.more;
        Ok(self.apply(plan).await.ok().map(|()| more))
    }

    /// Says once that the database is away, and once that it is back.
    fn tell(&mut self, failure: Option<&StoreError>) {
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

/// Rings the bell for every change that PostgreSQL tells of; for SQLite it has
/// nothing to do, for ever.
async fn listen(store: &Store, context: &Context) {
    loop {
        match store.listen().await {
            Ok(None) => std::future::pending().await,
            Ok(Some(mut listener)) => {
                debug!("listening for changes of lines");
                // What was told before nobody listened is not lost.
                context.lines.ring();
                while listener.changed().await.is_ok() {
                    context.lines.ring();
                }
            }
            Err(error) => debug!(%error, "cannot listen for changes of lines; polling goes on"),
        }
        sleep(POLL).await;
    }
}
