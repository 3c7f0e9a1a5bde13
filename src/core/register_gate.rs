//! Until when REGISTERs may be sent, for a bridge that shares its lines.
//!
//! A process that stood still for longer than its leases last (SIGSTOP, a migration of its machine) must ask
//! Redis before it registers or renews anything: another bridge may have its lines by now. Its SIP stack runs in
//! threads of its own, whose refreshes are due in the moment in which it wakes. So the task that looks after the leases
//! says again and again until when it has looked, and the stack asks here before each REGISTER.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Cheap to clone; open for ever where nobody ever says until when.
#[derive(Clone, Debug, Default)]
pub struct RegisterGate(Arc<Mutex<Option<Instant>>>);

impl RegisterGate {
    /// From now on REGISTERs may be sent until then.
    pub fn open_until(&self, time: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
    }

    /// Whether a REGISTER may be sent.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_closes_by_itself_and_only_where_somebody_opens_it() {
        let (gate, now) = (RegisterGate::default(), Instant::now());
        let later = now + Duration::from_secs(10);
        assert!(gate.is_open(later), "no lines are shared");
        gate.clone().open_until(later);
        assert!(gate.is_open(now) && !gate.is_open(later));
        gate.open_until(later + Duration::from_secs(1));
        assert!(gate.is_open(later));
    }
}
