//! The query of a request, and the ids in its path.

use axum::extract::{FromRequestParts, Path, RawQuery};
use axum::http::request::Parts;

use super::problem::{FieldError, Problem};

/// Most entries of a page when the request does not say.
const PAGE_DEFAULT: u32 = 100;
/// Most entries of a page.
pub const PAGE_MAX: u32 = 1_000;

/// What stands where a path has `{id}` or `{sid}`.
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // Fails only when the path is no UTF-8: no id is like that.
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().map(|Path(id)| id);
        // PostgreSQL takes no NUL in a text.
        let id = id.filter(|id| !id.contains(char::is_control));
        id.map(Self).ok_or_else(|| Problem::not_found("thing"))
    }
}

/// The parameters of a query, each read once; what is left is unknown.
pub struct Query {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let RawQuery(query) = RawQuery::from_request_parts(parts, state).await?;
        Ok(Self::parse(&query.unwrap_or_default()))
    }
}

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Self {
            pairs: pairs.into_owned().collect(),
            errors: Vec::new(),
        }
    }

    /// The text of a parameter.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        let (_, text) = self.pairs.swap_remove(at);
        if self.pairs.iter().any(|(known, _)| known == name) {
            self.pairs.retain(|(known, _)| known != name);
            self.mistake(name, "is given twice");
        }
        if text.contains(char::is_control) {
            self.mistake(name, "holds a control character");
        }
        Some(text)
    }

    /// What `read` makes of a parameter; else it is at fault for the reason.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        reason: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = read(&text);
        if value.is_none() {
            self.mistake(name, reason);
        }
        value
    }

    /// `limit`: how many entries a page may have.
    pub fn limit(&mut self) -> u32 {
        let reason = format!("must be a whole number from 1 to {PAGE_MAX}");
        let limit = self.parsed("limit", &reason, |text| {
            let limit = text.parse().ok()?;
            (1..=PAGE_MAX).contains(&limit).then_some(limit)
        });
        limit.unwrap_or(PAGE_DEFAULT)
    }

    /// A parameter is at fault.
    pub fn mistake(&mut self, name: &str, reason: &str) {
        self.errors.push(FieldError::new(name, reason));
    }

    /// # Errors
    /// With every mistake, and every parameter that nobody has read.
    pub fn finish(self) -> Result<(), Problem> {
        let mut errors = self.errors;
        for (name, _) in self.pairs {
            let name: String = name.chars().take(64).collect();
            errors.push(FieldError::new(name, "is not a known parameter"));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_query_is_told() {
        let mut query = Query::parse("limit=0&line=a%20b&line=c&x=1&since=now");
        assert_eq!(query.limit(), PAGE_DEFAULT);
        assert_eq!(query.text("line").as_deref(), Some("a b"));
        assert_eq!(
            query.parsed("since", "must be a time", |_| None::<()>),
            None
        );
        let problem = query.finish().expect_err("mistakes");
        let body = serde_json::to_value(problem).expect("JSON");
        let fields: Vec<_> = body["errors"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|error| error["field"].as_str().expect("a name").to_owned())
            .collect();
        assert_eq!(fields, ["limit", "line", "since", "x"]);
        let mut good = Query::parse("limit=7");
        assert_eq!(good.limit(), 7);
        assert!(good.finish().is_ok());
    }
}
