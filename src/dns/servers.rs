//! [`Servers`]: the table of located servers, kept fresh by a thread of its
//! own. Whoever must not wait, as pjsip's threads, reads what is known.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::mpsc;

use super::entry::{AddressChange, Entry, Waiter};
use super::failures::Failures;
use super::lookup::{Files, LocateError, Located};
use super::refresher;
use super::target::Target;

/// How many look-ups wait for the thread.
const ASKED_MAX: usize = 8_192;
/// How many targets are kept that no line has: destinations of calls.
const UNWATCHED_MAX: usize = 4_096;

/// The addresses of SIP servers, by name and transport. Cheap to clone; the
/// thread ends with the last clone and the last [`Watched`].
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    table: Arc<Table>,
    asked: mpsc::Sender<Arc<Entry>>,
}

/// What the thread and the readers share. No lock of it is held while
/// anything else is called.
#[derive(Default)]
pub(super) struct Table {
    entries: RwLock<HashMap<Target, Arc<Entry>>>,
    failures: Mutex<Failures>,
    /// The addresses of all watched targets, and of how many each. Who is
    /// watched, and the addresses of who is, change under this lock.
    watched: RwLock<HashMap<IpAddr, usize>>,
}

/// The server of a line, located for as long as this lives.
#[derive(Clone)]
pub struct Watched(Arc<Watch>);

struct Watch {
    entry: Arc<Entry>,
    servers: Servers,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Servers")
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watched({})", self.0.entry.target)
    }
}

impl Servers {
    /// Starts the thread that looks names up.
    ///
    /// # Errors
    /// When the system refuses a thread, or what its runtime needs.
    pub fn start(files: Files) -> std::io::Result<Self> {
        let (asked, received) = mpsc::channel(ASKED_MAX);
        let table = Arc::new(Table::default());
        refresher::start(files, Arc::clone(&table), received)?;
        Ok(Self(Arc::new(Inner { table, asked })))
    }

    /// Keeps a target located from now on, until the answer is dropped.
    #[must_use]
    pub fn watch(&self, target: &Target) -> Watched {
        let entry = self.0.table.entry(target);
        self.0.table.change(&entry, Entry::watch);
        self.ask(&entry);
        Watched(Arc::new(Watch {
            entry,
            servers: self.clone(),
        }))
    }

    /// The addresses of a target as far as they are known, without waiting.
    #[must_use]
    pub fn addresses(&self, target: &Target) -> Vec<IpAddr> {
        let entry = self.0.table.get(target);
        entry.map(|entry| entry.ips()).unwrap_or_default()
    }

    /// How many addresses belong to servers of lines.
    #[must_use]
    pub fn count(&self) -> usize {
        let watched = &self.0.table.watched;
        watched.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether an address belongs to the server of any line.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let watched = &self.0.table.watched;
        let watched = watched.read().unwrap_or_else(PoisonError::into_inner);
        watched.contains_key(&ip.to_canonical())
    }

    /// Where to send, in the order to try, without waiting: `None` where it
    /// has to be looked up first. Addresses that failed lately come last.
    #[must_use]
    pub fn known(&self, target: &Target) -> Option<Vec<SocketAddr>> {
        if let Some(address) = target.numeric() {
            return Some(vec![address]);
        }
        let now = Instant::now();
        let addresses = self.0.table.get(target)?.addresses(now)?;
        Some(self.0.table.failures().order(addresses, now))
    }

    /// The same for who can be called back, once: at once where it is known,
    /// else from the thread that looks names up. `then` must not block.
    pub fn locate(
        &self,
        target: &Target,
        then: impl FnOnce(Result<Vec<SocketAddr>, LocateError>) + Send + 'static,
    ) {
        if let Some(known) = self.known(target) {
            return then(Ok(known));
        }
        let table = Arc::clone(&self.0.table);
        let waiter: Waiter = Box::new(move |found| {
            then(found.map(|found| table.failures().order(found, Instant::now())));
        });
        if !self.0.table.has_room(target) {
            return waiter(Err(LocateError::TooMany));
        }
        let entry = self.0.table.entry(target);
        if entry.wait(waiter) {
            entry.expire();
            self.ask(&entry);
        }
    }

    /// Waits for the addresses of a target.
    ///
    /// # Errors
    /// When it cannot be located.
    pub async fn find(&self, target: &Target) -> Result<Vec<SocketAddr>, LocateError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // Who no longer waits for it needs no answer.
        self.locate(target, |found| drop(sender.send(found)));
        receiver.await.unwrap_or(Err(LocateError::TooMany))
    }

    /// Says that a server did not answer, or answered 503: it is tried last
    /// for a while. Whether that is news.
    pub fn note_failure(&self, address: SocketAddr) -> bool {
        self.0.table.failures().note(address, Instant::now())
    }

    /// Says that a server answered.
    pub fn note_answer(&self, address: SocketAddr) {
        self.0.table.failures().forget(address);
    }

    /// Has an entry looked up; who waits for it is told when there is no room.
    fn ask(&self, entry: &Arc<Entry>) {
        let now = Instant::now();
        if entry.begin(now) && self.0.asked.try_send(Arc::clone(entry)).is_err() {
            self.0.table.take(entry, &Err(LocateError::TooMany));
        }
    }
}

impl Watched {
    /// Its addresses as far as they are known.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.0.entry.ips()
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.entry.has_ip(ip.to_canonical())
    }

    /// Whether it is to be reached at this address and port.
    #[must_use]
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let known = self.0.entry.addresses(Instant::now());
        known.is_some_and(|known| known.contains(&address))
    }

    /// What is watched.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.0.entry.target
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.servers.0.table.change(&self.entry, Entry::unwatch);
    }
}

impl Table {
    fn get(&self, target: &Target) -> Option<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(target).cloned()
    }

    fn entry(&self, target: &Target) -> Arc<Entry> {
        if let Some(entry) = self.get(target) {
            return entry;
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Entry::new(target.clone()));
        Arc::clone(entries.entry(target.clone()).or_insert_with(new))
    }

    /// Whether one more target may be looked up that no line has.
    fn has_room(&self, target: &Target) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let unwatched = || entries.values().filter(|entry| !entry.is_watched()).count();
        entries.contains_key(target) || entries.len() < UNWATCHED_MAX || unwatched() < UNWATCHED_MAX
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are kept fresh; what nobody needs is forgotten.
    pub(super) fn to_refresh(&self, now: Instant) -> Vec<Arc<Entry>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.is_wanted(now) || Arc::strong_count(entry) > 1);
        let watched = entries.values().filter(|entry| entry.is_watched());
        watched.cloned().collect()
    }

    /// Makes all that are watched due, because other name servers are asked.
    pub(super) fn expire(&self) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().for_each(|entry| entry.expire());
    }

    /// Takes the outcome of a look-up and tells who waits for it.
    pub(super) fn take(
        &self,
        entry: &Entry,
        found: &Result<Located, LocateError>,
    ) -> AddressChange {
        let now = Instant::now();
        let change = self.change(entry, |entry| entry.take(found, now));
        entry.tell_waiters(found);
        change
    }

    /// Changes an entry, and keeps count of the addresses of who is watched.
    fn change<T>(&self, entry: &Entry, change: impl FnOnce(&Entry) -> T) -> T {
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        let before = entry.watched_ips();
        let changed = change(entry);
        let after = entry.watched_ips();
        for ip in after {
            *watched.entry(ip).or_default() += 1;
        }
        for ip in before {
            if let Some(count) = watched.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    watched.remove(&ip);
                }
            }
        }
        changed
    }
}
