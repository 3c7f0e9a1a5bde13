//! Lines that enter and leave the schedule: handed to the SIP engine, refused by it,
//! added after all, registered at once because somebody asks for it.

use std::sync::Arc;
use std::time::Instant;

use super::leases::Lease;
use super::line::Line;
use super::register_queue::TimerPhase;
use super::registration::{EngineRefusal, LineState, RegistrationStage, Scheduled, Then};
use super::table::Fleet;
use crate::core::ids::LineId;

impl Fleet {
    /// Registers a line at this registrar as soon as its turn comes. One that
    /// registers already starts anew; one that another bridge registers waits for its lease.
    pub fn register(&mut self, line: &LineId, registrar: &str, now: Instant) {
        self.unschedule(line);
        let Some(found) = self.lines.get_mut(line) else {
            return;
        };
        let Some(held) = found.held.as_mut() else {
            return;
        };
        if found.lease == Lease::Elsewhere {
            held.registration = RegistrationStage::Elsewhere(registrar.into());
            return;
        }
        let registrar = self.turns.join(registrar);
        let timer = self.turns.start(line, &registrar, TimerPhase::Due, now);
        held.registration = RegistrationStage::Scheduled(Scheduled {
            registrar,
            state: LineState::Registering,
            phase: TimerPhase::Due,
            failures: 0,
            timer,
            asked: false,
        });
    }

    /// The line has no turn before it is registered with its password.
    pub fn await_password(&mut self, line: &LineId) {
        self.unschedule(line);
        self.set_registration(line, RegistrationStage::Decrypting);
    }

    /// The line does not register.
    pub fn register_never(&mut self, line: &LineId) {
        self.unschedule(line);
        self.set_registration(line, RegistrationStage::Off);
    }

    /// The line has no turn any more. Returns whether it took part in registering.
    pub fn unregister(&mut self, line: &LineId) -> bool {
        let was_scheduled = self.unschedule(line).is_some();
        self.set_registration(line, RegistrationStage::NotAsked);
        was_scheduled
    }

    fn set_registration(&mut self, line: &LineId, registration: RegistrationStage) {
        let line = self.lines.get_mut(line);
        if let Some(before) = line.and_then(Line::registration_mut) {
            *before = registration;
        }
    }

    /// Takes a line out of its turn; its registrar, where it had one.
    pub(super) fn unschedule(&mut self, line: &LineId) -> Option<Arc<str>> {
        let registration = self.lines.get_mut(line)?.registration_mut()?;
        let scheduled = registration.scheduled()?;
        let registrar = scheduled.registrar.clone();
        self.turns
            .stop(&registrar, scheduled.phase, scheduled.timer);
        self.turns.leave(&registrar);
        *registration = RegistrationStage::NotAsked;
        Some(registrar)
    }

    /// The engine could not add a line: it registers no more until it is added.
    /// Returns whether it took part in registering. One that was removed meanwhile
    /// stays forgotten.
    pub fn handle_refused(&mut self, line: &LineId, reason: String, next_try: Instant) -> bool {
        let registrar = self.unschedule(line);
        let was_scheduled = registrar.is_some();
        let Some(before) = self.lines.get_mut(line).and_then(Line::registration_mut) else {
            return was_scheduled;
        };
        let then = match before {
            RegistrationStage::Refused(refusal) => refusal.then.clone(),
            RegistrationStage::Off => Then::Off,
            RegistrationStage::Decrypting => Then::Decrypting,
            RegistrationStage::Elsewhere(registrar) => Then::Register(registrar.clone()),
            RegistrationStage::NotAsked | RegistrationStage::Scheduled(_) => {
                registrar.map_or(Then::NotAsked, Then::Register)
            }
        };
        *before = RegistrationStage::Refused(EngineRefusal {
            reason,
            next_try,
            then,
        });
        was_scheduled
    }

    /// A line that was refused and is in the engine now: it registers as soon as
    /// its turn comes, where it registers at all. Returns whether it took part in registering.
    pub fn handle_added(&mut self, line: &LineId, now: Instant) -> bool {
        // A line that registers was taken on after the refusal was heard of: it starts anew.
        let registrar = self.unschedule(line);
        let was_scheduled = registrar.is_some();
        let Some(before) = self.lines.get_mut(line).and_then(Line::registration_mut) else {
            return was_scheduled;
        };
        let then = match (&*before, registrar) {
            (RegistrationStage::Refused(refusal), _) => refusal.then.clone(),
            (_, Some(registrar)) => Then::Register(registrar),
            (_, None) => return was_scheduled,
        };
        match then {
            Then::NotAsked => *before = RegistrationStage::NotAsked,
            Then::Off => *before = RegistrationStage::Off,
            Then::Decrypting => *before = RegistrationStage::Decrypting,
            Then::Register(registrar) => self.register(line, &registrar, now),
        }
        was_scheduled
    }

    /// Registers a line as soon as its turn comes, whatever it waits for, and
    /// forgets how often it failed. False when there is no such line that registers; one whose
    /// password is being decrypted is on its way already.
    pub fn register_now(&mut self, line: &LineId, now: Instant) -> bool {
        match self.lines.get_mut(line).and_then(Line::registration_mut) {
            Some(RegistrationStage::Scheduled(scheduled)) => {
                scheduled.failures = 0;
                if scheduled.phase != TimerPhase::AwaitingAnswer {
                    self.set(line, TimerPhase::Due, now);
                }
                true
            }
            Some(RegistrationStage::Decrypting) => true,
            Some(RegistrationStage::Refused(refusal)) => matches!(refusal.then, Then::Decrypting),
            _ => false,
        }
    }

    /// All lines that register, in the order of their ids.
    #[must_use]
    pub fn registering(&self) -> Vec<LineId> {
        let lines = self.lines.iter();
        let lines = lines.filter(|(_, line)| line.scheduled().is_some());
        let mut ids: Vec<LineId> = lines.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }
}
