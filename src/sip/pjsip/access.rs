//! Who may call: what the filters of `strangers` and the gate ask, and what
//! they count. All locks here are leaves.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::core::access::buckets::{Buckets, Rate};
use crate::core::access::cidr::Cidr;
use crate::core::access::connections::Connections;
use crate::core::access::notices::Notices;
use crate::core::access::{Accept, AccessReason, REASONS, source_of};
use crate::core::log_limiter::LogLimiter;
use crate::dns::Servers;
use crate::sip::engine::{self, Transport};

/// Requests a second that an unknown source may begin, and at once.
const STRANGER_RATE: (u32, u32) = (5, 10);
/// Of the calls a second, one of several known sources gets one part in so many.
const SOURCES_AT_FULL_RATE: u32 = 2;
/// Most calls of one known source that are answered and not acknowledged: at a
/// round trip of half a second it may bring 200 calls a second.
const KNOWN_UNACKNOWLEDGED_MAX: usize = 96;
/// Most of an unknown one.
const STRANGER_UNACKNOWLEDGED_MAX: usize = 2;
/// Most of all sources together.
const UNACKNOWLEDGED_MAX: usize = 256;
/// Sources whose count is kept though it is nothing.
const COUNTS_KEPT: usize = 1_024;
/// How often at most the log tells of a known source that is held back.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Who sent an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSource {
    /// What counts as one source.
    pub source: IpAddr,
    /// A trunk, or somebody who knows a line's token.
    pub is_known: bool,
}

/// Counts a call that is answered and not acknowledged, while it lives.
pub struct Unacknowledged([Arc<AtomicUsize>; 2]);

impl Drop for Unacknowledged {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Sources that may call, and how many lines say so.
#[derive(Debug, Default)]
struct Known {
    hosts: HashMap<IpAddr, usize>,
    networks: HashMap<Cidr, usize>,
}

impl Known {
    fn add(&mut self, network: Cidr) {
        match network.as_host() {
            Some(host) => *self.hosts.entry(host).or_default() += 1,
            None => *self.networks.entry(network).or_default() += 1,
        }
    }

    fn take(&mut self, network: Cidr) {
        fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
            let Some(count) = counts.get_mut(key) else {
                return;
            };
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
        match network.as_host() {
            Some(host) => less(&mut self.hosts, &host),
            None => less(&mut self.networks, &network),
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut networks = self.networks.keys();
        self.hosts.contains_key(&address) || networks.any(|network| network.contains(address))
    }

    /// Whether there are several sources, with the addresses of servers.
    fn is_several(&self, servers: Option<&Servers>) -> bool {
        let is_server = |host: &IpAddr| servers.is_some_and(|servers| servers.contains(*host));
        let others = self.hosts.keys().filter(|host| !is_server(host)).count();
        let addresses = servers.map_or(0, Servers::count);
        !self.networks.is_empty() || others + addresses > 1
    }
}

/// Sources that may call while this is held.
pub struct Permit {
    known: Arc<RwLock<Known>>,
    networks: Vec<Cidr>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for network in self.networks.drain(..) {
            known.take(network);
        }
    }
}

/// Who may call: known sources, their rates, and what is counted of the others.
#[derive(Default)]
pub struct AccessControl {
    rules: RwLock<Rules>,
    known: Arc<RwLock<Known>>,
    connections: Mutex<Connections>,
    notices: Mutex<Notices>,
    rates: Mutex<Buckets>,
    unacknowledged: Mutex<HashMap<IpAddr, Arc<AtomicUsize>>>,
    unacknowledged_in_all: Arc<AtomicUsize>,
    dropped: [AtomicU64; REASONS.len()],
    held_back: Mutex<Option<LogLimiter>>,
}

#[derive(Default)]
struct Rules {
    accept: Accept,
    calls_per_second: u32,
    /// Where the lines' servers are.
    servers: Option<Servers>,
    /// Of `--allow-from`.
    _allowed: Option<Permit>,
}

impl AccessControl {
    /// Sets the rules of a run.
    pub fn begin(&self, access: &engine::Access, servers: Option<Servers>) {
        let rules = Rules {
            servers,
            accept: access.accept,
            calls_per_second: access.calls_per_second,
            _allowed: Some(self.permit(access.allow_from.clone())),
        };
        let mut held = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *held, rules);
        drop(held);
        drop(before);
    }

    /// Lets these networks call, while the answer is held.
    pub fn permit(&self, networks: Vec<Cidr>) -> Permit {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        networks.iter().for_each(|network| known.add(*network));
        drop(known);
        Permit {
            known: Arc::clone(&self.known),
            networks,
        }
    }

    /// Whether a source is a trunk: of a network that may call, or an address of
    /// a line's server.
    pub fn is_known(&self, address: IpAddr) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(address) {
            return true;
        }
        drop(known);
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let servers = rules.servers.as_ref();
        servers.is_some_and(|servers| servers.contains(address))
    }

    /// Whether strangers are heard at all.
    pub fn hears_anybody(&self) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.accept == Accept::Any
    }

    /// Whether a source may begin one more request now, and have one more call
    /// that is not acknowledged.
    ///
    /// # Errors
    /// Why not. It is counted.
    pub fn judge_begin(&self, now: Instant, caller: CallSource) -> Result<(), AccessReason> {
        let rate = self.rate_of(caller);
        let has_rate = rate.is_none_or(|rate| {
            let mut rates = lock(&self.rates);
            rates.take(now, caller.source, rate)
        });
        let decision = match has_rate {
            false => Err(AccessReason::SourceRate),
            true => self.judge_unacknowledged(caller),
        };
        decision.inspect_err(|reason| self.count(*reason))
    }

    fn rate_of(&self, caller: CallSource) -> Option<Rate> {
        if !caller.is_known {
            return Some(Rate::per_second(STRANGER_RATE.0, STRANGER_RATE.1));
        }
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let most = rules.calls_per_second;
        let servers = rules.servers.clone();
        drop(rules);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // One trunk alone need not share.
        let share = most.div_ceil(SOURCES_AT_FULL_RATE);
        (most > 0 && known.is_several(servers.as_ref())).then(|| Rate::per_second(share, share))
    }

    fn judge_unacknowledged(&self, caller: CallSource) -> Result<(), AccessReason> {
        let of_source = lock(&self.unacknowledged)
            .get(&caller.source)
            .map_or(0, |count| count.load(Ordering::Relaxed));
        let most = if caller.is_known {
            KNOWN_UNACKNOWLEDGED_MAX
        } else {
            STRANGER_UNACKNOWLEDGED_MAX
        };
        let in_all = self.unacknowledged_in_all.load(Ordering::Relaxed);
        if of_source >= most || in_all >= UNACKNOWLEDGED_MAX {
            return Err(AccessReason::Unacknowledged);
        }
        Ok(())
    }

    /// Counts a call of a source that is answered, until the answer is dropped.
    pub fn note_unacknowledged(&self, caller: CallSource) -> Unacknowledged {
        let mut counts = lock(&self.unacknowledged);
        if counts.len() >= COUNTS_KEPT {
            counts.retain(|_, count| count.load(Ordering::Relaxed) > 0);
        }
        let of_source = counts.entry(caller.source).or_default().clone();
        drop(counts);
        let held = [of_source, Arc::clone(&self.unacknowledged_in_all)];
        for count in &held {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Unacknowledged(held)
    }

    /// The open connections that others made.
    pub fn connections(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }

    /// Counts something that was not taken.
    pub fn count(&self, reason: AccessReason) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How much was not taken, by reason.
    pub fn dropped(&self) -> [u64; REASONS.len()] {
        std::array::from_fn(|at| self.dropped[at].load(Ordering::Relaxed))
    }

    /// Counts what a stranger sent and was dropped, and tells of it, seldom.
    /// Firewalls read this line: its form is in [`crate::guide::operating`].
    pub fn drop_stranger(&self, address: IpAddr, transport: Transport, reason: AccessReason) {
        self.count(reason);
        let said = lock(&self.notices).count(Instant::now(), source_of(address));
        let Some(count) = said else {
            return;
        };
        tracing::warn!(
            target: "sipbridge::strangers",
            source = %address.to_canonical(),
            %reason,
            %transport,
            count,
            "SIP of a stranger dropped"
        );
    }

    /// Tells, seldom, that calls of a trunk are refused for their source.
    pub fn tell_held_back(&self, caller: CallSource, reason: AccessReason) {
        let due = lock(&self.held_back)
            .get_or_insert(LogLimiter::new(SAID_EVERY))
            .count(Instant::now());
        if let Some(calls) = due {
            tracing::warn!(
                calls,
                from = %caller.source,
                %reason,
                "calls of a SIP server are refused: it brings too many at once"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::access::contact_key::ContactKey;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn access(accept: Accept, calls_per_second: u32, networks: &str) -> AccessControl {
        let access = AccessControl::default();
        let rules = engine::Access {
            accept,
            allow_from: crate::core::access::cidr::parse_list(networks).expect("networks"),
            contact_key: ContactKey::random(),
            calls_per_second,
        };
        access.begin(&rules, None);
        access
    }

    fn begun(access: &AccessControl, caller: CallSource, tries: u32) -> usize {
        let now = Instant::now();
        let may = |_: &u32| access.judge_begin(now, caller).is_ok();
        (0..tries).filter(may).count()
    }

    #[test]
    fn a_source_is_known_while_a_line_says_so() {
        let access = access(Accept::Trunks, 0, "198.51.100.0/24");
        assert!(access.is_known(ip("198.51.100.9")) && !access.hears_anybody());
        let one = access.permit(vec![Cidr::host(ip("192.0.2.1"))]);
        let two = access.permit(vec![Cidr::host(ip("192.0.2.1"))]);
        drop(one);
        assert!(access.is_known(ip("::ffff:192.0.2.1")));
        drop(two);
        assert!(!access.is_known(ip("192.0.2.1")));
        assert!(access.is_known(ip("198.51.100.9")));
    }

    #[test]
    fn one_trunk_of_several_gets_half_of_the_rate_and_one_alone_all() {
        let trunk = |text| CallSource {
            source: ip(text),
            is_known: true,
        };
        let alone = access(Accept::Trunks, 100, "192.0.2.1");
        assert_eq!(begun(&alone, trunk("192.0.2.1"), 300), 300);
        let two = access(Accept::Trunks, 100, "192.0.2.1, 192.0.2.2");
        assert_eq!(begun(&two, trunk("192.0.2.1"), 300), 50);
        assert_eq!(begun(&two, trunk("192.0.2.2"), 20), 20);
        let free = access(Accept::Trunks, 0, "192.0.2.1, 192.0.2.2");
        assert_eq!(begun(&free, trunk("192.0.2.1"), 300), 300);
    }

    #[test]
    fn a_stranger_begins_little_and_holds_less() {
        let access = access(Accept::Any, 0, "");
        let stranger = CallSource {
            source: ip("203.0.113.5"),
            is_known: false,
        };
        let held: Vec<_> = (0..STRANGER_UNACKNOWLEDGED_MAX)
            .map(|_| access.note_unacknowledged(stranger))
            .collect();
        let now = Instant::now();
        let decision = access.judge_begin(now, stranger);
        assert_eq!(decision, Err(AccessReason::Unacknowledged));
        drop(held);
        let (_, burst) = STRANGER_RATE;
        assert_eq!(begun(&access, stranger, 300), burst as usize - 1);
        assert_eq!(
            access.judge_begin(now, stranger),
            Err(AccessReason::SourceRate)
        );
        let other = CallSource {
            source: ip("203.0.113.6"),
            ..stranger
        };
        assert_eq!(access.judge_begin(now, other), Ok(()));
        let dropped = access.dropped();
        assert_eq!(dropped[AccessReason::Unacknowledged as usize], 1);
        assert!(dropped[AccessReason::SourceRate as usize] > 200);
    }

    #[test]
    fn all_together_hold_so_many_unacknowledged_and_no_more() {
        let access = access(Accept::Trunks, 0, "0.0.0.0/0");
        let trunk = |number: u32| CallSource {
            source: IpAddr::from(number.to_be_bytes()),
            is_known: true,
        };
        let hold = |number| access.note_unacknowledged(trunk(number));
        let held: Vec<_> = (0..UNACKNOWLEDGED_MAX as u32).map(hold).collect();
        let now = Instant::now();
        let decision = access.judge_begin(now, trunk(5_000));
        assert_eq!(decision, Err(AccessReason::Unacknowledged));
        drop(held);
        assert_eq!(access.judge_begin(now, trunk(5_000)), Ok(()));
    }
}
