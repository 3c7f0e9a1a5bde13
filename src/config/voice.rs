//! The voice webhook of all lines: a bot that answers TwiML.

use super::config_error::FlagProblem;
use super::reader::Reader;
use super::settings::Dispatch;
use crate::core::outward::WrittenBy;
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::{HttpMethod, Webhook};
use crate::core::voice::VoiceLine;

const SCHEMES: &[&str] = &["http", "https"];
const EXAMPLE: &str = "https://user:password@bot.example.com/voice";

/// `--ws-target` is another way to a worker, and so is the queue.
pub(super) fn voice(reader: &mut Reader) -> Option<VoiceLine> {
    let webhook = webhook(reader, "voice-url", "voice-method");
    let fallback = self::webhook(reader, "voice-fallback-url", "voice-fallback-method");
    if reader.given.explicit("voice-url").is_none() {
        if reader.given.explicit("voice-fallback-url").is_some() {
            reader.mistake("voice-fallback-url", FlagProblem::Needs("voice-url"));
        }
        return None;
    }
    if reader.given.explicit("ws-target").is_some() {
        reader.mistake("voice-url", FlagProblem::OtherWay("ws-target"));
    }
    if reader.given.explicit("incoming-callback-url").is_some() {
        reader.warn(
            "incoming-callback-url",
            "has no effect beside --voice-url: what that answers says whether a call is taken",
        );
    }
    Some(VoiceLine {
        webhook: webhook?,
        fallback,
    })
}

/// Jobs are another way to a worker.
pub(super) fn check_dispatch(dispatch: Dispatch, reader: &mut Reader) {
    if dispatch == Dispatch::Queue && reader.given.explicit("voice-url").is_some() {
        reader.mistake("voice-url", FlagProblem::OtherWay("dispatch queue"));
    }
}

fn webhook(reader: &mut Reader, url: &'static str, method: &'static str) -> Option<Webhook> {
    let method = reader.choice(method, "POST or GET", [HttpMethod::Post, HttpMethod::Get]);
    let text = reader.url(url, SCHEMES, EXAMPLE)?;
    let parsed = VoiceUrl::parse_http(text.expose());
    if parsed.is_none() {
        reader.mistake(url, FlagProblem::Url(EXAMPLE));
    }
    Some(Webhook {
        url: parsed?,
        method,
        written_by: WrittenBy::Operator,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawArgs, validate};

    fn mistakes(pairs: &[(&'static str, &str)]) -> Vec<String> {
        let line = [("sip-domain", "sip.example"), ("sip-username", "u")];
        let given: Vec<_> = line.iter().chain(pairs).copied().collect();
        let checked = validate(RawArgs::from_pairs(&given));
        let mistakes = checked.mistakes.iter();
        mistakes.map(ToString::to_string).collect()
    }

    #[test]
    fn a_bot_that_answers_twiml_is_a_way_to_a_worker() {
        assert_eq!(mistakes(&[("voice-url", "http://bot/voice")]), [""; 0]);
        // With Redis for what bridges tell each other, and no jobs.
        let redis = ("redis-url", "redis://h");
        assert_eq!(
            mistakes(&[("voice-url", "http://bot/voice"), redis]),
            [""; 0]
        );
        let both = mistakes(&[("voice-url", "http://bot/v"), ("ws-target", "ws://h")]);
        assert!(both[0].contains("--ws-target"), "{both:?}");
        let jobs = mistakes(&[("voice-url", "http://bot/v"), redis, ("dispatch", "queue")]);
        assert!(jobs[0].contains("--dispatch queue"), "{jobs:?}");
        let alone = mistakes(&[
            ("ws-target", "ws://h"),
            ("voice-fallback-url", "http://bot/f"),
        ]);
        assert!(alone[0].contains("--voice-url"), "{alone:?}");
        let scheme = mistakes(&[("voice-url", "ws://bot/v")]);
        assert!(scheme[0].contains("--voice-url"), "{scheme:?}");
    }

    #[test]
    fn its_addresses_and_methods_are_read() {
        let given = [
            ("voice-url", "https://u:p@Bot.example/voice?a=1"),
            ("voice-fallback-url", "http://10.0.0.5/f"),
            ("voice-fallback-method", "get"),
        ];
        let mut reader = Reader::new(RawArgs::from_pairs(&given));
        let voice = voice(&mut reader).unwrap();
        assert_eq!(voice.webhook.method, HttpMethod::Post);
        assert_eq!(
            voice.webhook.url.expose(),
            "https://u:p@bot.example/voice?a=1"
        );
        assert_eq!(voice.fallback.as_ref().unwrap().method, HttpMethod::Get);
        let hosts: Vec<_> = voice.hosts().collect();
        assert_eq!(hosts, ["bot.example", "10.0.0.5"]);
    }
}
