//! Lines that several bridges share: which of them this one registers.
//!
//! A bridge that shares its lines holds all of them in the SIP engine, so that it takes an INVITE for any;
//! it registers those whose lease it has. Who has which is decided elsewhere ([`crate::core::cluster`]); the table
//! only keeps the answer, beside everything else that is known of the line.

use std::time::Instant;

use super::registration::RegistrationStage;
use super::table::Fleet;
use crate::core::ids::LineId;

/// Whether this bridge is the one that registers a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lease {
    /// It is: for good where bridges share no lines.
    #[default]
    Ours,
    /// Another bridge does, or none yet.
    Elsewhere,
}

impl Fleet {
    /// From now on a line that is new registers only once [`Fleet::take_lease`] is called for it.
    pub fn share_lines(&mut self) {
        self.new_lease = Lease::Elsewhere;
    }

    /// The lease of a line is ours: it registers as soon as its turn comes, and has its password. False
    /// when no such line is held.
    pub fn take_lease(&mut self, line: &LineId, now: Instant) -> bool {
        let Some(found) = self.lines.get_mut(line).filter(|line| line.held.is_some()) else {
            return false;
        };
        found.lease = Lease::Ours;
        let waits = match found.registration_mut() {
            Some(RegistrationStage::Elsewhere(registrar)) => Some(registrar.clone()),
            _ => None,
        };
        if let Some(registrar) = waits {
            self.register(line, &registrar, now);
        }
        true
    }

    /// The lease of a line is ours no more: it has no turn. What the registrar knows of it
    /// is the SIP engine's business. Whether it took part in registering.
    pub fn give_lease(&mut self, line: &LineId) -> bool {
        let registrar = self.unschedule(line);
        let Some(found) = self.lines.get_mut(line) else {
            return false;
        };
        found.lease = Lease::Elsewhere;
        let was_scheduled = registrar.is_some();
        if let (Some(registrar), Some(stage)) = (registrar, found.registration_mut()) {
            *stage = RegistrationStage::Elsewhere(registrar);
        }
        was_scheduled
    }

    /// Whether a line is held, and the SIP engine has not refused it.
    #[must_use]
    pub fn is_in_engine(&self, line: &LineId) -> bool {
        let held = self.lines.get(line).and_then(|line| line.held.as_ref());
        held.is_some_and(|held| !matches!(held.registration, RegistrationStage::Refused(_)))
    }

    /// The lines that this bridge could register, in no order: those that take part in it.
    #[must_use]
    pub fn shareable(&self) -> Vec<LineId> {
        let takes_part = |stage: &RegistrationStage| {
            matches!(
                stage,
                RegistrationStage::Scheduled(_)
                    | RegistrationStage::Decrypting
                    | RegistrationStage::Elsewhere(_)
            )
        };
        let held = self.held().filter(|held| takes_part(&held.registration));
        held.map(|held| held.profile.id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::admission::Limits;
    use crate::fleet::registration::{RegisterResult, RegistrationCounts};
    use crate::fleet::test_lines::{hold, ready};
    use std::time::Duration;

    const REGISTRAR: &str = "sip.example";

    fn shared() -> (Fleet, LineId, Instant) {
        let mut fleet = Fleet::new(Limits::default(), 7);
        fleet.share_lines();
        hold(&mut fleet, ready("7"));
        (fleet, LineId::new("7"), Instant::now())
    }

    #[test]
    fn a_shared_line_registers_while_its_lease_is_ours() {
        let (mut fleet, line, now) = shared();
        fleet.register(&line, REGISTRAR, now);
        assert_eq!(fleet.poll_register(now), None, "nobody gave it to us");
        assert_eq!(fleet.counts(now).elsewhere, 1);
        assert_eq!(fleet.shareable(), std::slice::from_ref(&line));

        assert!(fleet.take_lease(&line, now));
        assert_eq!(fleet.poll_register(now), Some(line.clone()));
        let expires = Duration::from_secs(60);
        fleet.handle_result(&line, RegisterResult::Registered { expires }, now);
        assert_eq!(fleet.counts(now).registered, 1);

        assert!(fleet.give_lease(&line));
        let elsewhere = RegistrationCounts {
            elsewhere: 1,
            ..RegistrationCounts::default()
        };
        assert_eq!(fleet.counts(now), elsewhere);
        // The answer to a REGISTER that was on its way.
        let late = fleet.handle_result(&line, RegisterResult::Registered { expires }, now);
        assert_eq!(late, None);
        let hour = now + Duration::from_secs(3_600);
        assert_eq!(fleet.poll_register(hour), None, "it has no turn");
        assert!(!fleet.give_lease(&line), "it took no part by now");
        assert!(fleet.take_lease(&line, hour));
        assert_eq!(fleet.poll_register(hour), Some(line));
    }

    #[test]
    fn a_lease_that_comes_before_the_password_waits_for_it() {
        let (mut fleet, line, now) = shared();
        fleet.await_password(&line);
        assert!(fleet.take_lease(&line, now));
        assert_eq!(fleet.poll_register(now), None);
        fleet.register(&line, REGISTRAR, now);
        assert_eq!(fleet.poll_register(now), Some(line));
    }

    #[test]
    fn a_line_that_the_engine_refused_keeps_to_its_lease() {
        let (mut fleet, line, now) = shared();
        fleet.register(&line, REGISTRAR, now);
        assert!(!fleet.handle_refused(&line, "no room".into(), now));
        fleet.handle_added(&line, now);
        assert_eq!(fleet.poll_register(now), None);
        assert_eq!(fleet.counts(now).elsewhere, 1);
        assert!(fleet.take_lease(&line, now));
        assert_eq!(fleet.poll_register(now), Some(line.clone()));
        fleet.handle_refused(&line, "no room".into(), now);
        fleet.give_lease(&line);
        fleet.handle_added(&line, now);
        assert_eq!(fleet.poll_register(now), None, "given away meanwhile");
    }

    #[test]
    fn a_line_that_is_changed_keeps_its_lease_and_one_that_goes_loses_it() {
        let (mut fleet, line, now) = shared();
        fleet.register(&line, REGISTRAR, now);
        fleet.take_lease(&line, now);
        hold(&mut fleet, ready("7"));
        fleet.register(&line, "other.example", now);
        assert_eq!(fleet.poll_register(now), Some(line.clone()));
        fleet.remove(&line);
        assert!(!fleet.take_lease(&line, now), "it is not held");
        hold(&mut fleet, ready("7"));
        fleet.register(&line, REGISTRAR, now);
        assert_eq!(fleet.poll_register(now), None);
    }
}
