//! An address of a receiver.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::error::CallbackError;
use crate::core::outward::Outward;

/// A checked http or https URL. Shown as scheme, host and port alone.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackTarget {
    /// Without fragment; user and password become basic authentication.
    url: Url,
    shown: String,
    /// Whether a client of ours wrote it, and not the operator.
    pub(super) is_foreign: bool,
}

impl CallbackTarget {
    /// Checks an address.
    ///
    /// # Errors
    /// When it is no http or https URL with a host.
    pub fn parse(text: &str) -> Result<Self, CallbackError> {
        let bad = CallbackError::BadTarget;
        let mut url = Url::parse(text).map_err(|_| bad("it is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("its scheme is neither http nor https"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or(bad("it has no host"))?;
        let port = url.port().map(|port| format!(":{port}"));
        let shown = format!("{}://{host}{}", url.scheme(), port.unwrap_or_default());
        url.set_fragment(None);
        Ok(Self {
            url,
            shown,
            is_foreign: false,
        })
    }

    /// Checks an address that a client of ours wrote: a call's own. It leads
    /// only where [`Outward`] permits.
    ///
    /// # Errors
    /// As [`CallbackTarget::parse`].
    pub fn parse_foreign(text: &str) -> Result<Self, CallbackError> {
        let target = Self::parse(text)?;
        Ok(Self {
            is_foreign: true,
            ..target
        })
    }

    /// Judges a client's address that is an IP address. Names are judged when they
    /// are resolved.
    ///
    /// # Errors
    /// When it may not be reached.
    pub fn judge(&self, outward: &Outward) -> Result<(), CallbackError> {
        let address: IpAddr = match self.url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            _ => return Ok(()),
        };
        if !self.is_foreign || outward.may_reach(address) {
            return Ok(());
        }
        let host = self.to_string();
        Err(CallbackError::NotPermitted { host, address })
    }

    pub(super) fn host(&self) -> Option<Host<&str>> {
        self.url.host()
    }

    /// The URL without user and password: what is signed. `parameters` go to
    /// the end of its query.
    #[must_use]
    pub fn with_query(&self, parameters: &[(String, String)]) -> String {
        let mut url = self.url.clone();
        // Neither can fail on a URL with a host.
        let _ = (url.set_username(""), url.set_password(None));
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        url.into()
    }

    /// A URL made by [`CallbackTarget::with_query`] or longer, with user and password again.
    pub(super) fn with_login(&self, url: &str) -> Option<Url> {
        let mut url = Url::parse(url).ok()?;
        let _ = url.set_username(self.url.username());
        let _ = url.set_password(self.url.password());
        Some(url)
    }
}

impl fmt::Display for CallbackTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for CallbackTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_are_taken() {
        for (text, said) in [
            ("receiver:80/x", "neither http"),
            ("ws://receiver/", "neither http"),
            ("http://", "no URL"),
            ("", "no URL"),
            ("/path", "no URL"),
        ] {
            let message = CallbackTarget::parse(text).unwrap_err().to_string();
            assert!(message.contains(said), "{text}: {message}");
        }
    }

    #[test]
    fn secrets_are_not_shown_and_user_and_password_are_not_signed() {
        let target =
            CallbackTarget::parse("https://us%40er:se+cret@h:8443/p/k1?key=k2#k3").unwrap();
        assert_eq!(
            format!("{target} {target:?}"),
            "https://h:8443 https://h:8443"
        );
        let plain = target.with_query(&[]);
        assert_eq!(plain, "https://h:8443/p/k1?key=k2");
        let login = target.with_login(&plain).unwrap();
        assert_eq!(
            (login.username(), login.password()),
            ("us%40er", Some("se+cret"))
        );
        let pair = ("a b".to_owned(), "+33&x".to_owned());
        let longer = target.with_query(&[pair]);
        assert_eq!(longer, "https://h:8443/p/k1?key=k2&a+b=%2B33%26x");
        assert_eq!(
            CallbackTarget::parse("http://h").unwrap().with_query(&[]),
            "http://h/"
        );
    }
}
