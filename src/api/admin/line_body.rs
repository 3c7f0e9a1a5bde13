//! A phone line as JSON: what is stored, and what became of it on this bridge.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::control::Control;
use crate::api::nodes::Nodes;
use crate::core::ids::LineId;
use crate::core::private::Private;
use crate::core::timestamp::rfc3339_ms;
use crate::core::twiml::document::Webhook;
use crate::fleet::LineHealth;
use crate::lines::row::LINE_COLUMNS;
use crate::lines::{LineWay, Row};

/// A phone line. Its password is never shown. Of a line that is in no database
/// not all fields are known; the others are null.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineBody {
    id: String,
    restaurant_id: Option<String>,
    phone_number: Option<String>,
    /// "sip" or "twilio"; only "sip" lines register here, calls of the others come by `/webhooks/voice`.
    provider: Option<String>,
    sip_domain: Option<String>,
    sip_username: Option<String>,
    /// Whether a password is stored; null for a line that is in no database.
    has_password: Option<bool>,
    twilio_trunk_sid: Option<String>,
    /// Whether a `twilioAuthToken` is stored; null for a line that is in no database.
    has_twilio_auth_token: Option<bool>,
    is_active: Option<bool>,
    created_at: Option<String>,
    sip_server_id: Option<String>,
    max_concurrent_calls: Option<u64>,
    /// Path of a WAV file.
    greeting: Option<String>,
    /// Path of a WAV file.
    announcement: Option<String>,
    fallback_number: Option<String>,
    #[schema(value_type = Option<Object>)]
    custom_parameters: Option<Value>,
    /// Where its worker is dialled; null for a line that goes another way.
    ws_target: Option<String>,
    /// Its voice webhook; null for a line that goes another way.
    voice_url: Option<String>,
    voice_method: Option<String>,
    voice_fallback_url: Option<String>,
    voice_fallback_method: Option<String>,
    /// Told when a call that came in is over.
    status_callback: Option<String>,
    status_callback_method: Option<String>,
    /// Names of parameters, and the SIP header that each becomes.
    #[schema(value_type = Option<Object>)]
    sip_headers: Option<Value>,
    /// Its name for people.
    friendly_name: Option<String>,
    #[serde(flatten)]
    standing: Standing,
}

/// What became of a line on this bridge.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The SIP server that it uses.
    server: Option<String>,
    /// udp, tcp or tls.
    transport: Option<String>,
    /// By which rule it uses that server.
    rule: Option<String>,
    /// registered, registering, decrypting (it takes calls, and registers once its password
    /// is decrypted), elsewhere (another bridge is registered for it, see `node`; calls that come here are taken),
    /// failed, refused (the SIP stack could not add it,
    /// see `lastError` and `nextTryAt`) or off (not registering); unusable
    /// (see `lastError`), twilio (its calls come by `/webhooks/voice`), left-out (inactive, or of another
    /// provider and not to be taken, see `lastError`), or
    /// pending (not taken up yet).
    state: &'static str,
    /// The bridge that is registered for it, where bridges share lines.
    node: Option<String>,
    /// When the registration ends unless it is refreshed.
    expires_at: Option<String>,
    /// When it is tried again.
    next_try_at: Option<String>,
    /// What went wrong last.
    last_error: Option<String>,
}

impl LineBody {
    /// A line, and what became of it.
    #[must_use]
    pub fn of(row: &Row, control: &Control) -> Self {
        let text = |name| row.get(name).map(str::to_owned);
        let object = row.to_open_object(LINE_COLUMNS);
        let value = |name: &str| object.get(name);
        let object_of = |name: &str| value(name).filter(|it| it.is_object()).cloned();
        let id = text("id").unwrap_or_default();
        Self {
            standing: standing(&LineId::new(id.as_str()), control),
            id,
            restaurant_id: text("restaurant_id"),
            phone_number: text("phone_number"),
            provider: text("provider"),
            sip_domain: text("sip_domain"),
            sip_username: text("sip_username"),
            has_password: Some(row.get("sip_password").is_some_and(|pw| !pw.is_empty())),
            twilio_trunk_sid: text("twilio_trunk_sid"),
            has_twilio_auth_token: Some(
                row.get("twilio_auth_token")
                    .is_some_and(|it| !it.is_empty()),
            ),
            is_active: value("isActive").and_then(Value::as_bool),
            created_at: text("created_at"),
            sip_server_id: text("sip_server_id"),
            max_concurrent_calls: value("maxConcurrentCalls").and_then(Value::as_u64),
            greeting: text("greeting"),
            announcement: text("announcement"),
            fallback_number: text("fallback_number"),
            custom_parameters: object_of("customParameters"),
            ws_target: text("ws_target"),
            voice_url: text("voice_url"),
            voice_method: text("voice_method"),
            voice_fallback_url: text("voice_fallback_url"),
            voice_fallback_method: text("voice_fallback_method"),
            status_callback: text("status_callback"),
            status_callback_method: text("status_callback_method"),
            sip_headers: object_of("sipHeaders"),
            friendly_name: text("friendly_name"),
        }
    }

    /// A line that is in no database, as far as the bridge knows it: one that
    /// it holds, or that it could not take up.
    #[must_use]
    pub fn held(id: &LineId, control: &Control) -> Option<Self> {
        let lines = &control.lines;
        let unheld = Self {
            id: id.as_str().to_owned(),
            standing: standing(id, control),
            ..Self::default()
        };
        let Some(line) = lines.get(id) else {
            return lines.health(id).map(|_| unheld);
        };
        let number = |number: &Option<Private>| Some(number.as_ref()?.expose().to_owned());
        let object = |texts: &BTreeMap<String, String>| {
            let pairs = texts.iter();
            let pairs = pairs.map(|(key, value)| (key.clone(), value.as_str().into()));
            (!texts.is_empty()).then(|| Value::Object(pairs.collect()))
        };
        let voice = line.way.as_ref().and_then(LineWay::voice);
        let fallback = voice.and_then(|voice| voice.fallback.as_ref());
        let ws_target = line.way.as_ref().and_then(LineWay::ws_target);
        let url = |webhook: &Webhook| webhook.url.expose().to_owned();
        let method = |webhook: &Webhook| webhook.method.as_str().to_owned();
        Some(Self {
            ws_target: ws_target.map(|url| url.expose().to_owned()),
            voice_url: voice.map(|voice| url(&voice.webhook)),
            voice_method: voice.map(|voice| method(&voice.webhook)),
            voice_fallback_url: fallback.map(url),
            voice_fallback_method: fallback.map(method),
            status_callback: line.status_callback.as_ref().map(url),
            status_callback_method: line.status_callback.as_ref().map(method),
            friendly_name: line.friendly_name.clone(),
            restaurant_id: line.restaurant_id.clone(),
            phone_number: number(&line.phone_number),
            provider: Some(
                if lines.twilio(id).is_some() {
                    "twilio"
                } else {
                    "sip"
                }
                .into(),
            ),
            is_active: Some(true),
            fallback_number: number(&line.fallback_number),
            custom_parameters: object(&line.custom_parameters),
            sip_headers: object(&line.sip_headers),
            ..unheld
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// What became of a line.
#[must_use]
pub fn standing(line: &LineId, control: &Control) -> Standing {
    let mut standing = match control.lines.health(line) {
        None => Standing {
            state: "pending",
            ..Standing::default()
        },
        Some(LineHealth::Usable {
            server,
            transport,
            rule,
        }) => Standing {
            server: Some(server),
            transport: Some(transport.to_string()),
            rule: Some(rule),
            state: "pending",
            ..Standing::default()
        },
        Some(LineHealth::Twilio) => Standing {
            state: "twilio",
            ..Standing::default()
        },
        Some(LineHealth::Unusable { reason }) => Standing::out_of_use("unusable", reason),
        Some(LineHealth::Skipped { reason }) => Standing::out_of_use("left-out", reason),
    };
    if let Some(registration) = control.registrar.status(line) {
        standing.state = registration.state.as_str();
        standing.expires_at = registration.expires_at.map(rfc3339_ms);
        standing.next_try_at = registration.next_try_at.map(rfc3339_ms);
        standing.last_error = registration.last_error.or(standing.last_error);
        let cluster = control.nodes.as_ref().map(Nodes::cluster);
        let holder = cluster.and_then(|cluster| cluster.holder(line));
        standing.node = holder.map(|node| node.to_string());
    }
    standing
}

impl Standing {
    fn out_of_use(state: &'static str, reason: String) -> Self {
        Self {
            state,
            last_error: Some(reason),
            ..Self::default()
        }
    }
}
