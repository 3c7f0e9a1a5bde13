//! One entry of a lines file: a JSON object, read field by field so that
//! every mistake of a line is reported at once. Wipes what it does not keep.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::line::{FieldIssue, FieldProblem, PhoneLine};
use super::row::{LINE_COLUMNS, Row};
use super::way;
use crate::core::address::HostPort;
use crate::core::ids::LineId;
use crate::core::json_type::type_name;
use crate::core::private::{Private, Secret};

/// Longest value taken for any text field, in bytes; a path is the longest.
pub const FIELD_MAX_BYTES: usize = 4_096;

/// What an entry turned out to be.
#[derive(Debug)]
pub enum LineEntry {
    /// A line to register.
    Line(Box<PhoneLine>),
    /// `isActive` is false.
    Inactive(LineId),
    /// `provider` is "twilio", and it is not active or has no `twilioAuthToken`.
    Twilio(LineId),
    /// `provider` is "twilio": Twilio's webhook brings its calls.
    TwilioLine(Box<PhoneLine>),
    /// It cannot be used: its id where it has one, and everything wrong with it.
    Mistaken(Option<LineId>, Vec<FieldIssue>),
}

impl LineEntry {
    /// The entry's id, where it has a usable one.
    #[must_use]
    pub fn id(&self) -> Option<&LineId> {
        match self {
            Self::Line(line) | Self::TwilioLine(line) => Some(&line.id),
            Self::Inactive(id) | Self::Twilio(id) => Some(id),
            Self::Mistaken(id, _) => id.as_ref(),
        }
    }
}

/// A field of the database's lines that has no column here.
const OTHERS: [&str; 1] = ["updatedAt"];

/// Reads one JSON object. Also returns warnings, which do not keep the line
/// from starting. Wipes the password that the object holds.
pub fn read_entry(mut object: Map<String, Value>) -> (LineEntry, Vec<FieldIssue>) {
    let mut warnings = unknown_fields(&object);
    warnings.extend(way::without_effect(&object));
    let client_urls = way::client_urls(&object);
    let mut reader = Reader {
        object: &mut object,
        issues: Vec::new(),
        client_urls,
    };
    let entry = reader.entry();
    wipe(&mut object);
    (entry, warnings)
}

/// Wipes every text of an object: a misspelled field may hold a password.
pub(super) fn wipe(object: &mut Map<String, Value>) {
    object.values_mut().for_each(wipe_value);
}

pub(super) fn wipe_value(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe_value),
        Value::Object(object) => wipe(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads a row of `phone_lines`.
#[must_use]
pub fn read_row(row: &Row) -> LineEntry {
    read_entry(row.to_object(LINE_COLUMNS)).0
}

fn unknown_fields(object: &Map<String, Value>) -> Vec<FieldIssue> {
    let issue = |name: &String| {
        let known = LINE_COLUMNS.iter().any(|column| column.json == name);
        if known || OTHERS.contains(&name.as_str()) {
            return None;
        }
        let problem = match LINE_COLUMNS.iter().find(|column| column.name == name) {
            Some(column) => FieldProblem::SnakeCase(column.json),
            None => FieldProblem::Unknown,
        };
        let field = name.chars().take(64).collect();
        Some(FieldIssue { field, problem })
    };
    object.keys().filter_map(issue).collect()
}

/// Reads the fields of an entry, each once.
pub(super) struct Reader<'a> {
    object: &'a mut Map<String, Value>,
    issues: Vec<FieldIssue>,
    /// Addresses that a client wrote.
    client_urls: Vec<String>,
}

impl Reader<'_> {
    fn entry(&mut self) -> LineEntry {
        let id = self.id_like("id").map(LineId::new);
        if id.is_none() && self.issues.is_empty() {
            self.report("id", FieldProblem::Missing);
        }
        let is_sip = self.is_sip();
        let is_active = self.bool("isActive").unwrap_or(true);
        if let (Some(id), true) = (&id, self.issues.is_empty()) {
            let has_token = self.object.get("twilioAuthToken");
            let has_token = has_token.is_some_and(|token| !token.is_null() && token != "");
            if !(is_sip || is_active && has_token) {
                return LineEntry::Twilio(id.clone());
            }
            if !is_active {
                return LineEntry::Inactive(id.clone());
            }
        }
        let line = self.line(id.clone().unwrap_or_else(|| LineId::new("")));
        if self.issues.is_empty() && !is_sip {
            LineEntry::TwilioLine(Box::new(line))
        } else if self.issues.is_empty() {
            LineEntry::Line(Box::new(line))
        } else {
            LineEntry::Mistaken(id, std::mem::take(&mut self.issues))
        }
    }

    fn line(&mut self, id: LineId) -> PhoneLine {
        PhoneLine {
            id,
            restaurant_id: self.id_like("restaurantId"),
            phone_number: self.user_part("phoneNumber"),
            sip_server_id: self.id_like("sipServerId"),
            sip_domain: self.host("sipDomain"),
            sip_username: self.user_part("sipUsername"),
            stored_password: self.password("sipPassword"),
            stored_twilio_token: self.password("twilioAuthToken"),
            max_concurrent_calls: self.count("maxConcurrentCalls"),
            greeting: self.text("greeting"),
            announcement: self.text("announcement"),
            fallback_number: self.user_part("fallbackNumber"),
            custom_parameters: self.parameters(),
            way: self.way(),
            sip_headers: self.sip_headers(),
            friendly_name: self.text("friendlyName"),
            status_callback: self.webhook("statusCallback", "statusCallbackMethod"),
        }
    }

    pub(super) fn is_clients(&self, url: &str) -> bool {
        self.client_urls.iter().any(|known| known == url)
    }

    pub(super) fn report(&mut self, field: impl Into<String>, problem: FieldProblem) {
        let field = field.into();
        self.issues.push(FieldIssue { field, problem });
    }

    pub(super) fn report_type(&mut self, field: &str, expected: &'static str, found: &Value) {
        let found = type_name(found);
        self.report(field, FieldProblem::Type { expected, found });
    }

    /// Takes a field out of the object; absent and null are the same.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        let value = self.object.get_mut(field).map(Value::take);
        value.filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, field: &str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) if text.len() > FIELD_MAX_BYTES => {
                self.report(field, FieldProblem::TooLong);
                None
            }
            Value::String(text) => Some(text).filter(|text| !text.is_empty()),
            other => {
                self.report_type(field, "a string", &other);
                None
            }
        }
    }

    /// Databases count ids, documents spell them.
    fn id_like(&mut self, field: &str) -> Option<String> {
        match self.object.get(field) {
            Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
            Some(Value::String(_) | Value::Null) | None => self.text(field),
            Some(other) => {
                let found = type_name(other);
                let expected = "a string or a whole number";
                self.report(field, FieldProblem::Type { expected, found });
                None
            }
        }
    }

    /// A number or name that goes into SIP addresses. JSON numbers are
    /// refused: they have lost their leading zeros.
    fn user_part(&mut self, field: &str) -> Option<Private> {
        let text = self.text(field)?;
        let breaks = |c: char| c.is_control() || matches!(c, '@' | '<' | '>' | '"' | '\\');
        let trimmed = text.trim();
        let has_space = field == "sipUsername" && trimmed.contains(char::is_whitespace);
        if trimmed.is_empty() || trimmed.contains(breaks) || has_space {
            self.report(field, FieldProblem::BadCharacter);
            return None;
        }
        Some(Private::new(trimmed))
    }

    fn password(&mut self, field: &str) -> Option<Secret> {
        match self.take(field)? {
            Value::String(text) => {
                // Taken over, not copied: wiped when dropped, whatever it is.
                let secret = Secret::new(text);
                if secret.expose().len() > FIELD_MAX_BYTES {
                    self.report(field, FieldProblem::TooLong);
                    return None;
                }
                // As the API shows it: "" is no password.
                Some(secret).filter(|secret| !secret.expose().is_empty())
            }
            mut other => {
                self.report_type(field, "a string", &other);
                wipe_value(&mut other);
                None
            }
        }
    }

    fn host(&mut self, field: &str) -> Option<HostPort> {
        let text = self.text(field)?;
        match HostPort::parse(text.trim()) {
            Ok(host) => Some(host),
            Err(error) => {
                self.report(field, error.into());
                None
            }
        }
    }

    fn bool(&mut self, field: &str) -> Option<bool> {
        let value = self.take(field)?;
        if let Value::Bool(value) = value {
            return Some(value);
        }
        self.report_type(field, "true or false", &value);
        None
    }

    fn count(&mut self, field: &str) -> Option<u32> {
        let value = self.take(field)?;
        let Value::Number(number) = &value else {
            self.report_type(field, "a whole number", &value);
            return None;
        };
        let count = number.as_u64().and_then(|n| u32::try_from(n).ok());
        let count = count.filter(|&count| count > 0);
        if count.is_none() {
            self.report(field, FieldProblem::Range);
        }
        count
    }

    /// Absent means "sip": the file is for this program.
    fn is_sip(&mut self) -> bool {
        match self.text("provider").as_deref() {
            None | Some("sip") => true,
            Some("twilio") => false,
            Some(_) => {
                self.report("provider", FieldProblem::UnknownProvider);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value) -> (LineEntry, Vec<FieldIssue>) {
        match value {
            Value::Object(object) => read_entry(object),
            other => panic!("not an object: {other}"),
        }
    }

    fn line(value: Value) -> PhoneLine {
        match read(value) {
            (LineEntry::Line(line), _) => *line,
            (other, _) => panic!("{other:?}"),
        }
    }

    fn issues(value: Value) -> Vec<String> {
        match read(value) {
            (LineEntry::Mistaken(_, issues), _) => issues.iter().map(ToString::to_string).collect(),
            (other, _) => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_fields_are_read() {
        let line = line(json!({
            "id": "l1", "restaurantId": 7, "phoneNumber": "+33 972 36 06 82", "provider": "sip",
            "sipDomain": "Sip.Example.com:5080", "sipUsername": "00339", "sipPassword": "pw",
            "isActive": true, "sipServerId": 3, "maxConcurrentCalls": 2, "greeting": "hello.wav",
            "announcement": "sorry.wav",
            "fallbackNumber": "+331", "customParameters": {"lang": "fr", "tables": 12, "vip": true},
        }));
        assert_eq!(line.id.as_str(), "l1");
        assert_eq!(line.restaurant_id.as_deref(), Some("7"));
        assert_eq!(
            line.phone_number.expect("there").expose(),
            "+33 972 36 06 82"
        );
        assert_eq!(
            line.sip_domain.expect("there").to_string(),
            "sip.example.com:5080"
        );
        assert_eq!(line.sip_username.expect("there").expose(), "00339");
        assert_eq!(line.stored_password.expect("there").expose(), "pw");
        assert_eq!(line.sip_server_id.as_deref(), Some("3"));
        assert_eq!(line.max_concurrent_calls, Some(2));
        assert_eq!(line.greeting.as_deref(), Some("hello.wav"));
        assert_eq!(line.announcement.as_deref(), Some("sorry.wav"));
        assert_eq!(line.custom_parameters["tables"], "12");
        assert_eq!(line.custom_parameters["vip"], "true");
    }

    #[test]
    fn a_number_is_an_id_and_null_is_absent() {
        let line = line(json!({"id": 42, "sipPassword": null, "isActive": null, "sipDomain": ""}));
        assert_eq!(line.id.as_str(), "42");
        assert!(line.stored_password.is_none() && line.sip_domain.is_none());
    }

    #[test]
    fn every_mistake_of_a_line_is_reported_with_its_field() {
        let found = issues(json!({
            "id": "x", "sipUsername": 339, "sipDomain": "sip:a@b", "isActive": "yes",
            "maxConcurrentCalls": 0, "customParameters": {"a": []}, "provider": "voip",
        }));
        assert_eq!(
            found,
            [
                "field \"provider\" must be \"sip\" or \"twilio\"",
                "field \"isActive\" must be true or false, is a string",
                "field \"sipDomain\" must be a host or host:port alone, without scheme, user or path",
                "field \"sipUsername\" must be a string, is a number",
                "field \"maxConcurrentCalls\" must be a whole number from 1 to 4294967295",
                "field \"customParameters.a\" must be a string, is an array",
            ]
        );
        assert_eq!(issues(json!({})), ["field \"id\" is required and missing"]);
        assert_eq!(
            issues(json!({"id": ""})),
            ["field \"id\" is required and missing"]
        );
        assert_eq!(
            issues(json!({"id": [1]})),
            ["field \"id\" must be a string or a whole number, is an array"]
        );
    }

    #[test]
    fn inactive_and_twilio_lines_are_set_aside_unread() {
        let (entry, _) = read(json!({"id": 1, "isActive": false, "sipDomain": 5}));
        assert!(matches!(entry, LineEntry::Inactive(_)));
        let (entry, _) = read(json!({"id": 1, "provider": "twilio", "sipUsername": 5}));
        assert!(matches!(entry, LineEntry::Twilio(_)));
        let with_token = |more: serde_json::Value| {
            let mut line = json!({"id": 1, "provider": "twilio", "twilioAuthToken": "t0ken"});
            let more = more.as_object().expect("fields").clone();
            line.as_object_mut().expect("a line").extend(more);
            read(line).0
        };
        let read_line = |entry| match entry {
            LineEntry::TwilioLine(line) => Some(line.stored_twilio_token.expect("a token")),
            _ => None,
        };
        let token = read_line(with_token(json!({"phoneNumber": "+33142000001"})));
        assert_eq!(token.expect("a line of Twilio's").expose(), "t0ken");
        for left_out in [
            json!({"isActive": false}),
            json!({"twilioAuthToken": ""}),
            json!({"twilioAuthToken": null}),
        ] {
            assert!(matches!(with_token(left_out), LineEntry::Twilio(_)));
        }
        let mistaken = with_token(json!({"twilioAuthToken": 5}));
        assert!(
            matches!(mistaken, LineEntry::Mistaken(_, issues) if issues[0].field == "twilioAuthToken")
        );
    }

    #[test]
    fn unknown_fields_are_warned_about_and_columns_named() {
        let (entry, warnings) =
            read(json!({"id": 1, "sip_domain": "a.b", "colour": "red", "createdAt": "now"}));
        assert!(matches!(entry, LineEntry::Line(_)));
        let shown: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "field \"colour\" is not a known field and is ignored",
                "field \"sip_domain\" is the name of the SQL column and is ignored here: write it as sipDomain",
            ]
        );
    }

    #[test]
    fn nothing_secret_or_private_is_shown() {
        let line = line(json!({"id": 1, "sipUsername": "0033972360682", "sipPassword": "hunter2"}));
        let shown = format!("{line:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("97236"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn any_object_is_a_line_or_mistaken(
            keys in proptest::collection::vec(0..LINE_COLUMNS.len(), 0..8),
            texts in proptest::collection::vec("\\PC{0,12}", 8),
            kinds in proptest::collection::vec(0..5_u8, 8),
        ) {
            let mut object = Map::new();
            for (index, key) in keys.into_iter().enumerate() {
                let value = match kinds[index] {
                    0 => json!(null),
                    1 => json!(index),
                    2 => json!([texts[index]]),
                    3 => json!({ "k": texts[index] }),
                    _ => json!(texts[index]),
                };
                object.insert(LINE_COLUMNS[key].json.into(), value);
            }
            let has_id = object.get("id").is_some_and(|id| match id {
                Value::String(text) => !text.is_empty(),
                other => other.is_number(),
            });
            match read_entry(object).0 {
                LineEntry::Line(_) | LineEntry::Inactive(_) | LineEntry::Twilio(_) | LineEntry::TwilioLine(_) => prop_assert!(has_id),
                LineEntry::Mistaken(_, issues) => prop_assert!(!issues.is_empty()),
            }
        }
    }
}
