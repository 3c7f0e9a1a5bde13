//! The question before a call is taken: shall this bridge take it, and how?
//! Until there is an answer the caller hears nothing of us: no 180, no 200.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Call, Output, Phase, Report, Timer, WorkerDispatch, WorkerRoute};
use crate::core::outcome::Outcome;
use crate::core::private::Secret;

/// The answer.
#[derive(Clone, Debug)]
pub enum CallDecision {
    /// Take it.
    Accept(Box<Accepted>),
    /// Refuse it with this SIP status, 400 to 699.
    Reject(u16),
    /// Leave it: it may ring elsewhere.
    Ignore,
}

/// How a call is taken. `Debug` shows no address.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// For `customParameters`.
    pub custom_params: BTreeMap<String, String>,
    /// The worker to dial for this call alone, a ws:// or wss:// URL.
    pub ws_target: Option<Secret>,
    /// Where this call's status callbacks go.
    pub callback_url: Option<Secret>,
}

impl Call {
    /// As [`Call::handle_start`], but somebody is asked first; answer with
    /// [`Call::handle_decision`].
    pub fn handle_question(&mut self) {
        if self.phase != Phase::New {
            return self.note_unexpected("question");
        }
        self.phase = Phase::Asking;
        self.report(Report::Ringing);
        self.push(Output::AskIncoming);
    }

    /// The answer to [`Output::AskIncoming`].
    pub fn handle_decision(&mut self, now: Instant, decision: &CallDecision) {
        if self.phase != Phase::Asking {
            return self.note_unexpected("verdict");
        }
        match decision {
            CallDecision::Accept(accepted) => {
                if accepted.ws_target.is_some() {
                    self.policy.search.route = WorkerRoute::Dial;
                    self.search = WorkerDispatch::new(self.policy.search);
                }
                self.begin(now);
            }
            CallDecision::Reject(status) => self.end(now, Outcome::Refused, *status),
            CallDecision::Ignore => {
                self.phase = Phase::Ignored;
                self.arm(Timer::Ring, now + self.policy.search.worker_timeout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::{AnswerMode, CallPolicy, SearchPolicy};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn asked(answer: AnswerMode) -> (Call, Instant) {
        let mut call = Call::new(CallPolicy {
            answer,
            search: SearchPolicy {
                route: WorkerRoute::Queue,
                worker_timeout: 30 * SECOND,
                claim_timeout: 5 * SECOND,
                max_attempts: 3,
            },
            max_duration: None,
            media_timeout: None,
            fallback_number: None,
            ring_before_fallback: None,
        });
        call.handle_question();
        let ringing = Output::Report(Report::Ringing);
        assert_eq!(outputs(&mut call), [ringing, Output::AskIncoming]);
        (call, Instant::now())
    }

    fn outputs(call: &mut Call) -> Vec<Output> {
        std::iter::from_fn(|| call.poll_output()).collect()
    }

    fn accept(ws_target: Option<&str>) -> CallDecision {
        CallDecision::Accept(Box::new(Accepted {
            ws_target: ws_target.map(|url| Secret::new(url.into())),
            ..Accepted::default()
        }))
    }

    #[test]
    fn an_accepted_call_goes_on_as_any_other() {
        for (mode, first) in [(AnswerMode::Immediate, 200), (AnswerMode::OnWorker, 180)] {
            let (mut call, now) = asked(mode);
            assert_eq!(call.poll_timeout(), None);
            call.handle_decision(now, &accept(None));
            let mut done = outputs(&mut call);
            assert_eq!(done[0], Output::Answer(first));
            if mode == AnswerMode::Immediate {
                call.handle_established(now);
                done.extend(outputs(&mut call));
            }
            assert!(matches!(done.last(), Some(Output::PushJob(attempt)) if attempt.number == 1));
            assert!(
                !done.contains(&Output::Report(Report::Ringing)),
                "told once"
            );
            // A second answer changes nothing.
            call.handle_decision(now, &CallDecision::Reject(486));
            assert_eq!(outputs(&mut call), []);
        }
    }

    #[test]
    fn a_worker_of_its_own_is_dialled() {
        let (mut call, now) = asked(AnswerMode::OnWorker);
        call.handle_decision(now, &accept(Some("ws://own")));
        let done = outputs(&mut call);
        assert!(matches!(done.last(), Some(Output::Dial(attempt)) if attempt.number == 1));
    }

    #[test]
    fn a_rejected_call_ends_with_that_status() {
        let (mut call, now) = asked(AnswerMode::Immediate);
        call.handle_decision(now, &CallDecision::Reject(486));
        assert_eq!(outputs(&mut call), [Output::Hangup(486)]);
        call.handle_leg_ended(false);
        assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Refused)]);
    }

    #[test]
    fn an_ignored_call_rings_on_until_its_time_is_over() {
        let (mut call, now) = asked(AnswerMode::Immediate);
        call.handle_decision(now, &CallDecision::Ignore);
        assert_eq!(outputs(&mut call), [], "no 180, no job");
        let (at, timer) = call.poll_timeout().unwrap();
        assert_eq!((at, timer), (now + 30 * SECOND, Timer::Ring));
        call.handle_timeout(at);
        assert_eq!(outputs(&mut call), [Output::Hangup(480)]);
        call.handle_leg_ended(false);
        assert_eq!(outputs(&mut call), [Output::Finished(Outcome::NoAnswer)]);
    }

    #[test]
    fn a_caller_may_give_up_at_any_time() {
        for decision in [None, Some(CallDecision::Ignore)] {
            let (mut call, now) = asked(AnswerMode::Immediate);
            if let Some(decision) = decision {
                call.handle_decision(now, &decision);
            }
            call.handle_leg_ended(true);
            assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Abandoned)]);
            // The answer comes too late.
            call.handle_decision(now, &accept(None));
            assert_eq!(outputs(&mut call), []);
            assert!(call.is_over());
        }
    }

    #[test]
    fn a_shutdown_ends_the_question() {
        let (mut call, now) = asked(AnswerMode::Immediate);
        call.handle_shutdown(now);
        assert_eq!(outputs(&mut call), [Output::Hangup(480)]);
    }
}
