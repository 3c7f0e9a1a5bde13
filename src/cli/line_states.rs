//! What became of the lines at the running bridge of the same settings, asked
//! over its API: for `sipbridge lines`. Reads only, and waits for nobody long.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::Config;
use crate::core::ids::LineId;
use crate::core::private::Secret;
use crate::lines::FLAGS_LINE_ID;

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Lines of one page, and pages: so many lines no bridge has.
const PAGE_LINES: &str = "500";
const PAGES_MAX: usize = 200;
/// Longest page: a line has about 1 kB.
const PAGE_BYTES_MAX: usize = 16 * 1_024 * 1_024;
const PATH: &str = "/api/admin/telephony/phone-lines";

/// Why the states are not known, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// Nothing listens there.
    #[error("no bridge answers at {0} (--api-bind, --api-port)")]
    Nobody(SocketAddr),
    /// It took too long.
    #[error("the bridge at {0} does not answer within 2 s")]
    Slow(SocketAddr),
    /// The token is missing or wrong.
    #[error("the bridge at {0} refuses the token: give the --api-token (API_TOKEN) it runs with")]
    Token(SocketAddr),
    /// Something else, or a bridge in trouble.
    #[error("what answers at {at} (--api-bind, --api-port) does not tell of lines: {what}")]
    Odd {
        /// Who was asked.
        at: SocketAddr,
        /// What it answered.
        what: String,
    },
}

/// The states, in words.
#[derive(Debug, Default)]
pub struct LineStates {
    by_id: HashMap<String, LineText>,
    /// Why there are none, or not all.
    pub silence: Option<Silence>,
}

#[derive(Debug)]
struct LineText {
    /// Whether the bridge takes calls of the line.
    is_in_use: bool,
    words: String,
}

impl LineStates {
    /// What to add to a line that can be used by the settings.
    #[must_use]
    pub fn of_usable(&self, line: &LineId) -> String {
        match (self.by_id.get(line.as_str()), &self.silence) {
            (Some(shown), _) => format!("; {}", shown.words),
            (None, None) => "; the running bridge does not have it".to_owned(),
            (None, Some(_)) => String::new(),
        }
    }

    /// What to add to one that cannot: the bridge may have it as it was before.
    #[must_use]
    pub fn of_other(&self, line: &LineId) -> String {
        let shown = self.by_id.get(line.as_str());
        let shown = shown.filter(|shown| shown.is_in_use);
        shown.map_or_else(String::new, |shown| {
            format!("; in the running bridge as it was: {}", shown.words)
        })
    }
}

/// A page of lines, as far as it matters here.
#[derive(Deserialize)]
struct Page {
    items: Vec<Line>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: String,
    state: String,
    expires_at: Option<String>,
    next_try_at: Option<String>,
    last_error: Option<String>,
}

/// Asks the bridge for the state of each line. Blocks.
#[must_use]
pub fn ask(config: &Config) -> LineStates {
    let at = SocketAddr::new(reachable(config.api_bind), config.api_port);
    let mut states = LineStates::default();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let asked = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(read(config, at, &mut states.by_id)),
        Err(error) => Err(odd(at, error.to_string())),
    };
    states.silence = asked.err();
    states
}

async fn read(
    config: &Config,
    at: SocketAddr,
    by_id: &mut HashMap<String, LineText>,
) -> Result<(), Silence> {
    let http = client().map_err(|error| odd(at, error.to_string()))?;
    let token = config.api_token.clone();
    let asker = Asker { http, at, token };
    asker.read_all(by_id).await?;
    // The line of the flags is in no database, and so on no page of one.
    if config.flags_line.is_some() && !by_id.contains_key(FLAGS_LINE_ID) {
        let line = asker.get::<Line>(&[FLAGS_LINE_ID], &[]).await?;
        by_id.extend(line.map(shown));
    }
    Ok(())
}

/// An address that is bound everywhere is reached on this machine.
fn reachable(bound: IpAddr) -> IpAddr {
    match bound {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

const fn odd(at: SocketAddr, what: String) -> Silence {
    Silence::Odd { at, what }
}

/// The API is plain HTTP: no root is trusted. The token goes to the bridge
/// alone: no proxy, no redirect.
fn client() -> Result<Client, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .no_proxy()
        .timeout(ANSWER_LIMIT);
    Ok(client.build()?)
}

struct Asker {
    http: Client,
    at: SocketAddr,
    token: Option<Secret>,
}

impl Asker {
    /// Page after page; those before a failure are kept.
    async fn read_all(&self, by_id: &mut HashMap<String, LineText>) -> Result<(), Silence> {
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("limit", PAGE_LINES)];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page = self.get::<Page>(&[], &query).await?;
            let page = page.ok_or_else(|| self.odd("404".to_owned()))?;
            by_id.extend(page.items.into_iter().map(shown));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
        Err(self.odd("there is no end of them".to_owned()))
    }

    /// What is there; `None` for 404.
    async fn get<T: DeserializeOwned>(
        &self,
        below: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Option<T>, Silence> {
        let url = format!("http://{}{PATH}", self.at);
        let mut url = Url::parse(&url).map_err(|error| self.odd(error.to_string()))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(below);
        }
        url.query_pairs_mut().extend_pairs(query);
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::UNAUTHORIZED => return Err(Silence::Token(self.at)),
            other => return Err(self.odd(other.to_string())),
        }
        let body = self.body(response).await?;
        let parsed = serde_json::from_slice(&body);
        // What serde says may hold a piece of the body.
        parsed.map_err(|_| self.odd("the answer is another".to_owned()))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Silence> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failed(&e))? {
            if body.len() + chunk.len() > PAGE_BYTES_MAX {
                return Err(self.odd("the answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, error: &reqwest::Error) -> Silence {
        if error.is_timeout() {
            return Silence::Slow(self.at);
        }
        if error.is_connect() {
            return Silence::Nobody(self.at);
        }
        self.odd("no HTTP".to_owned())
    }

    const fn odd(&self, what: String) -> Silence {
        odd(self.at, what)
    }
}

/// `registered until 17:40:12 UTC`, `failed: why; next try at 17:40:12 UTC`.
fn shown(line: Line) -> (String, LineText) {
    let mut words = line.state.clone();
    if let Some(error) = &line.last_error {
        words.push_str(": ");
        words.push_str(error);
    }
    for (what, at) in [
        (" until ", line.expires_at),
        ("; next try at ", line.next_try_at),
    ] {
        // 2026-01-15T14:30:00.123Z
        if let Some(time) = at.as_deref().and_then(|at| at.get(11..19)) {
            words.push_str(&format!("{what}{time} UTC"));
        }
    }
    // A part of it are the registrar's own words, and this goes to a terminal.
    words.retain(|c| !c.is_control());
    let is_in_use = !matches!(line.state.as_str(), "unusable" | "left-out" | "pending");
    (line.id, LineText { is_in_use, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(json: &str) -> String {
        shown(serde_json::from_str(json).expect("a line")).1.words
    }

    #[test]
    fn a_state_is_told_in_plain_words() {
        assert_eq!(
            words(
                r#"{"id":"1","state":"registered","expiresAt":"2026-01-15T17:40:12.123Z","lastError":null}"#
            ),
            "registered until 17:40:12 UTC"
        );
        assert_eq!(
            words(
                r#"{"id":"1","state":"failed","lastError":"no \u001b[31manswer","nextTryAt":"2026-01-15T17:40:12.123Z"}"#
            ),
            "failed: no [31manswer; next try at 17:40:12 UTC"
        );
        assert_eq!(
            words(r#"{"id":"1","state":"refused","lastError":"full"}"#),
            "refused: full"
        );
        assert_eq!(words(r#"{"id":"1","state":"off","expiresAt":"é"}"#), "off");
    }

    #[test]
    fn what_is_bound_everywhere_is_asked_on_this_machine() {
        for (bound, asked) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("192.0.2.7", "192.0.2.7"),
        ] {
            let [bound, asked] = [bound, asked].map(|text| text.parse::<IpAddr>().expect(text));
            assert_eq!(reachable(bound), asked);
        }
    }
}
