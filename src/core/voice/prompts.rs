//! What is heard one after the other: `<Say>`, `<Play>`, `<Pause>`, each as often as its `loop` says.

use std::collections::VecDeque;
use std::time::Duration;

use super::terms::{CommandId, PromptSound};
use crate::core::private::Private;
use crate::core::twiml::dial_string::{DialStep, DialString};
use crate::core::twiml::document::{Play, PlaySource, Prompt, Repeat, Say};

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PromptStep {
    /// This is heard once.
    Sound(PromptSound),
    /// These digits are sent.
    Digits(Private),
    /// Nothing is heard for so long.
    Wait(Duration),
}

/// Prompts that are played one after the other.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    waiting: VecDeque<Prompt>,
    current: Option<Current>,
    /// The command whose answer ends the present step; `None` in a pause.
    pub(super) playing: Option<CommandId>,
}

/// One prompt that is played.
#[derive(Debug)]
struct Current {
    prompt: Prompt,
    /// Rounds that are still to come after the present one.
    left: Repeat,
    /// The next part of this round.
    part: usize,
}

impl Prompts {
    pub(super) fn new(prompts: Vec<Prompt>) -> Self {
        Self {
            waiting: prompts.into(),
            ..Self::default()
        }
    }

    /// These digits, once, where there are any.
    pub(super) fn of_digits(digits: Option<DialString>) -> Self {
        let once = |digits| {
            let source = PlaySource::Digits(digits);
            let repeat = Repeat::Times(1);
            Prompt::Play(Play { source, repeat })
        };
        Self::new(digits.map(once).into_iter().collect())
    }

    /// The next step; `None` when all is played.
    pub(super) fn next_step(&mut self) -> Option<PromptStep> {
        loop {
            let current = match &mut self.current {
                Some(current) => current,
                none => none.insert(Current::new(self.waiting.pop_front()?)),
            };
            match current.next_step() {
                Some(step) => return Some(step),
                None => self.current = None,
            }
        }
    }

    /// Nothing more of the present prompt is played.
    pub(super) fn skip(&mut self) {
        self.current = None;
    }

    /// Nothing more is played.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Current {
    const fn new(prompt: Prompt) -> Self {
        let left = match &prompt {
            Prompt::Say(say) => say.repeat,
            Prompt::Play(play) => play.repeat,
            Prompt::Pause(_) => Repeat::Times(1),
        };
        Self {
            prompt,
            left,
            part: 0,
        }
    }

    fn next_step(&mut self) -> Option<PromptStep> {
        if self.part == self.parts() {
            self.part = 0;
        }
        if self.part == 0 {
            match &mut self.left {
                Repeat::Forever => {}
                Repeat::Times(0) => return None,
                Repeat::Times(left) => *left -= 1,
            }
        }
        let step = self.step();
        self.part += 1;
        step
    }

    /// How many steps a round has.
    fn parts(&self) -> usize {
        match &self.prompt {
            Prompt::Play(Play {
                source: PlaySource::Digits(digits),
                ..
            }) => digits.steps().len(),
            _ => 1,
        }
    }

    fn step(&self) -> Option<PromptStep> {
        let step = match &self.prompt {
            Prompt::Say(Say {
                text,
                voice,
                language,
                ..
            }) => PromptStep::Sound(PromptSound::Speech {
                text: text.clone(),
                voice: voice.clone(),
                language: language.clone(),
            }),
            Prompt::Play(play) => match &play.source {
                PlaySource::File { url, written_by } => PromptStep::Sound(PromptSound::File {
                    url: url.clone(),
                    written_by: *written_by,
                }),
                PlaySource::Digits(digits) => match digits.steps().get(self.part)? {
                    DialStep::Digits(digits) => PromptStep::Digits(Private::new(digits.as_str())),
                    DialStep::Wait(pause) => PromptStep::Wait(*pause),
                },
            },
            Prompt::Pause(length) => PromptStep::Wait(*length),
        };
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::outward::WrittenBy;
    use crate::core::twiml::VoiceUrl;

    fn digits(text: &str, repeat: Repeat) -> Prompt {
        let source = PlaySource::Digits(DialString::parse(text).unwrap());
        Prompt::Play(Play { source, repeat })
    }

    fn sent(text: &str) -> PromptStep {
        PromptStep::Digits(Private::new(text))
    }

    const HALF: PromptStep = PromptStep::Wait(Duration::from_millis(500));

    #[test]
    fn prompts_follow_each_other_as_often_as_they_say() {
        let url = VoiceUrl::parse_http("http://bot/a.wav").unwrap();
        let written_by = WrittenBy::Client;
        let source = PlaySource::File {
            url: url.clone(),
            written_by,
        };
        let repeat = Repeat::Times(2);
        let file = || {
            let url = url.clone();
            PromptStep::Sound(PromptSound::File { url, written_by })
        };
        let mut prompts = Prompts::new(vec![
            Prompt::Play(Play { source, repeat }),
            Prompt::Pause(Duration::from_millis(500)),
            digits("1w2", Repeat::Times(2)),
        ]);
        let steps: Vec<_> = std::iter::from_fn(|| prompts.next_step()).collect();
        let round = || [sent("1"), HALF, sent("2")];
        let expected: Vec<_> = [file(), file(), HALF]
            .into_iter()
            .chain(round())
            .chain(round())
            .collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn one_without_end_ends_when_it_is_skipped() {
        let mut prompts = Prompts::new(vec![
            digits("7", Repeat::Forever),
            digits("8", Repeat::Times(1)),
        ]);
        for _ in 0..5 {
            assert_eq!(prompts.next_step(), Some(sent("7")));
        }
        prompts.skip();
        assert_eq!(prompts.next_step(), Some(sent("8")));
        assert_eq!(prompts.next_step(), None);
        assert_eq!(prompts.next_step(), None);
    }
}
