//! Callbacks over HTTP, and the token that signs them.

use std::time::Duration;

use super::config_error::FlagProblem;
use super::reader::Reader;
use super::url::ServiceUrl;
use crate::core::access::Cidr;
use crate::core::callback::Method;
use crate::core::outward::Outward;
use crate::core::private::Secret;
use crate::core::voice::VoiceLine;

const SCHEMES: &[&str] = &["http", "https"];
const EXAMPLE: &str = "https://user:password@host/path";
/// A caller hears nothing while the incoming callback is asked.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Who is told of calls, and who is asked.
#[derive(Clone, Debug)]
pub struct CallbacksConfig {
    /// `--status-callback-url`: for calls without an address of their own.
    pub status_url: Option<ServiceUrl>,
    /// `--incoming-callback-url`: asked before a call is taken.
    pub incoming_url: Option<ServiceUrl>,
    /// `--callback-method`.
    pub method: Method,
    /// `--callback-timeout`.
    pub timeout: Duration,
    /// `--auth-token`: signs callbacks and the upgrades of push mode.
    pub auth_token: Option<Secret>,
    /// `--allow-callback`, `--sign-host` and the hosts of the URLs of flags:
    /// where clients' own addresses may lead.
    pub outward: Outward,
}

pub(super) fn callbacks(
    reader: &mut Reader,
    ws_target: Option<&ServiceUrl>,
    voice: Option<&VoiceLine>,
) -> CallbacksConfig {
    let timeout = reader.seconds("callback-timeout", 0.1);
    if timeout > TIMEOUT_MAX {
        let problem = FlagProblem::Seconds("0.1".into(), TIMEOUT_MAX.as_secs());
        reader.mistake("callback-timeout", problem);
    }
    let status_url = reader.url("status-callback-url", SCHEMES, EXAMPLE);
    let incoming_url = reader.url("incoming-callback-url", SCHEMES, EXAMPLE);
    let allowed = allowed(reader);
    let urls = [status_url.as_ref(), incoming_url.as_ref(), ws_target];
    let mut own_hosts = own_hosts(reader, urls);
    let voice_hosts = voice.into_iter().flat_map(VoiceLine::hosts);
    own_hosts.extend(voice_hosts.map(str::to_owned));
    let outward = Outward { allowed, own_hosts };
    CallbacksConfig {
        status_url,
        incoming_url,
        outward,
        method: reader.choice(
            "callback-method",
            "POST or GET",
            [Method::Post, Method::Get],
        ),
        timeout,
        auth_token: reader.secret("auth-token"),
    }
}

fn many(reader: &Reader, name: &'static str) -> Vec<String> {
    let given = reader.given.all(name);
    let parts = given.iter().flat_map(|text| text.split(','));
    parts.map(|part| part.trim().to_owned()).collect()
}

fn allowed(reader: &mut Reader) -> Vec<Cidr> {
    let mut allowed = Vec::new();
    for text in many(reader, "allow-callback") {
        match text.parse::<Cidr>() {
            Ok(network) => allowed.push(network),
            Err(error) => reader.mistake("allow-callback", FlagProblem::Cidr(error)),
        }
    }
    allowed
}

/// Hosts of the operator: of his callbacks, his worker and `--sign-host`.
fn own_hosts(reader: &mut Reader, urls: [Option<&ServiceUrl>; 3]) -> Vec<String> {
    let mut hosts: Vec<String> = urls.into_iter().flatten().filter_map(host_of).collect();
    for text in many(reader, "sign-host") {
        // As a URL writes it: names in lower case and ASCII, IPv6 in brackets.
        match url::Host::parse(&text) {
            Ok(host) => hosts.push(host.to_string()),
            Err(_) => reader.mistake("sign-host", FlagProblem::HostName),
        }
    }
    hosts
}

/// The host of a URL, as a client's URL would write it.
fn host_of(url: &ServiceUrl) -> Option<String> {
    let url = url::Url::parse(url.expose()).ok()?;
    url.host().map(|host| host.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawArgs;

    fn read(pairs: &[(&'static str, &str)]) -> (Outward, Vec<String>) {
        let mut reader = Reader::new(RawArgs::from_pairs(pairs));
        let outward = callbacks(&mut reader, None, None).outward;
        let mistakes = reader.mistakes.iter().map(ToString::to_string);
        (outward, mistakes.collect())
    }

    #[test]
    fn networks_and_hosts_are_read() {
        let (outward, mistakes) = read(&[
            ("allow-callback", "10.0.0.0/8, 127.0.0.1"),
            ("sign-host", "Hooks.example.com,[fd00::1]"),
            (
                "status-callback-url",
                "https://u:p@Status.example.com:8443/x",
            ),
        ]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert!(outward.may_reach([127, 0, 0, 1].into()));
        assert!(!outward.may_reach([127, 0, 0, 2].into()));
        for host in ["hooks.example.com", "[fd00::1]", "status.example.com"] {
            assert!(outward.may_sign(host), "{host}");
        }
        assert!(!outward.may_sign("example.com"));
        let (_, mistakes) = read(&[("allow-callback", "10.0.0.0/99"), ("sign-host", "a b")]);
        assert!(mistakes[0].contains("--allow-callback"), "{mistakes:?}");
        assert!(mistakes[1].contains("--sign-host"), "{mistakes:?}");
    }
}
