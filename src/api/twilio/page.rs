//! Pages of a list, as Twilio writes them: how large, which, and where the next one is.

use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::form::Form;

/// Most entries of a page when the request does not say.
const SIZE_DEFAULT: u32 = 50;
/// Most entries of a page.
const SIZE_MAX: u32 = 1_000;

/// Which page is asked for.
#[derive(Clone, Debug)]
pub(super) struct PageRequest {
    /// Most entries, 1 to 1000.
    pub(super) size: u32,
    /// Its number, from 0: repeated in the answer, what counts is the token.
    number: u32,
    /// Path of the list.
    path: String,
    /// The other parameters, as they were given.
    filters: Vec<(String, String)>,
}

impl PageRequest {
    /// Reads `PageSize` and `Page`, once the list's filters are read.
    pub(super) fn read(form: &mut Form, path: String) -> Self {
        let size = form.parsed("PageSize", "must be a number from 1 to 1000", |text| {
            let size: u32 = text.parse().ok()?;
            (1..=SIZE_MAX).contains(&size).then_some(size)
        });
        let number = form.parsed("Page", "must be a number from 0", |text| text.parse().ok());
        Self {
            size: size.unwrap_or(SIZE_DEFAULT),
            number: number.unwrap_or_default(),
            path,
            filters: form.filters().to_vec(),
        }
    }

    /// What the answer says of this page of so many entries; `next` is the token of the next.
    pub(super) fn body(&self, entries: usize, next: Option<&str>) -> Page {
        let start = u64::from(self.number) * u64::from(self.size);
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        let here = self.uri(self.number, None);
        Page {
            page: self.number,
            page_size: self.size,
            start,
            end: start + entries.saturating_sub(1),
            uri: here,
            first_page_uri: self.uri(0, None),
            next_page_uri: next.map(|token| self.uri(self.number.saturating_add(1), Some(token))),
            previous_page_uri: None,
        }
    }

    fn uri(&self, number: u32, token: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.filters);
        query.append_pair("PageSize", &self.size.to_string());
        query.append_pair("Page", &number.to_string());
        if let Some(token) = token {
            query.append_pair("PageToken", token);
        }
        format!("{}?{}", self.path, query.finish())
    }
}

/// Where a page stands in its list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TwilioPage)]
pub struct Page {
    /// Its number, from 0.
    page: u32,
    /// Most entries that it may have.
    page_size: u32,
    /// Number of its first entry, from 0.
    start: u64,
    /// Number of its last one.
    end: u64,
    /// This page.
    uri: String,
    first_page_uri: String,
    /// Null on the last page.
    next_page_uri: Option<String>,
    /// Always null: pages are read forward.
    previous_page_uri: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_the_next_one_is() {
        let mut form = Form::parse(b"PageSize=2&Page=3&StartTime%3C=2026-01-15");
        let _ = form.filter("StartTime<");
        let request = PageRequest::read(&mut form, "/x/Calls.json".into());
        assert!(form.finish().is_ok());
        let page = serde_json::to_value(request.body(2, Some("5.CA0"))).expect("JSON");
        assert_eq!((&page["start"], &page["end"]), (&6.into(), &7.into()));
        assert_eq!(
            page["next_page_uri"],
            "/x/Calls.json?StartTime%3C=2026-01-15&PageSize=2&Page=4&PageToken=5.CA0"
        );
        let last = serde_json::to_value(request.body(0, None)).expect("JSON");
        assert_eq!(last["next_page_uri"], serde_json::Value::Null);
        for bad in [&b"PageSize=0"[..], b"PageSize=1001", b"Page=-1"] {
            let mut form = Form::parse(bad);
            let _ = PageRequest::read(&mut form, String::new());
            assert!(form.finish().is_err());
        }
    }
}
