//! Twilio's REST API, asked about calls that are Twilio's: ended, or given other TwiML.
//!
//! The token goes to the operator's address alone (`--twilio-api-url`); redirects are not followed, answers are not read
//! beyond their status.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use tracing::warn;
use url::Url;

use super::client::{FORM, builder, reason, tls};
use super::error::CallbackError;
use crate::core::ids::{AccountSid, CallId};
use crate::core::private::Secret;

/// How long Twilio may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Stands for no answer at all.
const NO_ANSWER: u16 = 408;

/// The way to Twilio's API.
#[derive(Clone, Debug)]
pub struct TwilioRest {
    http: reqwest::Client,
    base: Url,
}

impl TwilioRest {
    /// At this address, `https://api.twilio.com`.
    ///
    /// # Errors
    /// When it is no address, or TLS cannot be set up.
    pub fn new(base: &str) -> Result<Self, CallbackError> {
        let failed = |error: &dyn std::error::Error| CallbackError::Client(error.to_string());
        let base = Url::parse(base).map_err(|error| failed(&error))?;
        let http = builder(ANSWER_LIMIT, tls(None)?).build();
        let http = http.map_err(|error| failed(&error))?;
        Ok(Self { http, base })
    }

    /// The calls of this account.
    #[must_use]
    pub fn account(&self, sid: AccountSid, token: Secret) -> TwilioAccount {
        let rest = self.clone();
        TwilioAccount { rest, sid, token }
    }
}

/// An account of Twilio's, to be asked about its calls. `Debug` shows no token.
#[derive(Clone, Debug)]
pub struct TwilioAccount {
    rest: TwilioRest,
    sid: AccountSid,
    token: Secret,
}

impl TwilioAccount {
    /// Ends a call. True where Twilio took it, or the call is over.
    pub async fn end(&self, call: &CallId) -> bool {
        matches!(
            self.update(call, "Status", "completed").await,
            200..300 | 404
        )
    }

    /// Has Twilio do what this TwiML says with the call: its HTTP status, 408 for none.
    pub async fn replace(&self, call: &CallId, twiml: &str) -> u16 {
        self.update(call, "Twiml", twiml).await
    }

    async fn update(&self, call: &CallId, name: &str, value: &str) -> u16 {
        let mut url = self.rest.base.clone();
        let path = format!("/2010-04-01/Accounts/{}/Calls/{call}.json", self.sid);
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair(name, value)
            .finish();
        let request = self
            .rest
            .http
            .post(url)
            .basic_auth(&self.sid, Some(self.token.expose()))
            .header(CONTENT_TYPE, FORM)
            .body(form);
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                if !matches!(status, 200..300) {
                    warn!(%call, status, what = name, "Twilio's API did not do what it was asked");
                }
                status
            }
            Err(error) => {
                let error = reason(&error);
                warn!(%call, error, what = name, "Twilio's API does not answer");
                NO_ANSWER
            }
        }
    }
}
