//! What `POST /IncomingPhoneNumbers/{PhoneNumberSid}.json` takes: Twilio's names of a line's fields.

use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::{Code, TwilioError};
use super::form::Form;
use crate::api::admin::lines::SPEC;
use crate::api::fields::GivenFields;
use crate::api::problem::{Problem, ProblemKind};
use crate::lines::way::WEBHOOK_URLS;

/// Twilio's names, and what a line has.
const FIELDS: [(&str, &str); 7] = [
    ("FriendlyName", "friendlyName"),
    ("VoiceUrl", "voiceUrl"),
    ("VoiceMethod", "voiceMethod"),
    ("VoiceFallbackUrl", "voiceFallbackUrl"),
    ("VoiceFallbackMethod", "voiceFallbackMethod"),
    ("StatusCallback", "statusCallback"),
    ("StatusCallbackMethod", "statusCallbackMethod"),
];
/// Longest `FriendlyName`, in characters (Twilio's limit).
const NAME_MAX: usize = 64;

/// What may be changed of a number; what is not given stays, and an empty value takes away what stood there.
#[derive(ToSchema)]
#[schema(as = TwilioPhoneNumberUpdate, rename_all = "PascalCase")]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
pub(super) struct NumberUpdate {
    /// Up to 64 characters.
    friendly_name: Option<String>,
    /// http:// or https://. It leads to public addresses alone, and to those of --allow-callback.
    voice_url: Option<String>,
    /// POST (when absent) or GET.
    voice_method: Option<String>,
    /// Asked where VoiceUrl gives no TwiML.
    voice_fallback_url: Option<String>,
    /// POST (when absent) or GET.
    voice_fallback_method: Option<String>,
    /// Told when a call that came in is over.
    status_callback: Option<String>,
    /// POST (when absent) or GET.
    status_callback_method: Option<String>,
}

/// Reads a form.
///
/// # Errors
/// The first mistake of it.
pub(super) fn read(mut form: Form) -> Result<GivenFields, TwilioError> {
    let mut object = Map::new();
    for (parameter, field) in FIELDS {
        if let Some(value) = form.setting(parameter) {
            object.insert(field.to_owned(), value.map_or(Value::Null, Value::String));
        }
    }
    let name = object.get("friendlyName").and_then(Value::as_str);
    if name.is_some_and(|name| name.chars().count() > NAME_MAX) {
        form.refuse("FriendlyName", "is longer than 64 characters");
    }
    form.finish()?;
    Ok(GivenFields::new(object, &SPEC))
}

/// Why a change was not made, in Twilio's form and by Twilio's names.
pub(super) fn refused(problem: Problem) -> TwilioError {
    if problem.is(ProblemKind::NO_DATABASE) {
        let text = "numbers are changed in a database, and this bridge has none (--data-dir or --database-url)";
        return TwilioError::new(Code::NOT_FOUND, text);
    }
    let Some(error) = problem.errors().first() else {
        return problem.into();
    };
    let known = FIELDS.iter().find(|(_, field)| *field == error.field);
    let parameter = known.map_or(error.field.as_str(), |(parameter, _)| parameter);
    let code = match WEBHOOK_URLS.contains(&error.field.as_str()) {
        true => Code::BAD_URL,
        false => Code::PARAMETER,
    };
    TwilioError::new(code, format!("{parameter} {}", error.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::FieldError;

    #[test]
    fn a_form_is_a_change_of_the_lines_fields() {
        let form = b"FriendlyName=Front+desk&VoiceUrl=https%3A%2F%2Fh%2Fv&StatusCallback=";
        let given = read(Form::parse(form)).expect("a change");
        let names = ["voiceUrl", "statusCallback", "friendlyName"];
        assert_eq!(given.names(), names);
        assert_eq!(given.text("friendlyName").as_deref(), Some("Front desk"));
        assert_eq!(given.get("statusCallback"), Some(&Value::Null));
        let long = format!("FriendlyName={}", "x".repeat(65));
        for form in [
            long.as_str(),
            "SmsUrl=http%3A%2F%2Fh",
            "VoiceUrl=a&VoiceUrl=b",
            "clientUrls=x",
        ] {
            assert!(read(Form::parse(form.as_bytes())).is_err(), "{form}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_twilios_names_and_codes() {
        let told = |field: &str| {
            let errors = vec![FieldError::new(field, "is odd")];
            let error = serde_json::to_value(refused(Problem::invalid(errors)));
            let error = error.expect("JSON");
            (error["code"].clone(), error["message"].clone())
        };
        assert_eq!(told("voiceUrl"), (21205.into(), "VoiceUrl is odd".into()));
        let method = (21218.into(), "VoiceMethod is odd".into());
        assert_eq!(told("voiceMethod"), method);
        let none = Problem::new(ProblemKind::NO_DATABASE, "none");
        assert_eq!(refused(none).status(), 404);
    }
}
