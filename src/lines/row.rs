//! A row of `phone_lines` or `sip_servers`: each column as text, whatever
//! type the database gives it. Also the part of a row that is to be written.
//!
//! Leaves out what the texts mean: lines are read by `entry`, servers by
//! `server`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::core::private::Secret;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text, or an id.
    Text,
    /// A password as stored.
    Password,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count,
    /// A JSON object as text.
    Json,
}

/// A column of one of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in SQL.
    pub name: &'static str,
    /// Its name in JSON.
    pub json: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
}

impl Column {
    /// Whether it holds no password.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.kind != ColumnKind::Password
    }
}

const fn column(name: &'static str, json: &'static str, kind: ColumnKind) -> Column {
    Column { name, json, kind }
}

/// `phone_lines`: those of production, and ours.
pub const LINE_COLUMNS: &[Column] = &[
    column("id", "id", ColumnKind::Text),
    column("restaurant_id", "restaurantId", ColumnKind::Text),
    column("phone_number", "phoneNumber", ColumnKind::Text),
    column("provider", "provider", ColumnKind::Text),
    column("sip_domain", "sipDomain", ColumnKind::Text),
    column("sip_username", "sipUsername", ColumnKind::Text),
    column("sip_password", "sipPassword", ColumnKind::Password),
    column("twilio_trunk_sid", "twilioTrunkSid", ColumnKind::Text),
    column("is_active", "isActive", ColumnKind::Flag),
    column("created_at", "createdAt", ColumnKind::Text),
    column("sip_server_id", "sipServerId", ColumnKind::Text),
    column(
        "max_concurrent_calls",
        "maxConcurrentCalls",
        ColumnKind::Count,
    ),
    column("greeting", "greeting", ColumnKind::Text),
    column("announcement", "announcement", ColumnKind::Text),
    column("fallback_number", "fallbackNumber", ColumnKind::Text),
    column("custom_parameters", "customParameters", ColumnKind::Json),
    column("ws_target", "wsTarget", ColumnKind::Text),
    column("voice_url", "voiceUrl", ColumnKind::Text),
    column("voice_method", "voiceMethod", ColumnKind::Text),
    column("voice_fallback_url", "voiceFallbackUrl", ColumnKind::Text),
    column(
        "voice_fallback_method",
        "voiceFallbackMethod",
        ColumnKind::Text,
    ),
    column("status_callback", "statusCallback", ColumnKind::Text),
    column(
        "status_callback_method",
        "statusCallbackMethod",
        ColumnKind::Text,
    ),
    column("friendly_name", "friendlyName", ColumnKind::Text),
    column("sip_headers", "sipHeaders", ColumnKind::Json),
    column(CLIENT_URLS.0, CLIENT_URLS.1, ColumnKind::Json),
    column("twilio_auth_token", "twilioAuthToken", ColumnKind::Password),
];

/// Which of a line's addresses a client wrote, in SQL and in JSON: an array of them. Whatever else stands in their place
/// later, by whichever way it got there, is the operator's.
pub const CLIENT_URLS: (&str, &str) = ("client_urls", "clientUrls");

/// `sip_servers`; the API writes its fields as SQL does.
pub const SERVER_COLUMNS: &[Column] = &[
    column("id", "id", ColumnKind::Text),
    column("label", "label", ColumnKind::Text),
    column("trunk_uri", "trunk_uri", ColumnKind::Text),
    column("username", "username", ColumnKind::Text),
    column("password", "password", ColumnKind::Password),
    column("contact_host", "contact_host", ColumnKind::Text),
    column("contact_port", "contact_port", ColumnKind::Count),
    column("contact_transport", "contact_transport", ColumnKind::Text),
    column("allow_from", "allow_from", ColumnKind::Text),
];

/// The columns that are there, each with its text or null. `Debug` shows
/// which, not what is in them.
#[derive(Clone, Default)]
pub struct Row(BTreeMap<&'static str, Option<Secret>>);

impl Row {
    /// Takes the fields that an object has. Those that are not there stay out
    /// of the row; null and "" are null, but for a password.
    #[must_use]
    pub fn from_object(columns: &[Column], object: &Map<String, Value>) -> Self {
        let mut row = Self::default();
        for column in columns {
            let Some(value) = object.get(column.json) else {
                continue;
            };
            let text = match value {
                Value::Null => None,
                Value::String(text) if text.is_empty() && column.kind != ColumnKind::Password => {
                    None
                }
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            row.set(*column, text);
        }
        row
    }

    /// The object that the row would be in a file of lines: booleans, numbers
    /// and objects where the texts are such, strings where not.
    #[must_use]
    pub fn to_object(&self, columns: &[Column]) -> Map<String, Value> {
        self.object(columns.iter())
    }

    /// The same without a password: whoever drops the object wipes nothing.
    #[must_use]
    pub fn to_open_object(&self, columns: &[Column]) -> Map<String, Value> {
        self.object(columns.iter().filter(|column| column.is_open()))
    }

    fn object<'a>(&self, columns: impl Iterator<Item = &'a Column>) -> Map<String, Value> {
        let value = |column: &Column| {
            let text = self.get(column.name)?;
            let parsed = match column.kind {
                ColumnKind::Text | ColumnKind::Password => None,
                ColumnKind::Flag => flag(text).map(Value::Bool),
                ColumnKind::Count => text.parse::<u64>().ok().map(Value::from),
                ColumnKind::Json => serde_json::from_str(text).ok(),
            };
            Some(parsed.unwrap_or_else(|| Value::String(text.to_owned())))
        };
        let pair = |column: &Column| Some((column.json.to_owned(), value(column)?));
        columns.filter_map(pair).collect()
    }

    /// Sets a column. A flag is kept as `true` or `false`, however it is spelled.
    pub fn set(&mut self, column: Column, text: Option<String>) {
        let text = text.map(|text| match (column.kind, flag(&text)) {
            (ColumnKind::Flag, Some(flag)) => flag.to_string(),
            _ => text,
        });
        self.0.insert(column.name, text.map(Secret::new));
    }

    /// The text of a column; `None` when it is null or not there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_ref().map(Secret::expose)
    }

    /// Whether the column is there, null or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The columns that are there.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }

    /// `id`, where it is there.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.get("id")
    }

    /// A secret column, shared.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.0.get(name)?.clone()
    }

    /// Puts the columns of another row over those of this one. The answer is
    /// whether that changed anything.
    pub fn overlay(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (name, text) in &other.0 {
            changed |= self.get(name) != other.get(name);
            self.0.insert(name, text.clone());
        }
        changed
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Databases write booleans as true, t or 1, people also as yes.
fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "y" | "on" => Some(true),
        "false" | "f" | "0" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        Row::from_object(LINE_COLUMNS, value.as_object().expect("object"))
    }

    #[test]
    fn an_object_survives_the_way_through_text() {
        let line = json!({"id": "7", "isActive": false, "maxConcurrentCalls": 2,
            "customParameters": {"lang": "fr", "n": 1}, "sipPassword": "pw"});
        let row = row(line.clone());
        assert_eq!(Value::Object(row.to_object(LINE_COLUMNS)), line);
        let mut open = line;
        open.as_object_mut().expect("object").remove("sipPassword");
        assert_eq!(Value::Object(row.to_open_object(LINE_COLUMNS)), open);
        assert_eq!(row.get("custom_parameters"), Some(r#"{"lang":"fr","n":1}"#));
        assert_eq!(row.id(), Some("7"));
        assert!(!format!("{row:?}").contains("pw\""));
    }

    #[test]
    fn what_a_database_makes_of_a_boolean_is_one() {
        for (text, expected) in [
            ("t", true),
            ("1", true),
            ("TRUE", true),
            ("f", false),
            ("0", false),
        ] {
            let mut row = Row::default();
            row.set(LINE_COLUMNS[8], Some(text.into()));
            assert_eq!(row.to_object(LINE_COLUMNS)["isActive"], json!(expected));
        }
        let mut odd = Row::default();
        odd.set(LINE_COLUMNS[8], Some("perhaps".into()));
        assert_eq!(odd.to_object(LINE_COLUMNS)["isActive"], json!("perhaps"));
    }

    #[test]
    fn only_the_fields_that_are_named_are_laid_over() {
        let mut stored = row(json!({"id": 1, "greeting": "a.wav", "sipDomain": "a"}));
        assert!(!stored.overlay(&row(json!({"id": "1", "sipDomain": "a"}))));
        assert!(stored.overlay(&row(json!({"id": 1, "greeting": null}))));
        assert_eq!(
            (stored.get("greeting"), stored.get("sip_domain")),
            (None, Some("a"))
        );
        assert!(stored.has("greeting") && !stored.has("announcement"));
    }
}
