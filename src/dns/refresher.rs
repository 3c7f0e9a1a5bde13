//! The thread that looks names up and keeps the table fresh.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;

use super::entry::{AddressChange, Entry};
use super::lookup::{Asker, Files, LocateError, Located, Lookup};
use super::servers::Table;

/// How often it looks what is due, and whether the files changed.
const TICK: Duration = Duration::from_secs(1);
/// How many look-ups run at once.
const AT_ONCE: usize = 64;

/// Starts the thread. It ends when nobody can ask any more.
pub(super) fn start(
    files: Files,
    table: Arc<Table>,
    asked: mpsc::Receiver<Arc<Entry>>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("dns".into())
        .spawn(move || runtime.block_on(LocationRefresher::new(files, table).run(asked)))?;
    Ok(())
}

struct LocationRefresher {
    lookup: Mutex<Lookup>,
    table: Arc<Table>,
    room: Semaphore,
}

impl LocationRefresher {
    fn new(files: Files, table: Arc<Table>) -> Arc<Self> {
        Arc::new(Self {
            lookup: Mutex::new(Lookup::new(files)),
            table,
            room: Semaphore::new(AT_ONCE),
        })
    }

    async fn run(self: Arc<Self>, mut asked: mpsc::Receiver<Arc<Entry>>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = asked.recv() => match entry {
                    Some(entry) => self.begin(entry),
                    None => return,
                },
                _ = tick.tick() => self.look_after(),
            }
        }
    }

    fn look_after(self: &Arc<Self>) {
        let mut lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = lookup.refresh();
        drop(lookup);
        if changed {
            tracing::info!(
                "the name servers or the hosts file changed: servers are looked up again"
            );
            self.table.expire();
        }
        let now = Instant::now();
        for entry in self.table.to_refresh(now) {
            if entry.begin(now) {
                self.begin(entry);
            }
        }
    }

    /// Looks up an entry whose look-up was begun.
    fn begin(self: &Arc<Self>, entry: Arc<Entry>) {
        let refresher = Arc::clone(self);
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _room = refresher.room.acquire().await;
            let asker = refresher.asker();
            let found = refresher.locate(&asker, &entry).await;
            let change = refresher.table.take(&entry, &found);
            log_change(&entry, &change, &found);
        });
    }

    fn asker(&self) -> Asker {
        let lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        lookup.asker()
    }

    /// A server that SRV records name is not moved to what its bare name says
    /// because one answer was lost.
    async fn locate(&self, asker: &Asker, entry: &Entry) -> Result<Located, LocateError> {
        asker.locate(&entry.target, !entry.is_by_srv()).await
    }
}

fn log_change(entry: &Entry, change: &AddressChange, found: &Result<Located, LocateError>) {
    let server = &entry.target;
    match found {
        Err(reason) if change.moved => {
            tracing::warn!(%server, %reason, "SIP server has no address any more");
        }
        Err(reason) if change.failed && entry.is_watched() => {
            let kept = entry.addresses(Instant::now()).is_some();
            tracing::warn!(%server, %reason, kept, "SIP server cannot be looked up; addresses known before are kept");
        }
        Ok(found) if change.moved => {
            tracing::debug!(%server, addresses = ?found.addresses, srv = found.by_srv, "SIP server located");
        }
        Ok(_) if change.recovered => tracing::info!(%server, "SIP server can be looked up again"),
        _ => {}
    }
}
