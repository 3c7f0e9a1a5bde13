//! One target of the table: what is known of it, who waits for it, and when
//! it is asked for again.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lookup::{LocateError, Located};
use super::target::Target;

/// A target is asked for again at least this often …
const REFRESH_MAX: Duration = Duration::from_secs(300);
/// … and at most this often, whatever its TTL.
const REFRESH_MIN: Duration = Duration::from_secs(5);
/// When it is asked for again after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// Addresses that name servers no longer know hold so long after the last
/// good answer: a zone that is empty by mistake takes no line down.
const DENIED_AFTER: Duration = Duration::from_secs(3_600);
/// How many wait for one target.
const WAITERS_MAX: usize = 8_192;

/// Is told the outcome, once.
pub(super) type Waiter = Box<dyn FnOnce(Result<Vec<SocketAddr>, LocateError>) + Send>;

/// What is known of where one server is, and until when that holds.
pub(super) struct Entry {
    pub target: Target,
    state: Mutex<State>,
}

struct State {
    watchers: usize,
    known: Known,
    asking: bool,
    waiters: Vec<Waiter>,
}

/// What is known of a target.
#[derive(Default)]
struct Known {
    located: Option<Located>,
    /// Of the last good answer.
    good_at: Option<Instant>,
    /// When to ask again; at once where it was never asked.
    due: Option<Instant>,
    /// Whether the last answer was a failure.
    failing: bool,
}

/// What an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AddressChange {
    /// Other addresses than before, or another order of them.
    pub moved: bool,
    /// It failed, and did not before.
    pub failed: bool,
    /// It is there again.
    pub recovered: bool,
}

impl Known {
    /// Takes the outcome of a look-up.
    fn take(&mut self, found: &Result<Located, LocateError>, now: Instant) -> AddressChange {
        let was_failing = self.failing;
        self.failing = found.is_err();
        let mut change = AddressChange {
            failed: self.failing && !was_failing,
            recovered: was_failing && !self.failing,
            moved: false,
        };
        match found {
            Ok(found) => {
                let valid = found.valid_until.saturating_duration_since(now);
                self.due = Some(now + valid.clamp(REFRESH_MIN, REFRESH_MAX));
                self.good_at = Some(now);
                // A draw of lots each time would move lines about for nothing.
                if !self.has_same(found) {
                    change.moved = true;
                    self.located = Some(found.clone());
                }
            }
            Err(error) => {
                self.due = Some(now + RETRY);
                let is_old = self.good_at.is_none_or(|at| now >= at + DENIED_AFTER);
                if error.is_definite() && is_old && self.located.take().is_some() {
                    change.moved = true;
                }
            }
        }
        change
    }

    fn has_same(&self, found: &Located) -> bool {
        let sorted = |addresses: &[SocketAddr]| {
            let mut addresses = addresses.to_vec();
            addresses.sort();
            addresses
        };
        self.located
            .as_ref()
            .is_some_and(|known| sorted(&known.addresses) == sorted(&found.addresses))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }
}

impl Entry {
    /// Of an address all is known.
    pub fn new(target: Target) -> Self {
        let located = target.numeric().map(|address| Located {
            addresses: vec![address],
            by_srv: false,
            valid_until: Instant::now(),
        });
        let known = Known {
            located,
            ..Known::default()
        };
        Self {
            target,
            state: Mutex::new(State {
                watchers: 0,
                known,
                asking: false,
                waiters: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a watcher.
    pub fn watch(&self) {
        self.state().watchers += 1;
    }

    /// Counts one less.
    pub fn unwatch(&self) {
        self.state().watchers -= 1;
    }

    pub fn is_watched(&self) -> bool {
        self.state().watchers > 0
    }

    /// Whether somebody needs it.
    pub fn is_wanted(&self, now: Instant) -> bool {
        let state = self.state();
        state.watchers > 0 || state.asking || !state.known.is_due(now)
    }

    /// Begins a look-up where one is due and none is under way.
    pub fn begin(&self, now: Instant) -> bool {
        let mut state = self.state();
        let begins = self.target.numeric().is_none() && !state.asking && state.known.is_due(now);
        state.asking |= begins;
        begins
    }

    /// Makes a look-up due.
    pub fn expire(&self) {
        self.state().known.due = None;
    }

    /// Leaves word; `false`, and the waiter is told so, where too many wait.
    pub fn wait(&self, waiter: Waiter) -> bool {
        let mut state = self.state();
        if state.waiters.len() < WAITERS_MAX {
            state.waiters.push(waiter);
            return true;
        }
        drop(state);
        waiter(Err(LocateError::TooMany));
        false
    }

    /// Takes the outcome of a look-up.
    pub fn take(&self, found: &Result<Located, LocateError>, now: Instant) -> AddressChange {
        let mut state = self.state();
        state.asking = false;
        state.known.take(found, now)
    }

    /// Tells who waits for the outcome that was taken.
    pub fn tell_waiters(&self, found: &Result<Located, LocateError>) {
        let mut state = self.state();
        let known = state.known.located.as_ref();
        let told = match (known, found) {
            (Some(known), _) => Ok(known.addresses.clone()),
            (None, Err(error)) => Err(error.clone()),
            (None, Ok(_)) => Err(LocateError::NoAddress),
        };
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        for waiter in waiters {
            waiter(told.clone());
        }
    }

    /// Whether SRV records say where it is.
    pub fn is_by_srv(&self) -> bool {
        let state = self.state();
        state
            .known
            .located
            .as_ref()
            .is_some_and(|known| known.by_srv)
    }

    /// What is known and may be used: of a watched target also what is being
    /// asked for again.
    pub fn addresses(&self, now: Instant) -> Option<Vec<SocketAddr>> {
        let state = self.state();
        let is_fresh = state.watchers > 0 || !state.known.is_due(now);
        let located = state.known.located.as_ref().filter(|_| is_fresh)?;
        Some(located.addresses.clone())
    }

    /// Its addresses while it is watched, else none.
    pub fn watched_ips(&self) -> Vec<IpAddr> {
        match self.is_watched() {
            true => self.ips(),
            false => Vec::new(),
        }
    }

    /// Its addresses without ports.
    pub fn ips(&self) -> Vec<IpAddr> {
        let state = self.state();
        let located = state.known.located.as_ref();
        let addresses = located.map_or(&[][..], |located| &located.addresses);
        let mut ips: Vec<IpAddr> = addresses.iter().map(|a| a.ip().to_canonical()).collect();
        ips.sort();
        ips.dedup();
        ips
    }

    pub fn has_ip(&self, ip: IpAddr) -> bool {
        let state = self.state();
        let located = state.known.located.as_ref();
        located.is_some_and(|l| l.addresses.iter().any(|a| a.ip().to_canonical() == ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(addresses: &[&str], valid_until: Instant) -> Result<Located, LocateError> {
        Ok(Located {
            addresses: addresses.iter().map(|a| a.parse().expect(a)).collect(),
            by_srv: true,
            valid_until,
        })
    }

    #[test]
    fn a_ttl_says_when_to_ask_again_within_bounds() {
        let now = Instant::now();
        for (ttl_s, due_s) in [(0, 5), (60, 60), (86_400, 300)] {
            let mut known = Known::default();
            assert!(known.is_due(now));
            let found = located(&["10.0.0.1:5060"], now + Duration::from_secs(ttl_s));
            assert!(known.take(&found, now).moved);
            let due = Duration::from_secs(due_s);
            assert!(
                !known.is_due(now + due - Duration::from_millis(1)),
                "{ttl_s}"
            );
            assert!(known.is_due(now + due), "{ttl_s}");
        }
    }

    #[test]
    fn the_same_addresses_in_another_order_move_nothing() {
        let now = Instant::now();
        let mut known = Known::default();
        known.take(&located(&["10.0.0.1:5060", "10.0.0.2:5060"], now), now);
        let change = known.take(&located(&["10.0.0.2:5060", "10.0.0.1:5060"], now), now);
        assert_eq!(change, AddressChange::default());
        let first = known.located.as_ref().map(|known| known.addresses[0]);
        assert_eq!(first, "10.0.0.1:5060".parse().ok());
        assert!(known.take(&located(&["10.0.0.2:5060"], now), now).moved);
    }

    #[test]
    fn what_was_known_outlives_name_servers_that_are_away() {
        let now = Instant::now();
        let away = Err(LocateError::NoAnswer("x".into()));
        let gone = Err(LocateError::NoAddress);
        let mut known = Known::default();
        known.take(&located(&["10.0.0.1:5060"], now), now);
        let change = known.take(&away, now + DENIED_AFTER * 9);
        assert!(change.failed && !change.moved && known.located.is_some());
        // A denial counts only when it has stood for long.
        let mut known = Known::default();
        known.take(&located(&["10.0.0.1:5060"], now), now);
        assert!(!known.take(&gone, now + RETRY).moved);
        assert!(known.take(&gone, now + DENIED_AFTER).moved);
        assert!(known.located.is_none());
        assert!(known.take(&located(&["10.0.0.1:5060"], now), now).recovered);
    }

    #[test]
    fn who_waits_is_told_once_and_nobody_watched_is_kept() {
        let entry = Entry::new(
            Target::parse("x.example", crate::core::address::Transport::Udp).expect("host"),
        );
        let now = Instant::now();
        let (sender, told) = std::sync::mpsc::sync_channel(4);
        assert!(entry.wait(Box::new(move |found| sender.send(found).expect("read"))));
        assert!(entry.begin(now) && !entry.begin(now));
        let found = located(&["10.0.0.1:5060"], now);
        entry.take(&found, now);
        entry.tell_waiters(&found);
        assert_eq!(
            told.try_recv().expect("told"),
            Ok(vec!["10.0.0.1:5060".parse().expect("address")])
        );
        assert!(told.try_recv().is_err());
        entry.watch();
        entry.watch();
        entry.unwatch();
        assert!(entry.is_watched() && !entry.watched_ips().is_empty());
        entry.unwatch();
        assert!(!entry.is_watched() && entry.watched_ips().is_empty());
        let later = now + REFRESH_MAX * 2;
        assert!(entry.addresses(later).is_none() && !entry.is_wanted(later));
        entry.watch();
        assert!(entry.addresses(later).is_some() && entry.begin(later));
    }
}
