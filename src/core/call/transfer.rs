//! A blind transfer by REFER (RFC 3515) that the worker or the API asked for: it
//! waits for the dialog, and the call goes on until the trunk says that it is done.

use std::time::Instant;

use super::{Call, FALLBACK_LIMIT, Output, Phase, PlayedOut, Report, TRANSFER_LIMIT, Timer};
use crate::core::outcome::Outcome;
use crate::core::private::Private;

/// Where the transfer of a call stands.
#[derive(Debug, Default)]
pub(super) enum Transfer {
    /// None is under way.
    #[default]
    None,
    /// Asked for before the ACK, without which there is no dialog for REFER.
    Early(Private),
    /// REFER is out, and not refused.
    Sent,
}

impl Transfer {
    pub(super) const fn is_under_way(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub(super) const fn is_sent(&self) -> bool {
        matches!(self, Self::Sent)
    }
}

/// What the trunk says of a REFER: the response to it, or a NOTIFY.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransferProgress {
    pub(super) status: u16,
    /// Nothing more will be said.
    pub(super) last: bool,
}

/// How a REFER ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferResult {
    Done,
    Refused,
}

impl TransferProgress {
    pub(super) fn rings(self) -> bool {
        (180..200).contains(&self.status)
    }

    /// The end, where this is it.
    pub(super) fn result(self) -> Option<TransferResult> {
        if self.last && (200..300).contains(&self.status) {
            Some(TransferResult::Done)
        } else if self.last || self.status >= 300 {
            Some(TransferResult::Refused)
        } else {
            None
        }
    }
}

impl Call {
    /// `transfer` of the worker.
    pub(super) fn transfer_for_worker(&mut self, now: Instant, destination: Private) {
        if self.check_worker_transfer().is_ok() {
            self.begin_transfer(now, destination);
        }
    }

    pub(super) fn begin_transfer(&mut self, now: Instant, destination: Private) {
        self.transfer = Transfer::Early(destination);
        if self.dialog.is_confirmed() {
            self.send_early_transfer(now);
        }
    }

    /// The dialog stands: what was asked for before is done.
    pub(super) fn send_early_transfer(&mut self, now: Instant) {
        if self.phase.is_ending() || !matches!(self.transfer, Transfer::Early(_)) {
            return;
        }
        if let Transfer::Early(destination) = std::mem::replace(&mut self.transfer, Transfer::Sent)
        {
            self.arm(Timer::Transfer, now + TRANSFER_LIMIT);
            self.push(Output::Transfer(destination));
        }
    }

    /// Progress of a REFER.
    pub fn handle_transfer(&mut self, now: Instant, status: u16, last: bool) {
        let progress = TransferProgress { status, last };
        if let Phase::Referring { rings } = self.phase {
            return self.fallback_transfer(now, progress, rings);
        }
        let result = progress.result();
        // A trunk may be silent for longer than we wait, and succeed.
        let is_known = self.transfer.is_under_way() || result == Some(TransferResult::Done);
        if self.phase.is_ending() || !is_known {
            return self.note_unexpected("transfer");
        }
        self.report(Report::Transfer(status));
        match result {
            Some(TransferResult::Done) => self.transferred(now),
            Some(TransferResult::Refused) => self.transfer_refused(),
            None => self.transfer_goes_on(now),
        }
    }

    fn transferred(&mut self, now: Instant) {
        if matches!(
            self.phase,
            Phase::Streaming { .. }
                | Phase::Seeking
                | Phase::Scripted
                | Phase::PlayingOut { .. }
                | Phase::Announcing { .. }
        ) {
            // Whatever the fallback had settled: the caller has somebody.
            self.end(now, Outcome::Transferred, 200);
        }
    }

    fn transfer_refused(&mut self) {
        match self.phase {
            // The worker goes on with the caller; it may try another number.
            Phase::Streaming { .. }
            | Phase::Seeking
            | Phase::Scripted
            | Phase::Announcing { .. } => {
                self.transfer = Transfer::None;
            }
            Phase::PlayingOut { .. } => {
                self.transfer = Transfer::None;
                self.push(Output::PlayOut);
            }
            _ => {}
        }
    }

    fn transfer_goes_on(&mut self, now: Instant) {
        match self.phase {
            Phase::Streaming { .. } | Phase::Seeking | Phase::Scripted => {
                self.arm(Timer::Transfer, now + TRANSFER_LIMIT);
            }
            Phase::PlayingOut {
                waits_for_transfer: true,
                ..
            } => self.arm(Timer::PlayOut, now + TRANSFER_LIMIT),
            _ => {}
        }
    }

    /// The trunk says nothing more of a transfer.
    pub(super) fn transfer_timeout(&mut self) {
        // Accepted, and nothing heard since: it may be tried again.
        if matches!(
            self.phase,
            Phase::Streaming { .. } | Phase::Seeking | Phase::Scripted | Phase::Announcing { .. }
        ) {
            self.transfer = Transfer::None;
        }
    }

    /// All has been heard while a transfer is under way: BYE before the answer to
    /// REFER would end the transfer too.
    pub(super) fn wait_for_transfer(
        &mut self,
        now: Instant,
        settled: Option<Outcome>,
        then: PlayedOut,
    ) {
        self.phase = Phase::PlayingOut {
            settled,
            then,
            waits_for_transfer: true,
        };
        self.arm(Timer::PlayOut, now + FALLBACK_LIMIT);
    }
}
