//! The voices and models that a provider has: asked of ElevenLabs with the
//! operator's key, and remembered for ten minutes.
//!
//! Redirects are not followed: the key goes to one address. Proxies named in the
//! environment are not used. Answers are read up to a limit.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::elevenlabs::{self, Model, Voice};
use super::error::VoicesError;
use crate::core::private::Secret;

/// How long a request may take as a whole.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long an answer counts.
pub const FRESH: Duration = Duration::from_secs(600);
/// Longest answer: an account's voices with all of their samples have some hundred kB.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Most single voices that are remembered.
const VOICES_MAX: usize = 500;
/// Most requests at once.
const REQUESTS_MAX: usize = 2;
const USER_AGENT: &str = concat!("sipbridge/", env!("CARGO_PKG_VERSION"));
const KEY_HEADER: &str = "xi-api-key";

/// An answer, and since when it is known.
type Kept<T> = Option<(Arc<T>, Instant)>;

/// Asks the provider. Clones share what they know.
#[derive(Clone)]
pub struct Voices(Arc<Shared>);

struct Shared {
    http: reqwest::Client,
    base: Url,
    known: Mutex<Known>,
    /// Whoever waits for it finds the answer of the one before.
    requests: Semaphore,
}

#[derive(Default)]
struct Known {
    voices: Kept<Vec<Voice>>,
    models: Kept<Vec<Model>>,
    single: HashMap<String, (Arc<Voice>, Instant)>,
}

impl Voices {
    /// Asks at this address, with this key. Nothing is asked yet.
    ///
    /// # Errors
    /// When address or key cannot be used, or TLS cannot be set up.
    pub fn new(base: &str, key: &Secret) -> Result<Self, VoicesError> {
        let failed = |why: &str| VoicesError::Client(why.to_owned());
        let base = Url::parse(base).map_err(|_| failed("its address is no URL"))?;
        let key = HeaderValue::from_str(key.expose());
        let mut key = key.map_err(|_| failed("the key is no header"))?;
        key.set_sensitive(true);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .user_agent(USER_AGENT)
            .default_headers(HeaderMap::from_iter([(
                reqwest::header::HeaderName::from_static(KEY_HEADER),
                key,
            )]))
            .redirect(Policy::none())
            .no_proxy()
            .timeout(ANSWER_MAX)
            .build()
            .map_err(|error| VoicesError::Client(reason(&error)))?;
        Ok(Self(Arc::new(Shared {
            http,
            base,
            known: Mutex::default(),
            requests: Semaphore::new(REQUESTS_MAX),
        })))
    }

    /// All voices of the account.
    ///
    /// # Errors
    /// When the provider gives no answer that can be used.
    pub async fn all(&self) -> Result<Arc<Vec<Voice>>, VoicesError> {
        let known = |known: &Known| fresh(known.voices.as_ref());
        if let Some(voices) = known(&self.known()) {
            return Ok(voices);
        }
        let _turn = self.turn().await?;
        if let Some(voices) = known(&self.known()) {
            return Ok(voices);
        }
        let body = self.ask(&["v1", "voices"]).await?;
        let voices = elevenlabs::voices(&body).ok_or(VoicesError::Answer)?;
        let voices = Arc::new(voices);
        self.known().voices = Some((voices.clone(), Instant::now()));
        Ok(voices)
    }

    /// One voice.
    ///
    /// # Errors
    /// As [`Voices::all`], and when there is no such voice.
    pub async fn one(&self, id: &str) -> Result<Arc<Voice>, VoicesError> {
        let known = |known: &Known| fresh(known.single.get(id));
        if let Some(voice) = known(&self.known()) {
            return Ok(voice);
        }
        let _turn = self.turn().await?;
        if let Some(voice) = known(&self.known()) {
            return Ok(voice);
        }
        let body = self.ask(&["v1", "voices", id]).await;
        let body = body.map_err(|error| match error {
            // What is no id at all is refused with 400 or 422.
            VoicesError::Status(400 | 404 | 422) => VoicesError::Missing,
            error => error,
        })?;
        let voice = elevenlabs::voice(&body).ok_or(VoicesError::Answer)?;
        let voice = Arc::new(voice);
        let mut known = self.known();
        if known.single.len() >= VOICES_MAX {
            known.single.clear();
        }
        let entry = (voice.clone(), Instant::now());
        known.single.insert(id.to_owned(), entry);
        Ok(voice)
    }

    /// The models that make speech.
    ///
    /// # Errors
    /// As [`Voices::all`].
    pub async fn models(&self) -> Result<Arc<Vec<Model>>, VoicesError> {
        let known = |known: &Known| fresh(known.models.as_ref());
        if let Some(models) = known(&self.known()) {
            return Ok(models);
        }
        let _turn = self.turn().await?;
        if let Some(models) = known(&self.known()) {
            return Ok(models);
        }
        let body = self.ask(&["v1", "models"]).await?;
        let models = elevenlabs::models(&body).ok_or(VoicesError::Answer)?;
        let models = Arc::new(models);
        self.known().models = Some((models.clone(), Instant::now()));
        Ok(models)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, VoicesError> {
        let turn = tokio::time::timeout(ANSWER_MAX, self.0.requests.acquire()).await;
        match turn {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(VoicesError::Slow(ANSWER_MAX)),
        }
    }

    /// The body of an answer with status 200.
    async fn ask(&self, path: &[&str]) -> Result<Vec<u8>, VoicesError> {
        let mut url = self.0.base.clone();
        // Each part is escaped: an id leads to no other path.
        let parts = url.path_segments_mut();
        let mut parts =
            parts.map_err(|()| VoicesError::Client("its address has no path".into()))?;
        parts.pop_if_empty().extend(path);
        drop(parts);
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => VoicesError::Slow(ANSWER_MAX),
            false => VoicesError::Network(reason(&error)),
        };
        let mut response = self.0.http.get(url).send().await.map_err(failed)?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(VoicesError::Key(response.status().as_u16())),
            429 => return Err(VoicesError::Busy),
            status => return Err(VoicesError::Status(status)),
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_MAX_BYTES {
                return Err(VoicesError::TooLong(ANSWER_MAX_BYTES));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn fresh<T>(kept: Option<&(Arc<T>, Instant)>) -> Option<Arc<T>> {
    let (answer, at) = kept?;
    (at.elapsed() < FRESH).then(|| answer.clone())
}

/// The outermost message holds the URL; the innermost says why.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, error) {
        return "the request failed".to_owned();
    }
    cause.to_string()
}

/// The public roots.
fn tls() -> Result<ClientConfig, VoicesError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| VoicesError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
