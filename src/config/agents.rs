//! `--agents`: whether tenants have agents, and where voices are asked for.

use super::config_error::FlagProblem;
use super::flags::flag;
use super::reader::Reader;
use super::url::ServiceUrl;
use crate::core::private::Secret;

const SCHEMES: &[&str] = &["https", "http"];
const EXAMPLE: &str = "https://api.elevenlabs.io";

/// Agents per tenant.
#[derive(Clone, Debug)]
pub struct AgentsConfig {
    /// `--elevenlabs-url`.
    pub elevenlabs_url: Option<ServiceUrl>,
    /// `--elevenlabs-api-key`; without it there are no voices to choose from.
    pub elevenlabs_key: Option<Secret>,
}

/// `None` where they are off. They are kept in the database.
pub(super) fn agents(reader: &mut Reader, has_database: bool) -> Option<AgentsConfig> {
    let is_on = reader.switch("agents");
    if is_on && !has_database {
        reader.mistake("agents", FlagProblem::NeedsDatabase);
    }
    for name in ["elevenlabs-url", "elevenlabs-api-key"] {
        if !is_on && reader.given.explicit(name).is_some() {
            reader.warn(name, "has no effect without --agents");
        }
    }
    let default = flag("elevenlabs-url").and_then(|flag| flag.default);
    let default = default.and_then(|text| ServiceUrl::parse(text, SCHEMES));
    let given = reader.url("elevenlabs-url", SCHEMES, EXAMPLE);
    let config = AgentsConfig {
        elevenlabs_url: given.or(default),
        elevenlabs_key: key(reader),
    };
    is_on.then_some(config)
}

/// A key that no header can carry would be refused by every request.
fn key(reader: &mut Reader) -> Option<Secret> {
    let key = reader.secret("elevenlabs-api-key")?;
    if !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        reader.mistake("elevenlabs-api-key", FlagProblem::HeaderKey);
        return None;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawArgs;

    fn read(
        pairs: &[(&'static str, &str)],
        has_database: bool,
    ) -> (Option<AgentsConfig>, Vec<String>, usize) {
        let mut reader = Reader::new(RawArgs::from_pairs(pairs));
        let config = agents(&mut reader, has_database);
        let mistakes = reader.mistakes.iter().map(ToString::to_string);
        (config, mistakes.collect(), reader.warnings.len())
    }

    #[test]
    fn they_are_off_unless_asked_for_and_need_a_database() {
        let (config, mistakes, warnings) = read(&[], false);
        assert!(config.is_none() && mistakes.is_empty() && warnings == 0);
        let (config, mistakes, _) = read(&[("agents", "yes")], true);
        assert_eq!(mistakes, [""; 0]);
        let config = config.expect("on");
        let url = config.elevenlabs_url.expect("a default");
        assert_eq!(url.expose(), EXAMPLE);
        assert!(config.elevenlabs_key.is_none());
        let (_, mistakes, _) = read(&[("agents", "yes")], false);
        let told = &mistakes[0];
        assert!(
            told.contains("--agents (AGENTS)") && told.contains("--data-dir"),
            "{told}"
        );
    }

    #[test]
    fn the_providers_key_and_address_are_judged() {
        let given = [
            ("agents", "yes"),
            ("elevenlabs-url", "http://127.0.0.1:9/"),
            ("elevenlabs-api-key", "k3y"),
        ];
        let (config, mistakes, warnings) = read(&given, true);
        assert_eq!((mistakes.len(), warnings), (0, 0));
        let key = config.and_then(|config| config.elevenlabs_key);
        assert_eq!(key.as_ref().map(Secret::expose), Some("k3y"));
        let (_, _, warnings) = read(&given[1..], true);
        assert_eq!(warnings, 2, "without effect");
        let bad = [
            ("agents", "yes"),
            ("elevenlabs-url", "ftp://x"),
            ("elevenlabs-api-key", "hunter 2"),
        ];
        let (_, mistakes, _) = read(&bad, true);
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(!mistakes[1].contains("hunter"), "{mistakes:?}");
    }
}
