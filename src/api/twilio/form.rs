//! A form: the body of a POST, or the query of a GET. Each parameter is read
//! once; what nobody reads is refused by its name, so that no bot believes that it was obeyed.

use axum::extract::{FromRequest, FromRequestParts, Path, RawQuery, Request};
use axum::http::request::Parts;

use super::error::{Code, TwilioError};
use crate::api::body;

/// Longest name of a parameter that an error repeats.
const NAME_MAX: usize = 64;

/// The parameters of a request.
#[derive(Debug, Default)]
pub(in crate::api) struct Form {
    pairs: Vec<(String, String)>,
    /// Those that choose what a list has: the next page's address repeats them.
    filters: Vec<(String, String)>,
    /// What is wrong with them: the first mistake.
    mistake: Option<String>,
}

impl Form {
    /// Reads `a=b&c=d`.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self {
            pairs: url::form_urlencoded::parse(text).into_owned().collect(),
            filters: Vec::new(),
            mistake: None,
        }
    }

    /// Whether a parameter is given, and not empty.
    pub(super) fn has(&self, name: &str) -> bool {
        let is_given = |(known, value): &(String, String)| known == name && !value.is_empty();
        self.pairs.iter().any(is_given)
    }

    /// The value of a parameter, one line; an empty one counts as absent, as with Twilio.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.single(name, char::is_control)
    }

    /// As [`Form::text`], of a setting that is changed where it is given: an empty one takes away what stood there.
    pub(super) fn setting(&mut self, name: &str) -> Option<Option<String>> {
        let is_given = self.pairs.iter().any(|(known, _)| known == name);
        let value = self.text(name);
        is_given.then_some(value)
    }

    /// As [`Form::text`], of one that may have several lines.
    pub(super) fn lines(&mut self, name: &str) -> Option<String> {
        self.single(name, |c| c.is_control() && !matches!(c, '\t' | '\r' | '\n'))
    }

    /// The values of a parameter that may be repeated, in their order; empty ones count as absent.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let (own, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(known, _)| known == name);
        self.pairs = others;
        let values = own.into_iter().map(|(_, value)| value);
        values
            .filter_map(|value| self.checked(name, value, char::is_control))
            .collect()
    }

    fn single(&mut self, name: &str, is_odd: impl FnMut(char) -> bool) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.pairs.remove(at);
        if self.pairs.iter().any(|(known, _)| known == name) {
            self.refuse(name, "is given twice");
        }
        self.checked(name, value, is_odd)
    }

    fn checked(
        &mut self,
        name: &str,
        value: String,
        is_odd: impl FnMut(char) -> bool,
    ) -> Option<String> {
        if value.contains(is_odd) {
            self.refuse(name, "holds a control character");
            return None;
        }
        Some(value).filter(|value| !value.is_empty())
    }

    /// As [`Form::text`], of a parameter that chooses what a list has.
    pub(super) fn filter(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?;
        self.filters.push((name.to_owned(), value.clone()));
        Some(value)
    }

    /// The filters that were read.
    pub(super) fn filters(&self) -> &[(String, String)] {
        &self.filters
    }

    /// What `read` makes of a parameter; else it is at fault for the reason.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        reason: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = read(&self.text(name)?);
        if value.is_none() {
            self.refuse(name, reason);
        }
        value
    }

    /// A parameter is at fault.
    pub(super) fn refuse(&mut self, name: &str, reason: &str) {
        let name: String = name.chars().take(NAME_MAX).collect();
        let printable = name.replace(char::is_control, "?");
        let mistake = || format!("{printable} {reason}");
        self.mistake.get_or_insert_with(mistake);
    }

    /// # Errors
    /// With the first mistake, or a parameter that nobody has read.
    pub(super) fn finish(mut self) -> Result<(), TwilioError> {
        if let Some((name, _)) = self.pairs.first().cloned() {
            self.refuse(&name, "is not served here");
        }
        let error = |mistake| Err(TwilioError::new(Code::PARAMETER, mistake));
        self.mistake.map_or(Ok(()), error)
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = TwilioError;

    async fn from_request(request: Request, _: &S) -> Result<Self, TwilioError> {
        let is_form = body::is_of_type(request.headers(), &["application/x-www-form-urlencoded"]);
        let bytes = body::whole(request.into_body()).await?;
        if !is_form && !bytes.is_empty() {
            let text = "send Content-Type: application/x-www-form-urlencoded";
            return Err(TwilioError::new(Code::PARAMETER, text));
        }
        Ok(Self::parse(&bytes))
    }
}

/// The query of a GET.
pub(in crate::api) struct QueryForm(pub(super) Form);

impl<S: Send + Sync> FromRequestParts<S> for QueryForm {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let RawQuery(query) = RawQuery::from_request_parts(parts, state).await?;
        Ok(Self(Form::parse(query.unwrap_or_default().as_bytes())))
    }
}

/// What stands behind the account in the path, without `.json`.
pub(in crate::api) struct Item(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Item {
    type Rejection = TwilioError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, TwilioError> {
        // Fails only when the path is no UTF-8: no SID is like that.
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((_, item)) = path.map_err(|_| TwilioError::missing("thing"))?;
        Ok(Self(item.strip_suffix(".json").unwrap_or(&item).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::CONTENT_TYPE;

    fn mistake(form: Form) -> Option<String> {
        let error = form.finish().err()?;
        let body = serde_json::to_value(error).expect("JSON");
        assert_eq!(body["code"], 21218);
        Some(body["message"].as_str().expect("a text").to_owned())
    }

    #[test]
    fn each_parameter_is_read_once_and_the_rest_refused_by_name() {
        let mut form = Form::parse(b"To=%2B33&From=&StartTime%3C=2026&X=1");
        assert_eq!(form.text("To").as_deref(), Some("+33"));
        assert_eq!((form.text("From"), form.text("To")), (None, None));
        assert_eq!(form.text("StartTime<").as_deref(), Some("2026"));
        assert_eq!(mistake(form).as_deref(), Some("X is not served here"));
        assert_eq!(mistake(Form::parse(b"")), None);
    }

    #[test]
    fn what_is_at_fault_is_named() {
        let mut twice = Form::parse(b"To=1&To=2");
        let _ = twice.text("To");
        assert_eq!(mistake(twice).as_deref(), Some("To is given twice"));
        let mut odd = Form::parse(b"To=a%0D%0Ab");
        assert_eq!(odd.text("To"), None);
        assert_eq!(
            mistake(odd).as_deref(),
            Some("To holds a control character")
        );
        let mut form = Form::parse(b"PageSize=x");
        let size: Option<u32> = form.parsed("PageSize", "is no number", |text| text.parse().ok());
        assert_eq!(size, None);
        assert_eq!(mistake(form).as_deref(), Some("PageSize is no number"));
    }

    #[test]
    fn a_setting_is_given_taken_away_or_left_as_it_is() {
        let mut form = Form::parse(b"VoiceUrl=http%3A%2F%2Fh&StatusCallback=");
        let url = Some(Some("http://h".to_owned()));
        assert_eq!(form.setting("VoiceUrl"), url);
        assert_eq!(form.setting("StatusCallback"), Some(None));
        assert_eq!(form.setting("VoiceMethod"), None);
        assert_eq!(mistake(form), None);
    }

    #[test]
    fn what_may_have_several_lines_or_be_repeated_does() {
        let text =
            b"Twiml=%3CResponse%3E%0D%0A%09%3CHangup%2F%3E%3C%2FResponse%3E&E=a&E=&To=1&E=b&E=a";
        let mut form = Form::parse(text);
        let twiml = form.lines("Twiml");
        assert_eq!(
            twiml.as_deref(),
            Some("<Response>\r\n\t<Hangup/></Response>")
        );
        assert_eq!(form.all("E"), ["a", "b", "a"]);
        assert_eq!((form.all("E"), form.lines("Twiml")), (vec![], None));
        assert_eq!(form.text("To").as_deref(), Some("1"));
        assert_eq!(mistake(form), None);
        let mut odd = Form::parse(b"Twiml=a%00b&E=c%0Ad");
        assert_eq!((odd.lines("Twiml"), odd.all("E")), (None, vec![]));
        let expected = "Twiml holds a control character";
        assert_eq!(mistake(odd).as_deref(), Some(expected));
    }

    #[tokio::test]
    async fn a_body_must_be_a_form_of_bounded_size() {
        let status = async |kind: &str, body: String| {
            let request = Request::builder().header(CONTENT_TYPE, kind);
            let request = request.body(body.into()).expect("a request");
            let read = Form::from_request(request, &()).await;
            read.map_or_else(|error| error.status(), |_| 200)
        };
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        assert_eq!(status(form, "Status=completed".into()).await, 200);
        assert_eq!(status("application/json", "{}".into()).await, 400);
        assert_eq!(status(form, "x".repeat(64 * 1024 + 1)).await, 413);
    }
}
