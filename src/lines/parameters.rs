//! The fields of a line that are JSON objects of texts: `customParameters`, and `sipHeaders`, which says which of a call's
//! parameters its INVITE carries.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::entry::Reader;
use super::line::FieldProblem;
use crate::core::sip_header::{SIP_HEADERS_MAX, is_sip_header_name};

const SIP_HEADERS: &str = "sipHeaders";

impl Reader<'_> {
    /// `customParameters` reach the worker as strings; numbers and booleans
    /// are written as JSON writes them.
    pub(super) fn parameters(&mut self) -> BTreeMap<String, String> {
        let object = self.object("customParameters");
        let mut parameters = BTreeMap::new();
        for (key, value) in object {
            match value {
                Value::String(text) => drop(parameters.insert(key, text)),
                Value::Number(_) | Value::Bool(_) => {
                    parameters.insert(key, value.to_string());
                }
                Value::Null => {}
                Value::Array(_) | Value::Object(_) => {
                    self.report_type(&within("customParameters", &key), "a string", &value);
                }
            }
        }
        parameters
    }

    /// `sipHeaders`: names of parameters, and the header that each becomes.
    pub(super) fn sip_headers(&mut self) -> BTreeMap<String, String> {
        let object = self.object(SIP_HEADERS);
        let mut headers = BTreeMap::new();
        for (parameter, value) in object {
            match value {
                Value::String(name) if is_sip_header_name(&name) => {
                    headers.insert(parameter, name);
                }
                Value::Null => {}
                Value::String(_) => {
                    self.report(within(SIP_HEADERS, &parameter), FieldProblem::SipHeader);
                }
                other => self.report_type(&within(SIP_HEADERS, &parameter), "a string", &other),
            }
        }
        if headers.len() > SIP_HEADERS_MAX {
            self.report(SIP_HEADERS, FieldProblem::TooManyHeaders);
        }
        headers
    }

    fn object(&mut self, field: &str) -> Map<String, Value> {
        match self.take(field) {
            None => Map::new(),
            Some(Value::Object(object)) => object,
            Some(other) => {
                self.report_type(field, "an object", &other);
                Map::new()
            }
        }
    }
}

/// A key of a field, as mistakes name it.
fn within(field: &str, key: &str) -> String {
    let short: String = key.chars().take(64).collect();
    format!("{field}.{short}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::entry::{LineEntry, read_entry};
    use serde_json::json;

    fn read(headers: Value) -> LineEntry {
        let object = json!({"id": 1, "sipHeaders": headers});
        read_entry(object.as_object().expect("an object").clone()).0
    }

    #[test]
    fn parameters_become_headers_that_may_be_sent() {
        let LineEntry::Line(line) =
            read(json!({"order": "X-Order", "uui": "User-to-User", "x": null}))
        else {
            panic!("no line");
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let expected = [pair("order", "X-Order"), pair("uui", "User-to-User")];
        assert_eq!(line.sip_headers, BTreeMap::from(expected));
    }

    #[test]
    fn headers_that_mean_something_to_sip_are_refused_with_their_parameter() {
        let issues = |headers: Value| match read(headers) {
            LineEntry::Mistaken(_, issues) => {
                let issues = issues.iter().map(ToString::to_string);
                issues.collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            issues(json!({"a": "Route", "b": "X-A\r\nVia", "c": 7})),
            [
                "field \"sipHeaders.a\" must be the name of a SIP header: X-… or User-to-User",
                "field \"sipHeaders.b\" must be the name of a SIP header: X-… or User-to-User",
                "field \"sipHeaders.c\" must be a string, is a number",
            ]
        );
        let many: Map<String, Value> = (0..25).map(|n| (n.to_string(), json!("X-A"))).collect();
        let told = issues(Value::Object(many));
        assert_eq!(told, ["field \"sipHeaders\" has more than 24 SIP headers"]);
        let told = issues(json!("X-A"));
        assert_eq!(
            told,
            ["field \"sipHeaders\" must be an object, is a string"]
        );
    }
}
