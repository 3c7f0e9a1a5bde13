//! What somebody outside asks of a call: to end it, hand it on, hold it. And
//! how a transfer goes on, whoever asked for it.

use std::time::Instant;

use super::{Call, FALLBACK_LIMIT, Output, Phase, Report, TRANSFER_LIMIT, Timer};
use crate::core::outcome::Outcome;
use crate::core::private::Private;

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It ends, or has ended.
    #[error("the call is over")]
    Over,
    /// Nobody is on the line yet.
    #[error("the call is not answered yet")]
    NotAnswered,
    /// A REFER is under way.
    #[error("a transfer of the call is under way")]
    Transferring,
    /// The worker has ended it, or the caller has come to the fallback.
    #[error("the call is being ended or handed on already")]
    Leaving,
}

impl Call {
    /// End the call: CANCEL or a refusal before the answer, BYE after it.
    ///
    /// # Errors
    /// When it ends already.
    pub fn handle_hangup_request(&mut self, now: Instant) -> Result<(), Denied> {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return Err(Denied::Over);
        }
        let cancelled = self.is_ours && !self.answered;
        self.hang_up(
            now,
            if cancelled {
                Outcome::Cancelled
            } else {
                Outcome::ApiHungUp
            },
        );
        Ok(())
    }

    /// Blind transfer by REFER.
    ///
    /// # Errors
    /// When there is nobody to transfer, or a transfer is under way.
    pub fn handle_transfer_request(
        &mut self,
        now: Instant,
        destination: Private,
    ) -> Result<(), Denied> {
        self.check_transfer()?;
        self.begin_transfer(now, destination);
        Ok(())
    }

    /// Whether the other side can be transferred now.
    ///
    /// # Errors
    /// When there is nobody to transfer, or a transfer is under way.
    pub fn check_transfer(&self) -> Result<(), Denied> {
        self.check_talking()?;
        if self.transferring {
            return Err(Denied::Transferring);
        }
        Ok(())
    }

    /// Whether the worker can have its caller transferred: also before the ACK,
    /// which comes later than the answer of a fast worker.
    ///
    /// # Errors
    /// When it is not the worker's to say, or a transfer is under way.
    pub const fn check_worker_transfer(&self) -> Result<(), Denied> {
        match self.phase {
            Phase::Ending | Phase::Over => Err(Denied::Over),
            Phase::Streaming if self.transferring => Err(Denied::Transferring),
            Phase::Streaming => Ok(()),
            _ => Err(Denied::Leaving),
        }
    }

    /// Whether digits can be sent to the other side.
    ///
    /// # Errors
    /// When nobody is there to hear them.
    pub const fn check_digits(&self) -> Result<(), Denied> {
        match self.phase {
            Phase::Ending | Phase::Over => Err(Denied::Over),
            _ if !self.established => Err(Denied::NotAnswered),
            _ => Ok(()),
        }
    }

    /// Somebody is on the line, and a worker has him or will.
    pub(super) fn check_talking(&self) -> Result<(), Denied> {
        self.check_digits()?;
        match self.phase {
            Phase::Seeking | Phase::Streaming => Ok(()),
            _ => Err(Denied::Leaving),
        }
    }

    // ---- transfers ----

    /// `transfer` of the worker.
    pub(super) fn transfer(&mut self, now: Instant, destination: Private) {
        if self.check_worker_transfer().is_ok() {
            self.begin_transfer(now, destination);
        }
    }

    fn begin_transfer(&mut self, now: Instant, destination: Private) {
        self.transferring = true;
        // REFER belongs into a dialog (RFC 3515).
        self.early_transfer = Some(destination);
        if self.established {
            self.transfer_at_last(now);
        }
    }

    /// The dialog stands: what was asked for before is done.
    pub(super) fn transfer_at_last(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        if let Some(destination) = self.early_transfer.take() {
            self.arm(Timer::Transfer, now + TRANSFER_LIMIT);
            self.push(Output::Transfer(destination));
        }
    }

    /// A REFER is out, and not refused.
    pub(super) const fn is_referred(&self) -> bool {
        self.transferring && self.early_transfer.is_none()
    }

    /// Progress of a REFER.
    pub fn handle_transfer(&mut self, now: Instant, status: u16, last: bool) {
        let done = (200..300).contains(&status) && last;
        let refused = status >= 300 || (last && !done);
        // A trunk may be silent for longer than we wait, and succeed.
        let is_told = self.transferring || (done && self.phase != Phase::Referring);
        if is_told && !matches!(self.phase, Phase::Ending | Phase::Over) {
            self.report(Report::Transfer(status));
        }
        match self.phase {
            Phase::Referring => self.fallback_transfer(now, status, done, refused),
            Phase::Streaming | Phase::Seeking | Phase::PlayingOut | Phase::Announcing if done => {
                // Whatever the fallback had settled: the caller has somebody.
                self.outcome = Some(Outcome::Transferred);
                self.hang_up(now, Outcome::Transferred);
            }
            // The worker goes on with the caller; it may try another number.
            Phase::Streaming | Phase::Seeking | Phase::Announcing if refused => {
                self.transferring = false;
            }
            Phase::Streaming | Phase::Seeking if self.transferring => {
                self.arm(Timer::Transfer, now + TRANSFER_LIMIT);
            }
            Phase::PlayingOut if refused => {
                self.transferring = false;
                self.push(Output::PlayOut);
            }
            Phase::PlayingOut if self.waits_for_transfer => {
                self.arm(Timer::PlayOut, now + TRANSFER_LIMIT);
            }
            _ => {}
        }
    }

    /// The trunk says nothing more of a transfer.
    pub(super) fn transfer_timeout(&mut self) {
        // Accepted, and nothing heard since: it may be tried again.
        if matches!(
            self.phase,
            Phase::Streaming | Phase::Seeking | Phase::Announcing
        ) {
            self.transferring = false;
        }
    }

    /// The worker's last words were heard while its transfer is under way: BYE
    /// before the answer to REFER would end the transfer too.
    pub(super) fn wait_for_transfer(&mut self, now: Instant) {
        self.waits_for_transfer = true;
        self.arm(Timer::PlayOut, now + FALLBACK_LIMIT);
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
