//! What `POST /Calls/{CallSid}.json` asks of a call: to end, or to do something else.

use super::error::{Code, TwilioError};
use super::form::Form;
use super::new_call;
use crate::core::voice::Instructions;

/// What is asked of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// `Status`: it ends; whether only before its answer.
    End { before_answer: bool },
    /// `Twiml`, or `Url` with its `Method`: what is done with it from now on.
    Instruct(Instructions),
}

impl Update {
    /// Reads a request: exactly one of `Status`, `Twiml` and `Url`.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn read(mut form: Form) -> Result<Self, TwilioError> {
        let given = ["Status", "Twiml", "Url"].map(|name| form.has(name));
        let one = match given.into_iter().filter(|given| *given).count() {
            1 => Ok(()),
            0 => Err("Status, Twiml and Url are missing: one of them says what is to be done"),
            _ => Err("of Status, Twiml and Url only one can be given"),
        };
        one.map_err(|text| TwilioError::new(Code::PARAMETER, text))?;
        let update = if given[0] {
            status(&mut form)
        } else {
            Some(Self::Instruct(new_call::instructions(&mut form)?))
        };
        form.finish()?;
        // What is at fault with a status has been told by now.
        update.ok_or_else(|| TwilioError::new(Code::PARAMETER, STATUS))
    }

    /// The parameters that it stands for, for the audit log.
    pub(super) fn fields(&self) -> Vec<&'static str> {
        match self {
            Self::End { .. } => vec!["Status"],
            Self::Instruct(Instructions::Document(_)) => vec!["Twiml"],
            Self::Instruct(Instructions::Webhook(_)) => vec!["Url"],
        }
    }
}

const STATUS: &str = "Status must be completed or canceled";

fn status(form: &mut Form) -> Option<Update> {
    let reason = "must be completed or canceled";
    form.parsed("Status", reason, |text| match text {
        "completed" => Some(Update::End {
            before_answer: false,
        }),
        "canceled" => Some(Update::End {
            before_answer: true,
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::outward::WrittenBy;
    use crate::core::twiml::Verb;
    use crate::core::twiml::document::HttpMethod;

    fn read(text: &str) -> Result<Update, u64> {
        Update::read(Form::parse(text.as_bytes())).map_err(|error| {
            let body = serde_json::to_value(error).expect("JSON");
            body["code"].as_u64().expect("a number")
        })
    }

    #[test]
    fn one_thing_is_asked_of_a_call() {
        let ends = |before_answer| Ok(Update::End { before_answer });
        assert_eq!(read("Status=completed"), ends(false));
        assert_eq!(read("Status=canceled"), ends(true));
        let Ok(Update::Instruct(Instructions::Document(document))) =
            read("Twiml=%3CResponse%3E%0A%3CHangup%2F%3E%3C%2FResponse%3E")
        else {
            panic!("a document");
        };
        assert_eq!(document.verbs, [Verb::Hangup]);
        let Ok(Update::Instruct(Instructions::Webhook(webhook))) =
            read("Url=https%3A%2F%2Fbot%2Fv&Method=GET")
        else {
            panic!("a webhook");
        };
        assert_eq!(
            (webhook.method, webhook.written_by),
            (HttpMethod::Get, WrittenBy::Client)
        );
    }

    #[test]
    fn mistakes_have_twilios_codes() {
        for (text, code) in [
            ("", 21218),
            ("Status=busy", 21218),
            ("Status=completed&Url=https%3A%2F%2Fbot%2Fv", 21218),
            ("Twiml=x&Url=https%3A%2F%2Fbot%2Fv", 21218),
            ("Twiml=%3CResponse%3E", 12100),
            ("Url=ftp%3A%2F%2Fbot%2Fv", 21205),
            ("Status=completed&TimeLimit=10", 21218),
        ] {
            assert_eq!(read(text).unwrap_err(), code, "{text}");
        }
    }
}
