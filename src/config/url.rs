//! URLs of services that may hold a password or a token: shown without them.

use std::fmt;

use url::Url;
use zeroize::Zeroizing;

/// A URL of Redis or of a worker. `Debug` and `Display` leave out user,
/// password, path (but for a number), query and fragment.
#[derive(Clone)]
pub struct ServiceUrl {
    text: Zeroizing<String>,
    shown: String,
    host: String,
    port: Option<u16>,
}

impl ServiceUrl {
    /// Reads a URL that has one of these schemes and a host.
    #[must_use]
    pub fn parse(text: &str, schemes: &[&str]) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let host = url.host_str().filter(|host| !host.is_empty())?;
        if !schemes.contains(&url.scheme()) || is_password_cut(&url) {
            return None;
        }
        Some(Self {
            text: Zeroizing::new(text.to_owned()),
            shown: masked(&url, host),
            host: host.to_owned(),
            port: url.port_or_known_default(),
        })
    }

    /// All of it, for the client that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The host, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, where it is written or known from the scheme.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

/// An unescaped `/`, `?` or `#` in a password ends it early: half of it would
/// read as the host and be shown. The `@` that ended it then comes later.
fn is_password_cut(url: &Url) -> bool {
    let parts = [Some(url.path()), url.query(), url.fragment()];
    parts.into_iter().flatten().any(|part| part.contains('@'))
}

fn masked(url: &Url, host: &str) -> String {
    let user = match (url.username(), url.password()) {
        ("", None) => "",
        _ => "***@",
    };
    let port = url.port().map(|port| format!(":{port}"));
    // Workers' paths may hold a token, the path of Redis is a number.
    let is_number = url
        .path()
        .bytes()
        .all(|byte| byte == b'/' || byte.is_ascii_digit());
    let path = if is_number { url.path() } else { "/***" };
    let query = match (url.query(), url.fragment()) {
        (None, None) => "",
        _ => "?***",
    };
    format!(
        "{}://{user}{host}{}{path}{query}",
        url.scheme(),
        port.unwrap_or_default()
    )
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_left_out_and_the_rest_is_shown() {
        for (text, shown) in [
            (
                "redis://:hunter2@10.0.0.5:6379/2",
                "redis://***@10.0.0.5:6379/2",
            ),
            ("rediss://bob:hunter2@r.example", "rediss://***@r.example"),
            ("redis://hunter2@r.example", "redis://***@r.example"),
            ("redis://[::1]:7000", "redis://[::1]:7000"),
            ("ws://h/bot/hunter2", "ws://h/***"),
            ("redis://h/0?password=hunter2#hunter2", "redis://h/0?***"),
        ] {
            let url = ServiceUrl::parse(text, &["redis", "rediss", "ws"]).expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn other_schemes_and_no_host_are_refused() {
        for text in [
            "",
            "localhost:6379",
            "http://h",
            "redis:",
            "redis:///x",
            "ws://",
            "redis://bob:12/hunter2@host",
            "redis://hun#ter2@host",
            "redis://hun?ter2@host",
        ] {
            assert!(
                ServiceUrl::parse(text, &["redis", "ws"]).is_none(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(password in "[A-Z]{4,12}", user in "[a-z]{0,5}") {
            let text = format!("redis://{user}:{password}@host:1/0?auth={password}");
            let url = ServiceUrl::parse(&text, &["redis"]).expect("valid");
            let shown = format!("{url} {url:?}");
            prop_assert!(!shown.contains(&password));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(redis://)?\\PC{0,30}") {
            let _ = ServiceUrl::parse(&text, &["redis"]);
        }
    }
}
