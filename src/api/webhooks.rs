//! `POST /webhooks/voice/{line}`: Twilio asks what to do with a call to a number that stays at Twilio, and is told to open a
//! stream to this bridge.
//!
//! Whoever asks has signed it with the line's own `twilioAuthToken`; nothing else lets in, and nobody else learns which lines
//! there are.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::access::{Peer, wrong_token};
use super::body;
use super::control::Control;
use super::problem::{Problem, ProblemKind};
use crate::bridge::twilio_calls::{TwilioCall, TwilioIntake, TwilioRefusal};
use crate::callbacks::twilio_rest::{TwilioAccount, TwilioRest};
use crate::core::ids::{AccountSid, CallId, LineId};
use crate::core::private::{Private, Secret};
use crate::core::signature;
use crate::core::twilio_stream::{REJECT_DOCUMENT, connect_document};
use crate::fleet::TwilioLine;

/// What its paths begin with.
const PREFIX: &str = "/webhooks/voice/";
/// Longest number or address taken from Twilio, in bytes.
const ADDRESS_MAX_BYTES: usize = 256;

/// Whether a path is one of these: the signature stands for the token.
pub(super) fn is_webhook(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// What calls of Twilio's need.
pub struct TwilioWebhooks {
    /// `--public-url`, without a slash at its end: where Twilio believes to be.
    pub public_url: String,
    /// Takes the calls.
    pub intake: TwilioIntake,
    /// The way back to Twilio.
    pub rest: TwilioRest,
}

/// What a webhook says, as far as it matters.
struct Asked {
    call: CallId,
    account: AccountSid,
    from: Private,
    to: Private,
}

impl Asked {
    fn read(form: &[(String, String)]) -> Option<Self> {
        let text = |name: &str| {
            let found = form.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        let address = |name: &str| {
            let is_good = |value: &&str| {
                value.len() <= ADDRESS_MAX_BYTES && !value.contains(char::is_control)
            };
            text(name).filter(is_good).map(Private::new)
        };
        Some(Self {
            call: CallId::parse(text("CallSid")?)?,
            account: AccountSid::parse(text("AccountSid")?)?,
            from: address("From").unwrap_or_default(),
            to: address("To").unwrap_or_default(),
        })
    }
}

/// Twilio's voice webhook of a line whose `provider` is "twilio": the answer has it open a stream to this bridge, whose
/// worker then talks to the caller. Signed with the line's `twilioAuthToken`; there is no other way in.
#[utoipa::path(
    post,
    path = "/webhooks/voice/{line}",
    tag = "twilio",
    operation_id = "twilioVoiceWebhook",
    security(()),
    params(
        ("line" = String, Path, description = "Id of the line."),
        ("X-Twilio-Signature" = String, Header, description = "Over --public-url, the path and the form."),
    ),
    request_body(content = std::collections::HashMap<String, String>, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "TwiML: a stream to this bridge, or `<Reject>` where there is no place.", body = String, content_type = "text/xml"),
        (status = 403, description = "The signature is not of this line, or there is no such line of Twilio's.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The call was taken before.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The form is longer than 64 kB.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The form has no `CallSid` or `AccountSid`.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn voice(
    State(control): State<Arc<Control>>,
    Path(line): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let peer = request.extensions().get::<Peer>().cloned();
    let webhooks = control.twilio_webhooks.as_ref().ok_or_else(refused)?;
    let path = request.uri().path_and_query().map(|path| path.as_str());
    let url = format!("{}{}", webhooks.public_url, path.unwrap_or_default());
    let offered = request.headers().get(signature::HEADER);
    let offered = offered.and_then(|header| header.to_str().ok());
    let offered = offered.unwrap_or_default().to_owned();
    let form = body::whole(request.into_body()).await?;
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&form).into_owned().collect();
    let line = LineId::new(line);
    let token = match control.lines.twilio(&line) {
        Some(line) => verified(&control, line, url, &form, offered).await,
        None => None,
    };
    let Some(token) = token else {
        wrong_token(peer.as_ref()).await;
        return Err(refused());
    };
    let detail = "the form has no CallSid or no AccountSid";
    let asked = Asked::read(&form).ok_or_else(|| Problem::field("CallSid", detail))?;
    take(webhooks, line, asked, token)
}

fn take(
    webhooks: &TwilioWebhooks,
    line: LineId,
    asked: Asked,
    token: Secret,
) -> Result<Response, Problem> {
    let account: TwilioAccount = webhooks.rest.account(asked.account, token);
    let call = TwilioCall {
        line,
        call: asked.call,
        from: asked.from,
        to: asked.to,
    };
    let document = match webhooks.intake.take(call, account) {
        Ok(url) => connect_document(url.expose(), &Default::default()),
        Err(TwilioRefusal::NoPlace(_)) => REJECT_DOCUMENT.to_owned(),
        Err(error @ TwilioRefusal::Repeated) => {
            return Err(Problem::new(ProblemKind::CONFLICT, error.to_string()));
        }
    };
    Ok(([(CONTENT_TYPE, "text/xml")], document).into_response())
}

/// The line's token, where the request is signed with it.
async fn verified(
    control: &Control,
    line: Arc<TwilioLine>,
    url: String,
    form: &[(String, String)],
    offered: String,
) -> Option<Secret> {
    let key = control.key.clone();
    // The first time it may have to be decrypted.
    let opened = tokio::task::spawn_blocking(move || line.token(key.as_ref())).await;
    let token = match opened.ok()? {
        Ok(token) => token,
        Err(error) => {
            tracing::warn!(%error, "the twilioAuthToken of a line cannot be used");
            return None;
        }
    };
    let signer = signature::Signer::new(token.clone());
    let pairs: Vec<(&str, &str)> = form
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    signer.verifies(&url, &pairs, &offered).then_some(token)
}

fn refused() -> Problem {
    let detail = "the signature is not that of a line of Twilio's: check the line's id and its twilioAuthToken, \
         and that --public-url is what Twilio has as the webhook's address before /webhooks";
    Problem::new(ProblemKind::NOT_ALLOWED, detail)
}
