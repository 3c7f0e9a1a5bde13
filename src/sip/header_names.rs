//! Which headers of an INVITE a worker gets (`--sip-headers`). None of them
//! unless the operator names it: a trunk may write anything into them.

use std::collections::BTreeMap;

use crate::core::header_name::capitals;

/// Headers that may be named besides those that begin with `X-`, as they are written.
const STANDARD: [&str; 5] = [
    "Diversion",
    "History-Info",
    "P-Asserted-Identity",
    "P-Called-Party-ID",
    "User-to-User",
];
/// What the network says who calls, by its lower-case name. It is handed on as the line's own server wrote it, and never
/// for a caller who wants privacy.
pub const ASSERTED: &str = "p-asserted-identity";
/// Most names in one list.
const NAMES_MAX: usize = 32;
/// Longest name.
const NAME_MAX_BYTES: usize = 64;

/// A name that cannot be one of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must hold at most 32 header names with commas between, each one that begins with X-, X-* for all of those, or User-to-User, Diversion, History-Info, P-Asserted-Identity or P-Called-Party-ID"
)]
pub struct NameError;

/// The headers that are handed on, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderNames(Vec<Name>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    /// As the operator writes it, without the star.
    written: String,
    /// Whether it is the beginning of a name.
    is_prefix: bool,
}

/// Whether a header, by its lower-case name, can be handed on at all.
#[must_use]
pub fn can_be_handed_on(lower_case: &str) -> bool {
    lower_case.starts_with("x-")
        || STANDARD
            .iter()
            .any(|name| name.eq_ignore_ascii_case(lower_case))
}

impl HeaderNames {
    /// Reads the names: `X-Trunk-Id`, `X-Acme-*`, `X-*`, or one of the standard ones.
    ///
    /// # Errors
    /// When one of them is no such name, or there are too many.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, NameError> {
        let names: Result<Vec<_>, _> = names.into_iter().map(Name::parse).collect();
        let names = names?;
        if names.len() > NAMES_MAX {
            return Err(NameError);
        }
        Ok(Self(names))
    }

    /// Those of an INVITE's headers (lower-case names) that are named here,
    /// under the name that the operator wrote; with a star each word of the
    /// name has a capital: `X-Trunk-Id`.
    pub fn pick<'a>(
        &'a self,
        headers: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (String, &'a str)> {
        headers.iter().filter_map(|(header, value)| {
            let fitting = || self.0.iter().filter(|name| name.fits(header));
            let exact = fitting().find(|name| !name.is_prefix);
            let name = match exact {
                Some(name) => name.written.clone(),
                None => fitting().next().map(|_| capitals(header))?,
            };
            Some((name, value.as_str()))
        })
    }
}

impl Name {
    fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        let prefix = text.strip_suffix('*');
        let written = prefix.unwrap_or(text);
        let is_token = |c: u8| c.is_ascii_alphanumeric() || b"-_.!%+~'`".contains(&c);
        let lower = written.to_ascii_lowercase();
        let is_known = match prefix {
            Some(_) => lower.starts_with("x-"),
            None => can_be_handed_on(&lower) && lower != "x-",
        };
        let fits = written.len() <= NAME_MAX_BYTES && written.bytes().all(is_token);
        (is_known && fits)
            .then(|| Self {
                written: written.to_owned(),
                is_prefix: prefix.is_some(),
            })
            .ok_or(NameError)
    }

    fn fits(&self, header: &str) -> bool {
        let (own, length) = (self.written.as_str(), self.written.len());
        if !self.is_prefix {
            return own.eq_ignore_ascii_case(header);
        }
        header
            .get(..length)
            .is_some_and(|start| start.eq_ignore_ascii_case(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(names: &[&str]) -> Vec<(String, String)> {
        let headers = [
            ("diversion", "<sip:1@x>"),
            ("p-asserted-identity", "<sip:2@x>"),
            ("user-to-user", "0a;encoding=hex"),
            ("x-acme-id", "7"),
            ("x-acme-lang", "fr"),
            ("x-other", "o"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = BTreeMap::from(headers);
        let names = HeaderNames::parse(names.iter().copied()).expect("names");
        let picked = names.pick(&headers);
        picked
            .map(|(name, value)| (name, value.to_owned()))
            .collect()
    }

    #[test]
    fn only_what_is_named_is_picked() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(picked(&[]), []);
        assert_eq!(picked(&["x-ACME-id"]), [pair("x-ACME-id", "7")]);
        let acme = [pair("X-Acme-Id", "7"), pair("X-Acme-Lang", "fr")];
        assert_eq!(picked(&["X-acme-*"]), acme);
        let own = [
            pair("x-acme-ID", "7"),
            pair("X-Acme-Lang", "fr"),
            pair("X-Other", "o"),
        ];
        assert_eq!(picked(&["X-*", "x-acme-ID"]), own);
        let standard = [
            pair("Diversion", "<sip:1@x>"),
            pair("P-Asserted-identity", "<sip:2@x>"),
            pair("User-To-User", "0a;encoding=hex"),
        ];
        let names = ["Diversion", "User-To-User", "P-Asserted-identity", "X-None"];
        assert_eq!(picked(&names), standard);
    }

    #[test]
    fn headers_that_say_who_calls_or_are_nobodys_business_cannot_be_named() {
        for name in [
            "",
            "*",
            "X",
            "X-",
            "From",
            "To",
            "P-Preferred-Identity",
            "Remote-Party-ID",
            "Authorization",
            "Diversion*",
            "X-a b",
            "X-é",
            "X-a,b",
            "X-a:",
            "X-a\r\nEvil",
        ] {
            assert_eq!(HeaderNames::parse([name]), Err(NameError), "{name:?}");
        }
        assert!(HeaderNames::parse(vec!["X-a"; 33]).is_err());
        assert!(HeaderNames::parse(["X-*", " User-to-User "]).is_ok());
    }
}
