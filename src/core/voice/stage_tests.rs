//! A call on a stage of its own: virtual time, webhooks that are a table of documents, and what the call asked for, one line
//! each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::terms::{
    CommandId, DialLegEvent, FetchFailure, Instructions, PromptSound, StreamEnd, VoiceCommand,
    VoicePolicy,
};
use super::{VoiceCall, webhook::FormFields};
use crate::core::ids::CallId;
use crate::core::outward::WrittenBy;
use crate::core::twiml::document::{HttpMethod, Webhook};
use crate::core::twiml::{VoiceUrl, parse};

pub(super) const SECOND: Duration = Duration::from_secs(1);
const HOST: &str = "https://bot.example";

/// One call, and everything around it.
pub(super) struct Stage {
    pub(super) call: VoiceCall,
    pub(super) now: Instant,
    /// What each path answers: the inside of `<Response>`. Others are not found.
    answers: BTreeMap<String, String>,
    /// The last command that awaits an answer.
    awaited: Option<CommandId>,
    /// The fetch that was not answered, and its path.
    fetching: Option<(CommandId, String)>,
    pub(super) fields: FormFields,
}

impl Stage {
    pub(super) fn new(policy: VoicePolicy) -> Self {
        Self {
            call: VoiceCall::new(policy),
            now: Instant::now(),
            answers: BTreeMap::new(),
            awaited: None,
            fetching: None,
            fields: FormFields::default(),
        }
    }

    /// A caller who rings, with a service that speaks and a fallback URL.
    pub(super) fn ringing() -> Self {
        Self::new(VoicePolicy {
            fallback: Some(webhook("/fallback")),
            can_say: true,
            ..VoicePolicy::default()
        })
    }

    pub(super) fn answers(mut self, path: &str, inner: &str) -> Self {
        self.answers.insert(path.into(), inner.into());
        self
    }

    /// The call begins with the document at `/voice`: what is asked for, up to the first thing that is waited for.
    pub(super) fn begin(&mut self) -> Vec<String> {
        let instructions = Instructions::Webhook(webhook("/voice"));
        assert!(self.call.handle_instructions(self.now, instructions));
        self.told()
    }

    /// The call gets this document by the REST API.
    pub(super) fn replace(&mut self, inner: &str) -> (bool, Vec<String>) {
        let text = format!("<Response>{inner}</Response>");
        let document = parse(text.as_bytes(), None, WrittenBy::Client).unwrap();
        let instructions = Instructions::Document(document);
        let is_taken = self.call.handle_instructions(self.now, instructions);
        (is_taken, self.told())
    }

    pub(super) fn established(&mut self) -> Vec<String> {
        self.call.handle_established(self.now);
        self.told()
    }

    /// What is heard or sent ends after so long.
    pub(super) fn played(&mut self, after: Duration) -> Vec<String> {
        self.now += after;
        let id = self.awaited.expect("something plays");
        self.call.handle_played(self.now, id, true);
        self.told()
    }

    pub(super) fn sound_failed(&mut self) -> Vec<String> {
        let id = self.awaited.expect("something plays");
        self.call.handle_played(self.now, id, false);
        self.told()
    }

    pub(super) fn digits(&mut self, digits: &str) -> Vec<String> {
        for digit in digits.chars() {
            self.call.handle_digit(self.now, digit);
        }
        self.told()
    }

    pub(super) fn stream_ended(&mut self, end: StreamEnd) -> Vec<String> {
        let id = self.awaited.expect("a stream is open");
        self.call.handle_stream_ended(self.now, id, end);
        self.told()
    }

    pub(super) fn leg(&mut self, leg: usize, event: DialLegEvent) -> Vec<String> {
        let id = self.awaited.expect("a dial runs");
        self.leg_of(id, leg, event)
    }

    /// As [`Stage::leg`], of an earlier `<Dial>`.
    pub(super) fn leg_of(
        &mut self,
        dial: CommandId,
        leg: usize,
        event: DialLegEvent,
    ) -> Vec<String> {
        self.call.handle_leg(self.now, dial, leg, event);
        self.told()
    }

    pub(super) const fn awaited(&self) -> Option<CommandId> {
        self.awaited
    }

    pub(super) fn ended(&mut self) -> Vec<String> {
        self.call.handle_call_ended(self.now);
        self.told()
    }

    /// Goes to the next deadline, which is so far away.
    pub(super) fn deadline(&mut self, after: Duration) -> Vec<String> {
        let at = self.call.poll_timeout().expect("a deadline");
        assert_eq!(at - self.now, after);
        self.now = at;
        self.call.handle_timeout(self.now);
        self.told()
    }

    /// The webhook that is waited for fails.
    pub(super) fn fetch_fails(&mut self, failure: FetchFailure) -> Vec<String> {
        let (id, _) = self.fetching.take().expect("a webhook is asked");
        self.call.handle_fetched(self.now, id, Err(failure));
        self.told()
    }

    /// What the call asks for; webhooks of the table answer at once, unless that is `hang`.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(command) = self.call.poll_command() {
            told.push(self.tell(command));
            let known = self.fetching.take_if(|(_, path)| {
                self.answers
                    .get(path.as_str())
                    .is_none_or(|answer| answer != "hang")
            });
            if let Some((id, path)) = known {
                let answer = self.fetch(&path);
                self.call.handle_fetched(self.now, id, answer);
            }
        }
        assert!(self.call.poll_timeout().is_none() || !self.call.is_over());
        told
    }

    fn fetch(&self, path: &str) -> Result<crate::core::twiml::Document, FetchFailure> {
        let Some(inner) = self.answers.get(path) else {
            return Err(FetchFailure::Status(404));
        };
        let address = webhook(path).url;
        let text = format!("<Response>{inner}</Response>");
        parse(text.as_bytes(), Some(&address), WrittenBy::Operator).map_err(FetchFailure::Twiml)
    }

    fn tell(&mut self, command: VoiceCommand) -> String {
        match command {
            VoiceCommand::Fetch { id, request } => {
                let path = path(&request.webhook.url);
                self.fetching = Some((id, path.clone()));
                self.fields = request.fields;
                format!("fetch {path}{}", shown(&self.fields))
            }
            VoiceCommand::Notify(request) => {
                let path = path(&request.webhook.url);
                format!("notify {path}{}", shown(&request.fields))
            }
            VoiceCommand::Refuse(status) => format!("refuse {status}"),
            VoiceCommand::Answer => "answer".into(),
            VoiceCommand::Play { id, sound } => {
                self.awaited = Some(id);
                match sound {
                    PromptSound::File { url, .. } => format!("play {}", path(&url)),
                    PromptSound::Speech { text, .. } => format!("say {}", text.expose()),
                }
            }
            VoiceCommand::SendDigits { id, leg, digits } => {
                self.awaited = Some(id);
                let leg = leg.map(|leg| format!(" to leg {leg}"));
                format!("send {}{}", digits.expose(), leg.unwrap_or_default())
            }
            VoiceCommand::StopSound => "stop sound".into(),
            VoiceCommand::OpenStream { id, stream } => {
                self.awaited = Some(id);
                format!("stream {}", stream.url.expose())
            }
            VoiceCommand::CloseStream => "close stream".into(),
            VoiceCommand::StartCopy { id, stream } => {
                self.awaited = Some(id);
                format!("copy {:?}", stream.track)
            }
            VoiceCommand::StopCopy(_) => "stop copy".into(),
            VoiceCommand::Dial { id, dial } => {
                self.awaited = Some(id);
                format!("dial {}", dial.targets.len())
            }
            VoiceCommand::RunLegDocument { leg, webhook } => {
                format!("leg {leg} runs {}", path(&webhook.url))
            }
            VoiceCommand::JoinLeg(leg) => format!("join {leg}"),
            VoiceCommand::EndLeg(leg) => format!("end leg {leg}"),
            VoiceCommand::HangUp { unanswered: 603 } => "hang up".into(),
            VoiceCommand::HangUp { unanswered } => format!("hang up or {unanswered}"),
            VoiceCommand::Finished => "finished".into(),
            VoiceCommand::FallBack => "fall back".into(),
            VoiceCommand::Warn(warning) => format!("warn: {warning}"),
        }
    }
}

pub(super) fn webhook(path: &str) -> Webhook {
    Webhook {
        url: VoiceUrl::parse_http(&format!("{HOST}{path}")).unwrap(),
        method: HttpMethod::Post,
        written_by: WrittenBy::Operator,
    }
}

pub(super) fn call_id() -> CallId {
    CallId::parse("CA0123456789abcdef0123456789abcdef").unwrap()
}

fn path(url: &VoiceUrl) -> String {
    url.expose().trim_start_matches(HOST).to_owned()
}

fn shown(fields: &FormFields) -> String {
    let pairs = fields.pairs().iter();
    pairs
        .map(|(name, value)| format!(" {name}={value}"))
        .collect()
}
