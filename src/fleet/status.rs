//! A line's registration, for people: the API, `sipbridge lines` and the log.

use std::time::{Instant, SystemTime};

use super::registration::{LineState, RegistrationStage};
use super::table::Fleet;
use super::words;
use crate::core::ids::LineId;

/// What a line's registration is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// Waiting for its turn or for an answer.
    Registering,
    /// The registrar sends its calls here.
    Registered,
    /// The last try failed; there will be another.
    Failed,
    /// The SIP engine could not add it; the engine will try again.
    Refused,
    /// Lines do not register (`--no-register`).
    Off,
    /// It takes calls, and registers once its password is decrypted.
    Decrypting,
    /// It takes calls; another bridge registers it.
    Elsewhere,
}

impl RegistrationState {
    /// As the API and the log name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Off => "off",
            Self::Decrypting => "decrypting",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// A line's registration, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRegistration {
    /// What it is at.
    pub state: RegistrationState,
    /// When it ends unless refreshed.
    pub expires_at: Option<SystemTime>,
    /// When it is tried again, after a failure.
    pub next_try_at: Option<SystemTime>,
    /// Why the last try failed, in plain words.
    pub last_error: Option<String>,
}

/// What is known of a line's registration; `None` for a line that is not held.
pub(super) fn of_line(fleet: &Fleet, line: &LineId, now: Instant) -> Option<LineRegistration> {
    let plain = |state, last_error| LineRegistration {
        state,
        expires_at: None,
        next_try_at: None,
        last_error,
    };
    let clock = SystemTime::now();
    let wall = |at: Instant| clock + at.saturating_duration_since(now);
    let held = fleet.lines.get(line)?.held.as_ref()?;
    let scheduled = match &held.registration {
        RegistrationStage::NotAsked => return None,
        RegistrationStage::Off => return Some(plain(RegistrationState::Off, None)),
        RegistrationStage::Decrypting => return Some(plain(RegistrationState::Decrypting, None)),
        RegistrationStage::Elsewhere(_) => return Some(plain(RegistrationState::Elsewhere, None)),
        RegistrationStage::Refused(refusal) => {
            return Some(LineRegistration {
                next_try_at: Some(wall(refusal.next_try)),
                ..plain(RegistrationState::Refused, Some(refusal.reason.clone()))
            });
        }
        RegistrationStage::Scheduled(_) => fleet.registration(line, now)?,
    };
    Some(match scheduled {
        (LineState::Registering, _) => plain(RegistrationState::Registering, None),
        (LineState::Registered { until }, _) => LineRegistration {
            expires_at: Some(wall(until)),
            ..plain(RegistrationState::Registered, None)
        },
        (
            LineState::Failed {
                status,
                text,
                next_try,
            },
            registrar,
        ) => {
            let words = words::failure(status, &text, registrar);
            LineRegistration {
                next_try_at: Some(wall(next_try)),
                ..plain(RegistrationState::Failed, Some(words))
            }
        }
    })
}
