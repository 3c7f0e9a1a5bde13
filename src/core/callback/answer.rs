//! What the answer to the incoming callback means.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::core::call::{Accepted, CallDecision};
use crate::core::private::Secret;

/// What a caller gets who is rejected without a usable status: declined.
const REJECTED: u16 = 603;

/// Why an answer says nothing. Holds none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not a JSON object.
    #[error("its answer is no JSON object")]
    NotJson,
    /// No action, or one that is not known.
    #[error("its answer has no action that is known: accept, reject or ignore")]
    Action,
}

/// Reads `{action, statusCode, customParams, wsTarget, callbackUrl}`. Fields
/// that are not known are left alone; so is what has another type than it
/// should.
///
/// # Errors
/// When there is no action in it.
pub fn read_answer(body: &[u8]) -> Result<CallDecision, AnswerError> {
    let object: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| AnswerError::NotJson)?;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let secret = |name: &str| {
        let given = text(name).filter(|text| !text.is_empty());
        given.map(|text| Secret::new(text.to_owned()))
    };
    match text("action") {
        Some("accept") => Ok(CallDecision::Accept(Box::new(Accepted {
            custom_params: parameters(object.get("customParams")),
            ws_target: secret("wsTarget"),
            callback_url: secret("callbackUrl"),
        }))),
        Some("reject") => {
            let status = object.get("statusCode").and_then(Value::as_u64);
            let status = status.and_then(|status| u16::try_from(status).ok());
            let is_final = |status: &u16| (400..700).contains(status);
            Ok(CallDecision::Reject(
                status.filter(is_final).unwrap_or(REJECTED),
            ))
        }
        Some("ignore") => Ok(CallDecision::Ignore),
        _ => Err(AnswerError::Action),
    }
}

/// `customParameters` are texts: numbers and booleans become one, the rest is
/// left out.
fn parameters(given: Option<&Value>) -> BTreeMap<String, String> {
    let object = given.and_then(Value::as_object);
    let as_text = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return None,
        };
        Some((name.clone(), value))
    };
    object.into_iter().flatten().filter_map(as_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(body: &str) -> Accepted {
        match read_answer(body.as_bytes()) {
            Ok(CallDecision::Accept(accepted)) => *accepted,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn every_action_is_understood() {
        let plain = accepted(r#"{"action":"accept"}"#);
        assert!(plain.custom_params.is_empty() && plain.ws_target.is_none());
        let full = accepted(
            r#"{"action":"accept","customParams":{"a":"b","n":7,"t":true,"x":null,"o":{}},
                "wsTarget":"wss://w/x","callbackUrl":"https://c/","more":[1]}"#,
        );
        let parameters: Vec<_> = full.custom_params.into_iter().collect();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parameters,
            [pair("a", "b"), pair("n", "7"), pair("t", "true")]
        );
        assert_eq!(full.ws_target.unwrap().expose(), "wss://w/x");
        assert_eq!(full.callback_url.unwrap().expose(), "https://c/");
        let odd =
            accepted(r#"{"action":"accept","wsTarget":7,"callbackUrl":"","customParams":[]}"#);
        assert!(odd.ws_target.is_none() && odd.callback_url.is_none());
        let ignored = read_answer(br#"{"action":"ignore"}"#);
        assert!(matches!(ignored, Ok(CallDecision::Ignore)));
    }

    #[test]
    fn a_rejection_has_a_final_status() {
        for (status, expected) in [
            ("486", 486),
            ("404", 404),
            ("699", 699),
            ("200", 603),
            ("700", 603),
            ("399", 603),
            ("-1", 603),
            ("4.5", 603),
            ("\"486\"", 603),
            ("99999999999", 603),
            ("null", 603),
        ] {
            let body = format!(r#"{{"action":"reject","statusCode":{status}}}"#);
            let decision = read_answer(body.as_bytes()).unwrap();
            assert!(
                matches!(decision, CallDecision::Reject(status) if status == expected),
                "{body}: {decision:?}"
            );
        }
        assert!(matches!(
            read_answer(br#"{"action":"reject"}"#),
            Ok(CallDecision::Reject(603))
        ));
    }

    #[test]
    fn anything_else_says_nothing() {
        for body in ["", "ok", "[]", "7", "{", "\u{feff}{}"] {
            let error = read_answer(body.as_bytes()).unwrap_err();
            assert_eq!(error, AnswerError::NotJson, "{body}");
        }
        for body in [
            "{}",
            r#"{"action":7}"#,
            r#"{"action":"Accept"}"#,
            r#"{"action":"hold"}"#,
        ] {
            let error = read_answer(body.as_bytes()).unwrap_err();
            assert_eq!(error, AnswerError::Action, "{body}");
        }
    }
}
