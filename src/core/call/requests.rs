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
        if self.phase == Phase::Streaming && !self.transferring {
            self.begin_transfer(now, destination);
        }
    }

    fn begin_transfer(&mut self, now: Instant, destination: Private) {
        self.transferring = true;
        self.arm(Timer::Transfer, now + TRANSFER_LIMIT);
        self.push(Output::Transfer(destination));
    }

    /// Progress of a REFER.
    pub fn handle_transfer(&mut self, now: Instant, status: u16, last: bool) {
        let done = (200..300).contains(&status) && last;
        let refused = status >= 300 || (last && !done);
        if self.transferring && !matches!(self.phase, Phase::Ending | Phase::Over) {
            self.report(Report::Transfer(status));
        }
        match self.phase {
            Phase::Referring => self.fallback_transfer(now, status, done, refused),
            Phase::Streaming | Phase::Seeking | Phase::PlayingOut | Phase::Announcing
                if self.transferring && done =>
            {
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
        self.arm(Timer::PlayOut, now + FALLBACK_LIMIT);
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
