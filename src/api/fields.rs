//! The fields of a request for a row of `phone_lines` or `sip_servers`: known
//! ones only, of the right types, every mistake reported at once. What the
//! values mean is for the room `lines` to judge.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::problem::{FieldError, Problem};
use crate::core::json_type::type_name;
use crate::core::private::Secret;
use crate::lines::Row;
use crate::lines::entry::FIELD_MAX_BYTES;
use crate::lines::line::{FieldIssue, FieldProblem};
use crate::lines::row::{Column, ColumnKind};

/// Longest id of a line or server that the API makes.
const ID_MAX_BYTES: usize = 64;

/// What a request may say about one of the two tables.
#[derive(Debug)]
pub struct Spec {
    /// The columns, with their JSON names.
    pub columns: &'static [Column],
    /// Fields of answers that no request may set.
    pub read_only: &'static [&'static str],
}

/// A whole number as an id: databases count them.
const COUNTED: [&str; 3] = ["id", "restaurant_id", "sip_server_id"];

/// The fields of a request. Wiped when dropped: one may be a password.
pub struct GivenFields {
    object: Map<String, Value>,
    spec: &'static Spec,
    errors: Vec<FieldError>,
}

impl GivenFields {
    /// Takes what is known and has the right type, and reports the rest.
    #[must_use]
    pub fn new(object: Map<String, Value>, spec: &'static Spec) -> Self {
        let mut given = Self {
            object,
            spec,
            errors: Vec::new(),
        };
        let names: Vec<String> = given.object.keys().cloned().collect();
        for name in names {
            let value = given.object.get(&name).unwrap_or(&Value::Null);
            if let Err(reason) = check(spec, &name, value) {
                given.refuse(&name, reason);
            }
        }
        given
    }

    /// The fields that are there, for the audit.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let names = self.spec.columns.iter().map(|column| column.json);
        names
            .filter(|name| self.object.contains_key(*name))
            .collect()
    }

    /// A field that is there, null or not.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name)
    }

    /// The id, where one is given: a text or a number.
    pub fn id(&mut self) -> Option<String> {
        let id = self.text("id")?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > ID_MAX_BYTES || !id.bytes().all(is_plain) {
            let reason = "must be 1 to 64 letters, digits, dots, dashes or underscores";
            self.refuse("id", reason.into());
            return None;
        }
        Some(id)
    }

    /// The id of what is changed stays what it is.
    pub fn keep_id(&mut self, id: &str) {
        if self.object.contains_key("id") && self.text("id").as_deref() != Some(id) {
            self.refuse("id", "cannot be changed".into());
        }
    }

    /// A text, or a number as one; null and absent are the same.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        match self.object.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Sets a field.
    pub fn set(&mut self, name: &str, value: Value) {
        self.object.insert(name.to_owned(), value);
    }

    /// Takes a password out: `Some(None)` when it is null.
    pub fn take_password(&mut self, name: &str) -> Option<Option<Secret>> {
        match self.object.remove(name)? {
            Value::String(text) => Some(Some(Secret::new(text))),
            _ => Some(None),
        }
    }

    /// A field is at fault: it counts as not given from now on.
    pub fn refuse(&mut self, name: &str, reason: String) {
        if let Some(mut value) = self.object.remove(name) {
            wipe(&mut value);
        }
        let name: String = name.chars().take(64).collect();
        self.errors.push(FieldError::new(name, reason));
    }

    /// Adds what the room `lines` found wrong, but for fields that are at
    /// fault already.
    pub fn add_issues(&mut self, issues: Vec<FieldIssue>) {
        for issue in issues {
            let known = self.errors.iter().any(|error| error.field == issue.field);
            if !known {
                self.errors
                    .push(FieldError::new(issue.field, reason(issue.problem)));
            }
        }
    }

    /// What is given, laid over a row. Without passwords: nobody wipes the
    /// object, and there is no more to say of them than [`GivenFields::new`] did.
    #[must_use]
    pub fn over(&self, row: &Row) -> Map<String, Value> {
        let mut merged = row.to_open_object(self.spec.columns);
        for column in self.spec.columns.iter().filter(|column| column.is_open()) {
            if let Some(value) = self.object.get(column.json) {
                merged.insert(column.json.to_owned(), value.clone());
            }
        }
        merged
    }

    /// The object as it is to be stored.
    #[must_use]
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// The columns that are to be written.
    #[must_use]
    pub fn row(&self) -> Row {
        Row::from_object(self.spec.columns, &self.object)
    }

    /// # Errors
    /// With every mistake.
    pub fn check(&self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(self.errors.clone()))
    }
}

impl Drop for GivenFields {
    fn drop(&mut self) {
        self.object.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(object) => object.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check(spec: &Spec, name: &str, value: &Value) -> Result<(), String> {
    if spec.read_only.contains(&name) {
        return Err("cannot be set".into());
    }
    let Some(column) = spec.columns.iter().find(|column| column.json == name) else {
        let twin = spec.columns.iter().find(|column| column.name == name);
        return Err(match twin {
            Some(column) => format!("is not a known field: write {}", column.json),
            None => "is not a known field".into(),
        });
    };
    if let Value::String(text) = value {
        if text.len() > FIELD_MAX_BYTES {
            return Err(reason(FieldProblem::TooLong));
        }
    }
    let counted = COUNTED.contains(&column.name);
    let (fits, expected) = match (column.kind, value) {
        (_, Value::Null) => (true, ""),
        (ColumnKind::Text, Value::Number(number)) if counted => (
            number.is_u64() || number.is_i64(),
            "a string or a whole number",
        ),
        (ColumnKind::Text, value) if counted => (value.is_string(), "a string or a whole number"),
        (ColumnKind::Text | ColumnKind::Password, value) => (value.is_string(), "a string"),
        (ColumnKind::Flag, value) => (value.is_boolean(), "true or false"),
        (ColumnKind::Count, value) => (value.is_u64(), "a whole number"),
        (ColumnKind::Json, value) => (value.is_object(), "an object"),
    };
    if fits {
        return Ok(());
    }
    let found = type_name(value);
    Err(reason(FieldProblem::Type { expected, found }))
}

/// A field may be ignored in a file that people edit; a request that has one
/// is refused.
fn reason(problem: FieldProblem) -> String {
    match problem {
        FieldProblem::Unknown => "is not a known field".into(),
        FieldProblem::SnakeCase(json) => format!("is not a known field: write {json}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::row::LINE_COLUMNS;
    use serde_json::json;

    static SPEC: Spec = Spec {
        columns: LINE_COLUMNS,
        read_only: &["state"],
    };

    fn given(value: Value) -> GivenFields {
        match value {
            Value::Object(object) => GivenFields::new(object, &SPEC),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn every_mistake_is_found_and_what_is_right_is_kept() {
        let long = "x".repeat(FIELD_MAX_BYTES + 1);
        let given = given(json!({
            "id": 7, "restaurantId": 1.5, "sip_domain": "a", "x": 1, "state": "ok",
            "isActive": "yes", "maxConcurrentCalls": "2", "customParameters": [],
            "phoneNumber": 33, "greeting": long, "sipDomain": "a.example", "announcement": null,
        }));
        let mut found: Vec<_> = given
            .errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.reason))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "customParameters must be an object, is an array",
                "greeting is longer than 4096 bytes",
                "isActive must be true or false, is a string",
                "maxConcurrentCalls must be a whole number, is a string",
                "phoneNumber must be a string, is a number",
                "restaurantId must be a string or a whole number, is a number",
                "sip_domain is not a known field: write sipDomain",
                "state cannot be set",
                "x is not a known field",
            ]
        );
        assert_eq!(given.names(), ["id", "sipDomain", "announcement"]);
        assert_eq!(given.row().get("sip_domain"), Some("a.example"));
        assert!(given.check().is_err());
    }

    #[test]
    fn ids_are_short_and_plain() {
        for (id, expected) in [
            (json!(7), Some("7")),
            (json!("a-B_1.c"), Some("a-B_1.c")),
            (json!(""), None),
            (json!("a/b"), None),
            (json!("\u{e9}"), None),
            (json!("a".repeat(65)), None),
        ] {
            let mut given = given(json!({"id": id}));
            assert_eq!(given.id().as_deref(), expected, "{id}");
            assert_eq!(given.check().is_ok(), expected.is_some());
        }
    }

    #[test]
    fn a_password_is_taken_out() {
        let mut some = given(json!({"sipPassword": "hunter2"}));
        let taken = some.take_password("sipPassword").flatten().expect("one");
        assert_eq!(taken.expose(), "hunter2");
        assert!(!some.row().has("sip_password"));
        let mut null = given(json!({"sipPassword": null}));
        assert!(null.take_password("sipPassword").expect("given").is_none());
        assert!(given(json!({})).take_password("sipPassword").is_none());
    }

    #[test]
    fn laid_over_a_row_there_is_no_password_in_it() {
        let row = |value: Value| match value {
            Value::Object(object) => Row::from_object(LINE_COLUMNS, &object),
            other => panic!("not an object: {other}"),
        };
        let before =
            row(json!({"id": "7", "sipPassword": "old", "sipDomain": "a", "greeting": "g"}));
        let change = given(json!({"sipPassword": "hunter2", "sipDomain": "b", "greeting": null}));
        let merged = Value::Object(change.over(&before));
        assert_eq!(
            merged,
            json!({"id": "7", "sipDomain": "b", "greeting": null})
        );
        assert!(change.get("sipPassword").is_some());
    }
}
