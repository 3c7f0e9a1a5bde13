//! The running bridge of the same settings, asked over its API. Reads only, and waits for
//! nobody long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use crate::api::nodes::client::http_client;
use crate::api::nodes::trust::{TrustFiles, refused_certificate};
use crate::config::Config;
use crate::core::private::Secret;

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Longest answer: a page of lines, of which one has about 1 kB.
const ANSWER_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// Why it does not say what it was asked for.
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
    #[error("what answers at {at} (--api-bind, --api-port) does not tell: {what}")]
    Odd {
        /// Who was asked.
        at: SocketAddr,
        /// What it answered.
        what: String,
    },
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

/// The way to it.
pub(super) struct RunningBridge {
    http: Client,
    scheme: &'static str,
    at: SocketAddr,
    token: Option<Secret>,
}

impl RunningBridge {
    /// That of these settings.
    pub(super) fn of(config: &Config) -> Result<Self, Silence> {
        let at = SocketAddr::new(reachable(config.api_bind), config.api_port);
        let http = http_client(TrustFiles::of(config));
        Ok(Self {
            http: http.map_err(|error| odd(at, error.to_string()))?,
            scheme: match config.api_tls {
                Some(_) => "https",
                None => "http",
            },
            at,
            token: config.api_token.clone(),
        })
    }

    /// Runs what asks it, to its end.
    pub(super) fn ask<T>(
        config: &Config,
        asking: impl AsyncFnOnce(Self) -> Result<T, Silence>,
    ) -> Result<T, Silence> {
        let bridge = Self::of(config)?;
        let at = bridge.at;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(asking(bridge)),
            Err(error) => Err(odd(at, error.to_string())),
        }
    }

    /// What is there; `None` for 404.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        below: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Option<T>, Silence> {
        let url = format!("{}://{}{path}", self.scheme, self.at);
        let mut url = Url::parse(&url).map_err(|error| self.odd(error.to_string()))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(below);
        }
        url.query_pairs_mut().extend_pairs(query);
        let mut request = self.http.get(url).timeout(ANSWER_LIMIT);
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
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
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
        if let Some(why) = refused_certificate(error) {
            return self.odd(format!("its certificate is not taken: {why}"));
        }
        if error.is_connect() {
            return Silence::Nobody(self.at);
        }
        self.odd("no HTTP".to_owned())
    }

    /// What answers is not what was asked for.
    pub(super) const fn odd(&self, what: String) -> Silence {
        odd(self.at, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
