//! Who may use the API.
//!
//! With `--api-token` every request must carry it, but for those to the open
//! paths. Without one the API listens on loopback alone, and whoever is on
//! this machine may use it. A browser on this machine is there too, and shows
//! pages of strangers: such a page can send requests to 127.0.0.1, and by DNS
//! rebinding (its own name resolved to 127.0.0.1) read the answers as well. A
//! browser tells in `Origin` that a page sent a request, and in `Host` the name that the
//! page believes to talk to. So without a token a request with an `Origin`, or with a
//! `Host` that is neither an IP address nor localhost, is refused. With a token none
//! of this matters: no page knows it, and no browser adds it by itself.
//!
//! Twilio's API ([`twilio`]) has its own account and token, its webhooks ([`webhooks`]) are signed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::audit::Who;
use super::control::Control;
use super::problem::{Problem, ProblemKind};
use super::twilio;
use super::visitors::Visitor;
use super::webhooks;
use crate::core::log_limiter::LogLimiter;
use crate::core::private::Secret;

/// Paths that need no token: for load balancers, monitors and whoever writes a client.
const OPEN: [&str; 3] = ["/health", "/metrics", "/api/openapi.json"];

/// Where a request comes from; the server puts it into each.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its connection.
    pub(super) visitor: Option<Arc<Visitor>>,
}

/// How long the answer to a wrong token takes.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(500);
/// How often the log tells of wrong tokens.
const TELL_EVERY: Duration = Duration::from_secs(10);

static WRONG_TOKENS: AtomicU64 = AtomicU64::new(0);
static TOLD: Mutex<LogLimiter> = Mutex::new(LogLimiter::new(TELL_EVERY));

/// Requests with a token that is not ours, since the start.
#[must_use]
pub fn wrong_tokens() -> u64 {
    WRONG_TOKENS.load(Ordering::Relaxed)
}

/// Counts a wrong token, tells of it seldom, and lets its sender wait; its
/// connection may have to make room meanwhile, so that others do not wait.
pub(super) async fn wrong_token(peer: Option<&Peer>) {
    WRONG_TOKENS.fetch_add(1, Ordering::Relaxed);
    let told = {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        told.count(Instant::now())
    };
    if let Some(count) = told {
        let peer = peer.map(|peer| tracing::field::display(peer.address));
        tracing::warn!(
            peer,
            count,
            "a wrong API token was sent; the count is since the last warning"
        );
    }
    if let Some(visitor) = peer.and_then(|peer| peer.visitor.as_ref()) {
        visitor.wait();
    }
    sleep(WRONG_TOKEN_DELAY).await;
}

/// Lets a request in, or answers it.
pub async fn guard(
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(problem) = check_host(&request) {
        return problem.into_response();
    }
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    if webhooks::is_webhook(request.uri().path()) {
        let address = request.extensions().get::<Peer>().map(|peer| peer.address);
        request.extensions_mut().insert(Who::Twilio(address));
        return next.run(request).await;
    }
    if twilio::is_twilios(request.uri().path()) {
        return twilio::guard(&control.twilio, request, next).await;
    }
    let peer = request.extensions().get::<Peer>().cloned();
    let address = peer.as_ref().map(|peer| peer.address);
    let admitted = match &control.token {
        Some(token) => check_token(token, request.headers()).map(|()| Who::Token(address)),
        None => check_local(request.headers()).map(|()| Who::Local(address)),
    };
    if control.token.is_some() && admitted.is_err() && request.headers().contains_key(AUTHORIZATION)
    {
        wrong_token(peer.as_ref()).await;
    }
    match admitted {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// One Host, or with HTTP/1.0 none (RFC 9112, 3.2): a proxy in front of us may take
/// another of two than we do.
fn check_host(request: &Request) -> Result<(), Problem> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts == 1 || (hosts == 0 && request.version() < Version::HTTP_11) {
        return Ok(());
    }
    let detail = "send one Host header";
    Err(Problem::new(ProblemKind::BAD_REQUEST, detail).closing())
}

fn check_token(token: &Secret, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(offered) = headers.get(AUTHORIZATION) else {
        let detail = "send the header Authorization: Bearer TOKEN, with the --api-token (API_TOKEN) of this bridge";
        return Err(Problem::unauthorized("Bearer realm=\"sipbridge\"", detail));
    };
    if bearer(offered.as_bytes()).is_some_and(|offered| same(token.expose().as_bytes(), offered)) {
        return Ok(());
    }
    let detail = "the token is not the --api-token (API_TOKEN) of this bridge";
    let challenge = "Bearer realm=\"sipbridge\", error=\"invalid_token\"";
    Err(Problem::unauthorized(challenge, detail))
}

/// What stands after `Bearer`, in any case.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
    is_bearer.then(|| token.trim_ascii())
}

/// Compares digests, in a time that depends neither on where two tokens
/// differ nor on their lengths.
pub(super) fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let (ours, theirs) = (Sha256::digest(ours), Sha256::digest(theirs));
    let differs = ours.iter().zip(theirs.iter());
    differs.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn check_local(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |why: &str| {
        let detail = format!(
            "{why}: it may come from a page in a browser on this machine. Give the bridge an --api-token (API_TOKEN), or send no Origin and address it as 127.0.0.1 or localhost"
        );
        Err(Problem::new(ProblemKind::FOREIGN, detail))
    };
    if headers.contains_key(ORIGIN) {
        return refused("the request has an Origin");
    }
    match text(headers, HOST) {
        Some(host) if is_local_name(host) => Ok(()),
        _ => refused("the Host is neither an IP address nor localhost"),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `localhost` or an IP address, with or without a port: no name that a
/// stranger's DNS answers for.
fn is_local_name(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split_once(':').map_or(host, |(name, port)| {
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        if is_port { name } else { host }
    });
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let token = Secret::new("0123456789abcdef0".into());
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            }
            check_token(&token, &headers).is_ok()
        };
        assert!(check(Some("Bearer 0123456789abcdef0")));
        assert!(check(Some("bearer  0123456789abcdef0")));
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Basic 0123456789abcdef0"),
            Some("Bearer 0123456789abcdef"),
            Some("Bearer 0123456789abcdef1"),
            Some("Bearer 0123456789abcdef00"),
            Some("0123456789abcdef0"),
        ] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn only_names_that_no_stranger_can_own_are_local() {
        for host in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "192.0.2.1:1",
        ] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:evil.example",
            "[evil]",
            "evil.localhost:80:80",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn without_a_token_a_page_in_a_browser_is_kept_out() {
        let check = |pairs: &[(HeaderName, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().expect("a header")));
            check_local(&pairs.collect()).is_ok()
        };
        assert!(check(&[(HOST, "127.0.0.1:8080")]));
        assert!(!check(&[]));
        assert!(!check(&[(HOST, "evil.example:8080")]));
        assert!(!check(&[
            (HOST, "127.0.0.1"),
            (ORIGIN, "http://evil.example")
        ]));
        assert!(!check(&[(HOST, "127.0.0.1"), (ORIGIN, "null")]));
    }
}
