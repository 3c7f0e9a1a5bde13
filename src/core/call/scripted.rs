//! TwiML has the call: [`crate::core::voice`] says what is done with it, verb by verb, and
//! this machine goes on keeping the leg. It answers, finds the worker of a stream and keeps him, notices
//! who hangs up, and has the ladder where no document can be had.
//!
//! What the verbs ask for comes in by the handlers here. What they wait for goes back as
//! [`Output::StreamOver`], when a stream has ended by itself.

use std::time::{Duration, Instant};

use super::{Call, Denied, IdleSound, Output, Phase, Reason, Report, SearchPolicy, Timer};
use super::{PlayedOut, WorkerRoute};
use crate::core::outcome::Outcome;
use crate::core::voice::StreamEnd;

/// A stream that begins so soon after the ACK is the first verb: what the caller has said since is for
/// its worker. Before a later one, he has talked to nobody.
const FIRST_VERB_WITHIN: Duration = Duration::from_millis(100);

/// Whether TwiML has the call, also while its stream has a worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Script {
    pub(super) has_call: bool,
    /// When the dialog stood.
    established: Option<Instant>,
}

impl Call {
    /// As [`Call::handle_start`], for a call that TwiML gets: it rings, and nobody is asked for by this machine.
    pub fn handle_voice_start(&mut self) {
        if self.phase != Phase::New {
            return self.note_unexpected("voice start");
        }
        self.script.has_call = true;
        self.phase = Phase::Scripted;
        self.report(Report::Ringing);
        self.push(Output::Answer(180));
    }

    /// TwiML gets this call, whoever has it: its worker is let go, and is looked for no more. A call that we
    /// place is TwiML's once it is answered.
    ///
    /// # Errors
    /// When the call ends, or has come to the fallback.
    pub fn handle_voice_takeover(&mut self, now: Instant) -> Result<(), Denied> {
        match self.phase {
            Phase::Ending(_) | Phase::Over => return Err(Denied::Over),
            Phase::New | Phase::Asking | Phase::Ignored => return Err(Denied::NotAnswered),
            Phase::Announcing { .. }
            | Phase::Referring { .. }
            | Phase::CallingOut
            | Phase::Joined
            | Phase::PlayingOut {
                settled: Some(_), ..
            } => return Err(Denied::Leaving),
            // It has the call already: what it does with its stream is its own.
            _ if self.script.has_call => {}
            Phase::Dialling { .. } => self.script.has_call = true,
            Phase::Yielding
            | Phase::AwaitingAck
            | Phase::Seeking
            | Phase::Streaming { .. }
            | Phase::PlayingOut { settled: None, .. } => {
                self.script.has_call = true;
                self.timers.set(Timer::Ring, None);
                self.leave_stream(now);
            }
            Phase::Scripted => {}
        }
        Ok(())
    }

    /// Whether TwiML has the call, also while its stream has a worker.
    #[must_use]
    pub const fn is_scripted(&self) -> bool {
        self.script.has_call
    }

    /// Something is to be heard: the call is answered.
    pub fn handle_voice_answer(&mut self) {
        if self.phase != Phase::Scripted {
            return self.note_unexpected("voice answer");
        }
        self.answer();
    }

    /// `<Reject>`: the call that rings is refused with this status.
    pub fn handle_voice_refusal(&mut self, now: Instant, status: u16) {
        if self.phase != Phase::Scripted {
            return self.note_unexpected("voice refusal");
        }
        self.end(now, Outcome::Refused, status);
    }

    /// `<Connect>`: its worker is dialled. He is this stream's, and another one than any before: the numbers of the
    /// attempts go on, so that its `streamSid` is another one too.
    pub fn handle_voice_stream(&mut self, now: Instant) {
        if self.phase != Phase::Scripted {
            return self.note_unexpected("voice stream");
        }
        let is_first = |at: Instant| now.saturating_duration_since(at) < FIRST_VERB_WITHIN;
        if !self.script.established.is_some_and(is_first) {
            self.push(Output::ForgetEarly);
        }
        self.phase = Phase::Seeking;
        let step = self.search.restart(
            now,
            SearchPolicy {
                route: WorkerRoute::Dial,
                ..self.policy.search
            },
        );
        self.take_step(now, "voice stream", step);
    }

    /// TwiML goes on without its stream, at once: nothing is told of its end.
    pub fn handle_voice_stream_closed(&mut self, now: Instant) {
        match self.phase {
            Phase::Seeking | Phase::Streaming { .. } | Phase::PlayingOut { settled: None, .. }
                if self.script.has_call =>
            {
                self.leave_stream(now);
            }
            _ => self.note_unexpected("voice stream closed"),
        }
    }

    /// There are no more verbs, or one of them ends the call: BYE, or this status where it was not answered.
    pub fn handle_voice_end(&mut self, now: Instant, unanswered: u16) {
        if !self.script.has_call || self.phase.is_ending() {
            return self.note_unexpected("voice end");
        }
        let outcome = if self.dialog.is_answered() {
            Outcome::WorkerHungUp
        } else {
            Outcome::Refused
        };
        // 200 may wait for ICE: until its ACK the caller can still be refused.
        let status = if self.dialog.is_confirmed() {
            200
        } else {
            unanswered
        };
        self.end(now, outcome, status);
    }

    /// The call whose `<Dial>` placed this one has done with it. `unanswered` is the outcome where it was not answered.
    pub fn handle_dial_over(&mut self, now: Instant, unanswered: Outcome) {
        let outcome = match self.dialog.is_answered() {
            true => Outcome::CallerHungUp,
            false => unanswered,
        };
        self.hang_up(now, outcome);
    }

    /// No document can be had: the line's ladder takes the call.
    pub fn handle_voice_fall_back(&mut self, now: Instant) {
        if self.phase != Phase::Scripted {
            return self.note_unexpected("voice fallback");
        }
        self.script.has_call = false;
        self.fall_back(now, Reason::WebhookFailed);
    }

    // ---- steps ----

    /// The dialog of a scripted call stands.
    pub(super) fn script_established(&mut self, now: Instant) {
        self.script.established = Some(now);
        // A caller who rang for long owes no RTP of that time.
        self.watch_media(now);
    }

    /// The stream ended by itself: TwiML goes on.
    pub(super) fn stream_over(&mut self, now: Instant, end: StreamEnd) {
        self.leave_stream(now);
        self.push(Output::StreamOver(end));
    }

    /// Whether the caller is TwiML's again once the worker's last audio has been heard.
    pub(super) fn returns_to_script(&self) -> bool {
        matches!(
            self.phase,
            Phase::PlayingOut {
                then: PlayedOut::Script,
                ..
            }
        )
    }

    /// Nobody is looked for, and whoever was there is let go with all that he has sent.
    fn leave_stream(&mut self, now: Instant) {
        self.stop_search();
        if matches!(
            self.phase,
            Phase::Streaming { .. } | Phase::PlayingOut { .. }
        ) {
            if std::mem::take(&mut self.is_worker_open) {
                self.push(Output::StopStream);
            }
            self.push(Output::DropStream);
        }
        self.timers.set(Timer::PlayOut, None);
        self.phase = Phase::Scripted;
        self.release_hold(now);
        self.push(Output::IdleSound(IdleSound::Silence));
    }
}
