//! Servers that failed lately: they are tried last for a while (RFC 3263 4.3).
//! Pure: time is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a server is tried last after its first failure; each further one
/// doubles it …
const FIRST: Duration = Duration::from_secs(60);
/// … up to this.
const LONGEST: Duration = Duration::from_secs(600);
/// A server that failed so long ago begins anew.
const FORGOTTEN: Duration = Duration::from_secs(1_800);
/// How many are remembered.
const REMEMBERED_MAX: usize = 1_024;

#[derive(Clone, Copy)]
struct Failed {
    until: Instant,
    lasts: Duration,
}

/// The addresses that failed lately, which are tried last.
#[derive(Default)]
pub(super) struct Failures(HashMap<SocketAddr, Failed>);

impl Failures {
    /// Notes a failure; `false` where that is known already.
    pub fn note(&mut self, address: SocketAddr, now: Instant) -> bool {
        self.0.retain(|_, failed| now < failed.until + FORGOTTEN);
        let before = self.0.get(&address).copied();
        if before.is_some_and(|failed| now < failed.until) {
            return false;
        }
        if before.is_none() && self.0.len() >= REMEMBERED_MAX {
            return false;
        }
        let lasts = before.map_or(FIRST, |failed| (2 * failed.lasts).min(LONGEST));
        let until = now + lasts;
        self.0.insert(address, Failed { until, lasts });
        true
    }

    /// A server that answers is as good as the others.
    pub fn forget(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }

    /// Puts those that failed behind the others; otherwise the order stays.
    pub fn order(&self, mut addresses: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        let failed = |address: &SocketAddr| {
            let found = self.0.get(address);
            found.is_some_and(|failed| now < failed.until)
        };
        addresses.sort_by_key(failed);
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_failed_is_last_for_longer_each_time_until_it_answers() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:5060", "10.0.0.2:5060", "10.0.0.3:5060"]
            .map(|address| address.parse().expect(address))
            .to_vec();
        let [first, second, third] = [addresses[0], addresses[1], addresses[2]];
        let mut failures = Failures::default();
        let now = Instant::now();
        assert!(failures.note(first, now));
        assert!(!failures.note(first, now + FIRST / 2));
        let order = |failures: &Failures, now| failures.order(addresses.clone(), now);
        assert_eq!(order(&failures, now), [second, third, first]);
        let later = now + FIRST;
        assert_eq!(order(&failures, later), [first, second, third]);
        assert!(failures.note(first, later));
        assert_eq!(order(&failures, later + FIRST), [second, third, first]);
        assert_eq!(order(&failures, later + 2 * FIRST), addresses);
        assert!(failures.note(second, later + FIRST));
        assert_eq!(order(&failures, later + FIRST), [third, first, second]);
        failures.forget(second);
        assert_eq!(order(&failures, later + FIRST), [second, third, first]);
    }
}
