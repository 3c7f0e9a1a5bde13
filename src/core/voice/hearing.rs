//! What the caller hears, and the digits that interrupt it: `<Say>`, `<Play>`, `<Pause>`, `<Gather>`.

use std::time::{Duration, Instant};

use super::prompts::{PromptStep, Prompts};
use super::terms::{CommandId, PromptSound, VoiceCommand, VoiceWarning};
use super::webhook::FormFields;
use super::{Flow, State, VoiceCall};
use crate::core::telephone_event::are_digits;
use crate::core::twiml::GATHER_DIGITS_MAX;
use crate::core::twiml::document::Gather;

/// A sound that is over sooner is not repeated: it is empty, and would be repeated as fast as the machine can.
const ROUND_MIN: Duration = Duration::from_millis(20);

/// A sound that is shorter is not heard as one: a loop of documents with such a click would ask ten times a second.
const HEARD_MIN: Duration = Duration::from_millis(100);

/// A `<Gather>` that runs.
#[derive(Debug)]
pub(super) struct Gathering {
    gather: Gather,
    /// What is heard; none once all is, or a digit came.
    pub(super) prompts: Prompts,
    /// Whether only digits are waited for.
    is_heard: bool,
    digits: String,
}

impl Gathering {
    pub(super) const fn is_heard(&self) -> bool {
        self.is_heard
    }

    fn is_full(&self) -> bool {
        let most = self.gather.digits_max.unwrap_or(GATHER_DIGITS_MAX);
        self.digits.len() >= most as usize
    }
}

impl VoiceCall {
    /// The sound or the digits of a command have been played; `is_whole`: to their end, not failed.
    pub fn handle_played(&mut self, now: Instant, id: CommandId, is_whole: bool) {
        let prompts = match &mut self.state {
            State::SendingFirst(prompts, _) | State::Prompting(prompts) => prompts,
            State::Gathering(gathering) => &mut gathering.prompts,
            State::Dialling(dialling) => match dialling.prompts() {
                Some(prompts) => prompts,
                None => return,
            },
            _ => return,
        };
        if prompts.playing != Some(id) {
            return;
        }
        prompts.playing = None;
        let lasted = self
            .sound_since
            .map(|since| now.saturating_duration_since(since));
        if !is_whole || lasted.is_some_and(|lasted| lasted < ROUND_MIN) {
            prompts.skip();
        }
        self.has_happened |= is_whole && lasted.is_some_and(|lasted| lasted >= HEARD_MIN);
        if !is_whole {
            self.warn(VoiceWarning::SoundFailed);
        }
        let state = std::mem::take(&mut self.state);
        self.go_on_hearing(now, state);
    }

    /// The caller pressed a key: 0-9 * # A-D.
    pub fn handle_digit(&mut self, now: Instant, digit: char) {
        if !are_digits(digit.encode_utf8(&mut [0; 4])) {
            return;
        }
        self.fetches_in_row = 0;
        match std::mem::take(&mut self.state) {
            State::Gathering(gathering) => self.gather_digit(now, gathering, digit),
            State::Dialling(dialling) if digit == '*' && dialling.ends_on_star() => {
                self.hang_up_callee(now, dialling);
            }
            other => self.state = other,
        }
    }

    pub(super) fn begin_prompts(&mut self, now: Instant, mut prompts: Prompts) -> Flow {
        if !self.play_next(now, &mut prompts, None) {
            return Flow::Next;
        }
        self.state = State::Prompting(prompts);
        Flow::Waits
    }

    pub(super) fn begin_gather(&mut self, now: Instant, mut gather: Gather) -> Flow {
        let prompts = Prompts::new(std::mem::take(&mut gather.prompts));
        let gathering = Gathering {
            gather,
            prompts,
            is_heard: false,
            digits: String::new(),
        };
        self.go_on_hearing(now, State::Gathering(gathering));
        Flow::Waits
    }

    /// What was heard in this state is over: the next thing is heard, or what follows is done.
    pub(super) fn go_on_hearing(&mut self, now: Instant, state: State) {
        match state {
            State::SendingFirst(mut prompts, instructions) => {
                if self.play_next(now, &mut prompts, None) {
                    self.state = State::SendingFirst(prompts, instructions);
                } else {
                    self.follow(now, instructions);
                }
            }
            State::Prompting(mut prompts) => {
                if self.play_next(now, &mut prompts, None) {
                    self.state = State::Prompting(prompts);
                } else {
                    self.run(now);
                }
            }
            State::Gathering(mut gathering) => {
                if !self.play_next(now, &mut gathering.prompts, None) {
                    gathering.is_heard = true;
                    self.deadline = Some(now + gathering.gather.timeout);
                }
                self.state = State::Gathering(gathering);
            }
            State::Dialling(dialling) => self.go_on_sending(now, dialling),
            other => self.state = other,
        }
    }

    /// Plays what is next, to a leg of `<Dial>` or the call itself; false when there is nothing more.
    pub(super) fn play_next(
        &mut self,
        now: Instant,
        prompts: &mut Prompts,
        leg: Option<usize>,
    ) -> bool {
        loop {
            let Some(step) = prompts.next_step() else {
                return false;
            };
            let is_speech = matches!(step, PromptStep::Sound(PromptSound::Speech { .. }));
            if is_speech && !self.policy.can_say {
                if !std::mem::replace(&mut self.has_told_cannot_say, true) {
                    self.warn(VoiceWarning::CannotSay);
                }
                prompts.skip();
                continue;
            }
            self.play(now, step, prompts, leg);
            return true;
        }
    }

    fn play(&mut self, now: Instant, step: PromptStep, prompts: &mut Prompts, leg: Option<usize>) {
        self.sound_since = Some(now);
        prompts.playing = None;
        match step {
            PromptStep::Wait(pause) => self.deadline = Some(now + pause),
            PromptStep::Sound(sound) => {
                let id = self.next_id();
                prompts.playing = Some(id);
                self.push(VoiceCommand::Play { id, sound });
            }
            PromptStep::Digits(digits) => {
                let id = self.next_id();
                prompts.playing = Some(id);
                self.push(VoiceCommand::SendDigits { id, leg, digits });
            }
        }
    }

    pub(super) fn stop_sound(&mut self, prompts: &Prompts) {
        if prompts.playing.is_some() {
            self.push(VoiceCommand::StopSound);
        }
    }

    /// A digit interrupts what is heard.
    fn gather_digit(&mut self, now: Instant, mut gathering: Gathering, digit: char) {
        self.stop_sound(&gathering.prompts);
        gathering.prompts.clear();
        gathering.is_heard = true;
        self.deadline = None;
        if gathering.gather.finish_on_key == Some(digit) {
            return self.finish_gather(now, gathering, Some(digit));
        }
        gathering.digits.push(digit);
        if gathering.is_full() {
            return self.finish_gather(now, gathering, None);
        }
        self.deadline = Some(now + gathering.gather.timeout);
        self.state = State::Gathering(gathering);
    }

    /// The action is asked where there are digits, or where it wants to be asked without; else the next verb follows.
    pub(super) fn finish_gather(&mut self, now: Instant, gathering: Gathering, key: Option<char>) {
        let Gathering { gather, digits, .. } = gathering;
        let is_asked = !digits.is_empty() || gather.acts_on_empty;
        let Some(action) = gather.action.filter(|_| is_asked) else {
            return self.run(now);
        };
        let mut fields = FormFields::default();
        fields.push("Digits", digits);
        fields.push("FinishedOnKey", key.map(String::from).unwrap_or_default());
        self.fetch(now, action, fields);
    }
}
