//! Lines that are Twilio's: where Twilio reaches us, and where its REST API is.

use super::config_error::FlagProblem;
use super::reader::Reader;
use super::settings::{Config, Dispatch};
use super::url::ServiceUrl;

const SCHEMES: &[&str] = &["http", "https"];
const EXAMPLE: &str = "https://bridge.example.com";
const API_EXAMPLE: &str = "https://api.twilio.com";

/// How lines that are Twilio's are served.
#[derive(Clone, Debug)]
pub struct TwilioConfig {
    /// `--public-url`, without a slash at its end: what Twilio's signatures are over.
    pub public_url: String,
    /// `--twilio-api-url`.
    pub api_url: ServiceUrl,
}

/// `None` without `--public-url`.
pub(super) fn twilio(reader: &mut Reader) -> Option<TwilioConfig> {
    let public = reader.url("public-url", SCHEMES, EXAMPLE);
    let api = reader.given.text("twilio-api-url").unwrap_or_default();
    let api = ServiceUrl::parse(api, SCHEMES);
    if api.is_none() {
        reader.mistake("twilio-api-url", FlagProblem::Url(API_EXAMPLE));
    }
    Some(TwilioConfig {
        public_url: public?.expose().trim_end_matches('/').to_owned(),
        api_url: api?,
    })
}

/// Twilio's stream comes to the port of the queue's workers, at an address that the whole world has.
pub(super) fn check(config: &Config, reader: &mut Reader) {
    let is_given = |name: &str| reader.given.explicit(name).is_some();
    if !is_given("public-url") {
        if is_given("twilio-api-url") {
            reader.warn("twilio-api-url", "has no effect without --public-url");
        }
        return;
    }
    match &config.queue {
        None => reader.mistake("public-url", FlagProblem::Needs("redis-url")),
        Some(_) if config.worker.dispatch == Dispatch::Push => {
            reader.mistake("public-url", FlagProblem::Contradicts("dispatch"));
        }
        Some(queue) => match &queue.stream_url {
            None => reader.mistake("public-url", FlagProblem::Needs("stream-url")),
            Some(url) if !url.starts_with("wss://") => reader.warn(
                "stream-url",
                "is not wss://, and Twilio opens no other stream: its calls will end at once",
            ),
            Some(_) => {}
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{RawArgs, validate};

    fn checked(pairs: &[(&'static str, &str)]) -> (Option<String>, Vec<String>, Vec<String>) {
        let least = [("sip-domain", "d.example"), ("sip-username", "u")];
        let checked = validate(RawArgs::from_pairs(&[&least[..], pairs].concat()));
        let mistakes = checked.mistakes.iter().map(|it| it.to_string()).collect();
        let warnings = checked
            .warnings
            .iter()
            .map(|it| it.flag.to_owned())
            .collect();
        let url = checked.config.twilio.map(|twilio| twilio.public_url);
        (url, mistakes, warnings)
    }

    #[test]
    fn twilio_needs_a_stream_port_that_it_reaches() {
        let public = ("public-url", "https://bridge.example.com/");
        let redis = ("redis-url", "redis://h");
        let stream = ("stream-url", "wss://bridge.example.com");
        let (url, mistakes, warnings) = checked(&[public, redis, stream]);
        assert_eq!(url.as_deref(), Some("https://bridge.example.com"));
        assert_eq!((mistakes.len(), warnings.len()), (0, 0), "{mistakes:?}");
        let plain = ("stream-url", "ws://bridge.example.com");
        let (_, mistakes, warnings) = checked(&[public, redis, plain]);
        assert_eq!(
            (mistakes.len(), &*warnings),
            (0, &["stream-url".to_owned()][..])
        );
        let target = ("ws-target", "ws://h");
        for (given, said) in [
            (&[public, target][..], "--redis-url"),
            (&[public, redis], "--stream-url"),
            (
                &[public, redis, stream, target, ("dispatch", "push")],
                "--dispatch",
            ),
            (
                &[("public-url", "bridge.example.com"), redis, stream],
                "https://",
            ),
            (
                &[public, redis, stream, ("twilio-api-url", "x")],
                "https://",
            ),
        ] {
            let (_, mistakes, _) = checked(given);
            assert!(
                mistakes.iter().any(|text| text.contains(said)),
                "{said}: {mistakes:?}"
            );
        }
        let (_, mistakes, warnings) = checked(&[redis, ("twilio-api-url", "http://h")]);
        assert!(mistakes.is_empty());
        assert_eq!(warnings, ["twilio-api-url"]);
    }
}
