//! What somebody outside asks of a call: to end it, hand it on, hold it.

use std::time::Instant;

use super::{Call, Phase};
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
    /// TwiML has the call, and no worker.
    #[error("TwiML has the call")]
    Scripted,
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
        if self.phase.is_ending() {
            return Err(Denied::Over);
        }
        let cancelled = self.is_outbound && !self.dialog.is_answered();
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
        if self.transfer.is_under_way() {
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
            Phase::Ending(_) | Phase::Over => Err(Denied::Over),
            Phase::Streaming { .. } if self.transfer.is_under_way() => Err(Denied::Transferring),
            Phase::Streaming { .. } => Ok(()),
            _ => Err(Denied::Leaving),
        }
    }

    /// Whether digits can be sent to the other side.
    ///
    /// # Errors
    /// When nobody is there to hear them.
    pub const fn check_digits(&self) -> Result<(), Denied> {
        match self.phase {
            Phase::Ending(_) | Phase::Over => Err(Denied::Over),
            _ if !self.dialog.is_confirmed() => Err(Denied::NotAnswered),
            _ => Ok(()),
        }
    }

    /// Somebody is on the line, and a worker has him or will.
    pub(super) fn check_talking(&self) -> Result<(), Denied> {
        self.check_digits()?;
        match self.phase {
            phase if phase.is_with_worker() => Ok(()),
            Phase::Scripted => Err(Denied::Scripted),
            _ => Err(Denied::Leaving),
        }
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
