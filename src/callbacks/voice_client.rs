//! The document that a voice webhook answers: asked for, redirects followed, read.
//!
//! Each request of the way is judged and signed for itself. Proxies named in the environment are not used.

use std::path::Path;
use std::sync::Arc;

use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use tokio::time::timeout;

use super::client::{FORM, GuardedResolver, builder, reason, tls};
use super::error::CallbackError;
use super::target::CallbackTarget;
use crate::core::outward::{Outward, WrittenBy};
use crate::core::signature::{HEADER, Signer};
use crate::core::twiml::document::Webhook;
use crate::core::twiml::{DOCUMENT_BYTES_MAX, Document, TwimlError, VoiceUrl, parse};
use crate::core::voice::webhook::{FormFields, VoiceRequest};
use crate::core::voice::{FETCH_LIMIT, FetchFailure, is_twiml_content_type};

/// Most redirects of one request.
pub const REDIRECTS_MAX: usize = 10;

/// Asks voice webhooks. Clones share their connections.
#[derive(Clone, Debug)]
pub struct VoiceClient {
    /// For the operator's addresses.
    http: reqwest::Client,
    /// For those of clients. It has connections of its own, each of which was judged.
    guarded: reqwest::Client,
    signer: Option<Signer>,
    outward: Arc<Outward>,
}

impl VoiceClient {
    /// Requests are signed where there is a signer. `ca_file` holds PEM certificates trusted beside the public
    /// roots; `outward` judges addresses that clients wrote.
    ///
    /// # Errors
    /// When the CA file is unusable, or TLS cannot be set up.
    pub fn new(
        signer: Option<Signer>,
        ca_file: Option<&Path>,
        outward: Arc<Outward>,
    ) -> Result<Self, CallbackError> {
        let tls = tls(ca_file)?;
        let failed = |error: reqwest::Error| CallbackError::Client(error.to_string());
        let resolver = Arc::new(GuardedResolver(outward.clone()));
        let guarded = builder(FETCH_LIMIT, tls.clone()).dns_resolver(resolver);
        Ok(Self {
            http: builder(FETCH_LIMIT, tls).build().map_err(failed)?,
            guarded: guarded.build().map_err(failed)?,
            signer,
            outward,
        })
    }

    /// Asks a webhook what is to be done. Takes [`FETCH_LIMIT`] at most, redirects included. Where it may lead, and whether it
    /// is signed, says who wrote its address; so of all addresses in the document.
    ///
    /// # Errors
    /// When no document comes of it.
    pub async fn fetch(
        &self,
        webhook: &Webhook,
        fields: FormFields,
    ) -> Result<Document, FetchFailure> {
        let whole = async {
            let (response, address) = self.follow(webhook, fields).await?;
            read(response, &address, webhook.written_by).await
        };
        match timeout(FETCH_LIMIT, whole).await {
            Ok(result) => result,
            Err(_) => Err(FetchFailure::TimedOut),
        }
    }

    /// The 2xx answer at the end of all redirects, and where it came from.
    pub(super) async fn follow(
        &self,
        webhook: &Webhook,
        fields: FormFields,
    ) -> Result<(Response, VoiceUrl), FetchFailure> {
        let written_by = webhook.written_by;
        let signer = self.signer_for(&webhook.url, written_by);
        let mut request = VoiceRequest::new(webhook, fields, signer);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(&request, written_by).await?;
            let status = response.status().as_u16();
            match redirect_of(&response, &request.url) {
                Some(to) => {
                    let signer = self.signer_for(&to, written_by);
                    request = request.redirected(status, to, signer);
                }
                None if !response.status().is_success() => {
                    return Err(FetchFailure::Status(status));
                }
                None => return Ok((response, request.url)),
            }
        }
        Err(FetchFailure::TooManyRedirects)
    }

    async fn send(
        &self,
        request: &VoiceRequest,
        written_by: WrittenBy,
    ) -> Result<Response, FetchFailure> {
        let http = match written_by {
            WrittenBy::Operator => &self.http,
            WrittenBy::Client => {
                // An IP address in a URL is resolved by nobody.
                let target = CallbackTarget::parse_foreign(request.url.expose());
                let judged = target.and_then(|target| target.judge(&self.outward));
                judged.map_err(|error| FetchFailure::NoAnswer(error.to_string()))?;
                &self.guarded
            }
        };
        let url = request.url.expose();
        let mut builder = match &request.form {
            None => http.get(url),
            Some(form) => http
                .post(url)
                .header(CONTENT_TYPE, FORM)
                .body(form.encode()),
        };
        if let Some(signature) = &request.signature {
            builder = builder.header(HEADER, signature);
        }
        builder.send().await.map_err(|error| failure(&error))
    }

    /// The key is the operator's, and what it signs is believed by all his receivers.
    fn signer_for(&self, url: &VoiceUrl, written_by: WrittenBy) -> Option<&Signer> {
        let is_own = || url.host().is_some_and(|host| self.outward.may_sign(host));
        let signer = self.signer.as_ref();
        signer.filter(|_| written_by == WrittenBy::Operator || is_own())
    }
}

/// Where an answer leads on to. One that says so without an address that can be used does not.
fn redirect_of(response: &Response, from: &VoiceUrl) -> Option<VoiceUrl> {
    let leads_on = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| leads_on)?;
    VoiceUrl::resolve_http(Some(from), location.to_str().ok()?)
}

/// Reads the document that came from this address: what it names is of the address's own origin.
async fn read(
    response: Response,
    address: &VoiceUrl,
    written_by: WrittenBy,
) -> Result<Document, FetchFailure> {
    let content_type = response.headers().get(CONTENT_TYPE);
    // One that is no text is none of those that are served.
    let content_type = content_type.map(|value| value.to_str().unwrap_or("?"));
    if !is_twiml_content_type(content_type) {
        return Err(FetchFailure::ContentType);
    }
    let body = body_of(response, DOCUMENT_BYTES_MAX).await?;
    let body = body.ok_or(TwimlError::TooLong)?;
    Ok(parse(&body, Some(address), written_by)?)
}

/// The body of an answer; `None` where it is longer than this.
pub(super) async fn body_of(
    mut response: Response,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, FetchFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        if body.len() + chunk.len() > max_bytes {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

pub(super) fn failure(error: &reqwest::Error) -> FetchFailure {
    if error.is_timeout() {
        FetchFailure::TimedOut
    } else {
        FetchFailure::NoAnswer(reason(error))
    }
}
