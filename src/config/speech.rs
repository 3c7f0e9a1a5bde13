//! The service that speaks the texts of `<Say>`.

use std::path::PathBuf;

use super::reader::Reader;
use super::url::ServiceUrl;
use crate::core::private::Secret;

const SCHEMES: &[&str] = &["http", "https"];
const EXAMPLE: &str = "https://api.openai.com";
const MODEL: &str = "tts-1";
const VOICE: &str = "alloy";
/// What is kept lies here, where there is a `--data-dir`.
const FOLDER: &str = "say";

/// Who speaks, and how.
#[derive(Clone, Debug)]
pub struct SpeechConfig {
    /// `--say-url`.
    pub url: ServiceUrl,
    /// `--say-key`.
    pub key: Option<Secret>,
    /// `--say-model`.
    pub model: String,
    /// `--say-voice`.
    pub voice: String,
    /// `--say-cache`, or the folder `say` of `--data-dir`.
    pub folder: Option<PathBuf>,
}

pub(super) fn speech(reader: &mut Reader) -> Option<SpeechConfig> {
    let url = reader.url("say-url", SCHEMES, EXAMPLE);
    let key = reader.secret("say-key");
    let model = reader.text("say-model").unwrap_or_else(|| MODEL.into());
    let voice = reader.text("say-voice").unwrap_or_else(|| VOICE.into());
    let own = reader.text("say-cache").map(PathBuf::from);
    let of_data = || Some(PathBuf::from(reader.given.explicit("data-dir")?).join(FOLDER));
    let folder = own.or_else(of_data);
    if reader.given.explicit("say-url").is_none() {
        for name in ["say-key", "say-model", "say-voice", "say-cache"] {
            if reader.given.explicit(name).is_some() {
                reader.warn(name, "has no effect without --say-url");
            }
        }
    }
    Some(SpeechConfig {
        url: url?,
        key,
        model,
        voice,
        folder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawArgs, validate};

    #[test]
    fn its_parts_have_defaults_and_no_use_without_its_address() {
        let mut reader = Reader::new(RawArgs::from_pairs(&[
            ("say-url", "http://tts:8000"),
            ("data-dir", "/var/lib/sipbridge"),
        ]));
        let speech = speech(&mut reader).unwrap();
        assert_eq!(speech.url.expose(), "http://tts:8000");
        assert_eq!((&*speech.model, &*speech.voice), (MODEL, VOICE));
        assert_eq!(
            speech.folder.as_deref(),
            Some(std::path::Path::new("/var/lib/sipbridge/say"))
        );
        for name in ["say-key", "say-model", "say-voice", "say-cache"] {
            let given = [
                ("sip-domain", "sip.example"),
                ("sip-username", "u"),
                ("ws-target", "ws://h"),
                (name, "x"),
            ];
            let checked = validate(RawArgs::from_pairs(&given));
            assert!(checked.mistakes.is_empty(), "{name}");
            let warned = checked.warnings.iter().map(|warning| warning.flag);
            assert!(warned.eq([name]), "{name}");
        }
    }
}
