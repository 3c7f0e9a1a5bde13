//! One request to a receiver, and its answer.
//!
//! Redirects are not followed: what is signed is one address, and one was judged. Proxies named in
//! the environment are not used. Answers are read up to a limit.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::lookup_host;

use super::error::CallbackError;
use super::target::CallbackTarget;
use crate::core::callback::{Method, TwilioForm, query_parameters};
use crate::core::outward::Outward;
use crate::core::signature::{HEADER, Signer};
use crate::files;

/// Most bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Idle connections are kept for so long: less than common servers do. Node and uvicorn close one after 5 s, gunicorn after 2 s,
/// and a request written in that moment is lost, with the answer that a caller waits for.
const IDLE: Duration = Duration::from_secs(1);
pub(super) const FORM: &str = "application/x-www-form-urlencoded; charset=UTF-8";
const NO_REQUEST: &str = "with the call's fields it cannot be written as a request";
const USER_AGENT: &str = concat!("sipbridge/", env!("CARGO_PKG_VERSION"));

/// How requests are made.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `--callback-method`.
    pub method: Method,
    /// `--callback-timeout`: for a request as a whole.
    pub timeout: Duration,
    /// Signs, where there is an `--auth-token`.
    pub signer: Option<Signer>,
}

/// Makes requests. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    /// For the operator's addresses.
    http: reqwest::Client,
    /// For those of clients. It has connections of its own, each of which was judged.
    guarded: reqwest::Client,
    settings: ClientSettings,
    outward: Arc<Outward>,
}

/// What a receiver answered.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, where it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// The body, or as much of it as may be.
    pub body: Vec<u8>,
    /// Whether there was more of it.
    pub is_cut: bool,
}

impl Client {
    /// `ca_file` holds PEM certificates trusted beside the public roots;
    /// `outward` judges addresses that clients wrote.
    ///
    /// # Errors
    /// When the CA file is unusable, or TLS cannot be set up.
    pub fn new(
        settings: ClientSettings,
        ca_file: Option<&Path>,
        outward: Arc<Outward>,
    ) -> Result<Self, CallbackError> {
        let tls = tls(ca_file)?;
        let failed = |error: reqwest::Error| CallbackError::Client(error.to_string());
        let resolver = Arc::new(GuardedResolver(outward.clone()));
        let guarded = builder(settings.timeout, tls.clone()).dns_resolver(resolver);
        Ok(Self {
            http: builder(settings.timeout, tls).build().map_err(failed)?,
            guarded: guarded.build().map_err(failed)?,
            settings,
            outward,
        })
    }

    /// Sends a JSON object: as the body, or as query parameters.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn send(
        &self,
        target: &CallbackTarget,
        object: &str,
    ) -> Result<Reply, CallbackError> {
        // An IP address in a URL is resolved by nobody.
        target.judge(&self.outward)?;
        let request = self.request(target, object)?;
        self.ask(target, request).await
    }

    /// Sends a form of Twilio's: as the body, or as query parameters.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn send_form(
        &self,
        target: &CallbackTarget,
        form: &TwilioForm,
    ) -> Result<Reply, CallbackError> {
        target.judge(&self.outward)?;
        let (http, signer) = self.way_to(target);
        let pairs = form.fields.pairs();
        let (url, signature) = match form.method {
            Method::Post => {
                let url = target.with_query(&[]);
                let sign = |signer: &Signer| {
                    let pairs: Vec<_> = pairs.iter().map(|(a, b)| (&**a, &**b)).collect();
                    signer.sign_form(&url, &pairs)
                };
                let signature = signer.map(sign);
                (url, signature)
            }
            Method::Get => {
                let url = target.with_query(pairs);
                let signature = signer.map(|signer| signer.sign_url(&url));
                (url, signature)
            }
        };
        let body = (form.method == Method::Post).then(|| (FORM, form.fields.encode()));
        let request = signed(http, target, &url, signature, body)?;
        self.ask(target, request).await
    }

    async fn ask(
        &self,
        target: &CallbackTarget,
        request: reqwest::RequestBuilder,
    ) -> Result<Reply, CallbackError> {
        let failed = |error: reqwest::Error| self.explain(target, &error);
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut reply = Reply {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            body: Vec::new(),
            is_cut: false,
        };
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            let room = ANSWER_BYTES_MAX - reply.body.len();
            reply
                .body
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                reply.is_cut = true;
                break;
            }
        }
        Ok(reply)
    }

    fn request(
        &self,
        target: &CallbackTarget,
        object: &str,
    ) -> Result<reqwest::RequestBuilder, CallbackError> {
        let (http, signer) = self.way_to(target);
        let (url, signature) = match (self.settings.method, signer) {
            (Method::Post, None) => (target.with_query(&[]), None),
            (Method::Post, Some(signer)) => {
                let url = target.with_query(&[]);
                let (url, signature) = signer.sign_json(&url, object.as_bytes());
                (url, Some(signature))
            }
            (Method::Get, signer) => {
                let url = target.with_query(&query_parameters(object));
                let signature = signer.map(|signer| signer.sign_url(&url));
                (url, signature)
            }
        };
        let is_post = self.settings.method == Method::Post;
        let body = is_post.then(|| ("application/json", object.to_owned()));
        signed(http, target, &url, signature, body)
    }

    /// The connections to an address, and what signs requests to it.
    fn way_to(&self, target: &CallbackTarget) -> (&reqwest::Client, Option<&Signer>) {
        let signer = self.settings.signer.as_ref();
        let signer = signer.filter(|_| !target.is_foreign || self.is_own(target));
        let http = if target.is_foreign {
            &self.guarded
        } else {
            &self.http
        };
        (http, signer)
    }

    fn is_own(&self, target: &CallbackTarget) -> bool {
        let host = target.host().map(|host| host.to_string());
        host.is_some_and(|host| self.outward.may_sign(&host))
    }

    fn explain(&self, target: &CallbackTarget, error: &reqwest::Error) -> CallbackError {
        // An address that is no URI for HTTP: too long with all its parameters.
        if error.is_builder() {
            return CallbackError::BadTarget(NO_REQUEST);
        }
        let host = target.to_string();
        if error.is_timeout() {
            let after = self.settings.timeout;
            return CallbackError::Slow { host, after };
        }
        if let Some(NotPermitted(address)) = innermost(error).downcast_ref() {
            let address = *address;
            return CallbackError::NotPermitted { host, address };
        }
        let reason = reason(error);
        CallbackError::Network { host, reason }
    }
}

/// A GET, or where there is a body, of this type, a POST.
fn signed(
    http: &reqwest::Client,
    target: &CallbackTarget,
    url: &str,
    signature: Option<String>,
    body: Option<(&'static str, String)>,
) -> Result<reqwest::RequestBuilder, CallbackError> {
    let url = target.with_login(url);
    let url = url.ok_or(CallbackError::BadTarget(NO_REQUEST))?;
    let mut request = match body {
        None => http.get(url),
        Some((kind, body)) => http.post(url).header(CONTENT_TYPE, kind).body(body),
    };
    if let Some(signature) = signature {
        request = request.header(HEADER, signature);
    }
    Ok(request)
}

fn innermost(error: &reqwest::Error) -> &(dyn Error + 'static) {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Why a request failed. The outermost message holds the URL; the innermost says why.
pub(super) fn reason(error: &reqwest::Error) -> String {
    let cause = innermost(error);
    if std::ptr::addr_eq(cause, error) {
        "the request failed".to_owned()
    } else {
        cause.to_string()
    }
}

/// A client that follows no redirect and asks no proxy, with this time for a request as a whole.
pub(super) fn builder(timeout: Duration, tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .no_proxy()
        .timeout(timeout)
        .pool_idle_timeout(IDLE)
}

/// Resolves names of clients' addresses, and leaves out what may not be
/// reached; the connection goes to exactly what is left.
pub(super) struct GuardedResolver(pub(super) Arc<Outward>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let outward = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = lookup_host((name.as_str(), 0)).await?.collect();
            let (may, not): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|found| outward.may_reach(found.ip()));
            match (may.is_empty(), not.first()) {
                (true, Some(first)) => Err(NotPermitted(first.ip()).into()),
                _ => Ok(Box::new(may.into_iter()) as Addrs),
            }
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is no public address")]
struct NotPermitted(IpAddr);

/// `ca_file` holds PEM certificates trusted beside the public roots.
pub(super) fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, CallbackError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca_file {
        add_roots(&mut roots, path).map_err(|reason| CallbackError::CaFile {
            path: path.to_owned(),
            reason,
        })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| CallbackError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Largest file of certificates; all public roots together have 250 kB.
const CA_FILE_MAX_BYTES: u64 = 4 << 20;

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let text = files::read(path, CA_FILE_MAX_BYTES).map_err(|error| error.to_string())?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(())
}
