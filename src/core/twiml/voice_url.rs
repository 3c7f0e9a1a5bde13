//! Addresses that documents name, and those that documents are fetched from.

use std::fmt;

use url::Url;

/// Longest address, in bytes.
const URL_BYTES_MAX: usize = 4_096;

/// A checked http, https, ws or wss URL with a host. `Debug` and `Display` show scheme, host and port alone:
/// paths and queries may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct VoiceUrl(Url);

impl VoiceUrl {
    /// Reads an http or https URL.
    #[must_use]
    pub fn parse_http(text: &str) -> Option<Self> {
        Self::resolve_http(None, text)
    }

    /// Reads an http or https URL, a relative one against `base` (RFC 3986, section 5).
    #[must_use]
    pub fn resolve_http(base: Option<&Self>, text: &str) -> Option<Self> {
        resolve(base, text).filter(|url| matches!(url.0.scheme(), "http" | "https"))
    }

    /// Reads a ws or wss URL. A relative one against `base` has the scheme that belongs to the base's:
    /// wss beside https.
    #[must_use]
    pub fn resolve_ws(base: Option<&Self>, text: &str) -> Option<Self> {
        let is_absolute = Url::parse(text.trim()).is_ok();
        let VoiceUrl(mut url) = resolve(base, text)?;
        let scheme = match url.scheme() {
            "ws" | "http" => "ws",
            _ => "wss",
        };
        let has_scheme = url.scheme() == scheme;
        let is_taken = has_scheme || (!is_absolute && url.set_scheme(scheme).is_ok());
        is_taken.then_some(Self(url))
    }

    /// The URL for the client that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The host, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.0.host_str()
    }

    /// The URL without user and password: what is signed, and told to others.
    #[must_use]
    pub fn without_login(&self) -> String {
        let mut url = self.0.clone();
        // Neither can fail on a URL with a host.
        let _ = (url.set_username(""), url.set_password(None));
        url.into()
    }

    /// The URL with these fields at the end of its query.
    #[must_use]
    pub fn with_query(&self, fields: &[(String, String)]) -> Self {
        let mut url = self.0.clone();
        if !fields.is_empty() {
            url.query_pairs_mut().extend_pairs(fields);
        }
        Self(url)
    }

    /// Where a stream that a document names is dialled, where that is another address than the document's.
    ///
    /// Most bots write `wss://` and the host that they were asked by, also where they were asked by http. So where
    /// `voice_url` is http, and the stream's host is the same, and its port is the same or not written, it is
    /// dialled by ws at the host and port of `voice_url`.
    #[must_use]
    pub fn stream_beside(&self, voice_url: &Self) -> Option<Self> {
        let (stream, voice) = (&self.0, &voice_url.0);
        let port = voice.port_or_known_default();
        let is_same_port = stream.port().is_none() || stream.port() == port;
        if voice.scheme() != "http" || stream.host() != voice.host() || !is_same_port {
            return None;
        }
        let mut url = stream.clone();
        url.set_scheme("ws").ok()?;
        url.set_port(port).ok()?;
        (url != *stream).then_some(Self(url))
    }
}

fn resolve(base: Option<&VoiceUrl>, text: &str) -> Option<VoiceUrl> {
    let text = text.trim();
    if text.len() > URL_BYTES_MAX {
        return None;
    }
    let mut url = match base {
        Some(base) => base.0.join(text).ok()?,
        None => Url::parse(text).ok()?,
    };
    url.set_fragment(None);
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    has_host.then_some(VoiceUrl(url))
}

impl fmt::Display for VoiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.0.scheme())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for VoiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> VoiceUrl {
        VoiceUrl::parse_http(text).expect(text)
    }

    fn ws(text: &str) -> VoiceUrl {
        VoiceUrl::resolve_ws(None, text).expect(text)
    }

    #[test]
    fn relative_addresses_are_resolved_against_the_documents() {
        let base = http("https://bot.example:8443/voice/in?tenant=7#x");
        for (text, expected) in [
            ("", "https://bot.example:8443/voice/in?tenant=7"),
            ("gathered", "https://bot.example:8443/voice/gathered"),
            (" /gathered?n=1 ", "https://bot.example:8443/gathered?n=1"),
            ("?step=2", "https://bot.example:8443/voice/in?step=2"),
            ("//other/x", "https://other/x"),
            ("http://other/x", "http://other/x"),
        ] {
            let url = VoiceUrl::resolve_http(Some(&base), text).expect(text);
            assert_eq!(url.expose(), expected);
        }
        let stream = VoiceUrl::resolve_ws(Some(&base), "/media").unwrap();
        assert_eq!(stream.expose(), "wss://bot.example:8443/media");
    }

    #[test]
    fn other_schemes_are_refused() {
        let base = http("http://bot/");
        for text in [
            "ftp://a/b",
            "javascript:alert(1)",
            "ws://a/",
            "file:///etc/passwd",
        ] {
            assert_eq!(VoiceUrl::resolve_http(Some(&base), text), None, "{text}");
        }
        for text in ["ftp://a/b", "http://a/", "https://a/", "mailto:a@b"] {
            assert_eq!(VoiceUrl::resolve_ws(Some(&base), text), None, "{text}");
        }
        assert_eq!(VoiceUrl::parse_http("/relative"), None);
        let long = format!("http://a/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(VoiceUrl::parse_http(&long), None);
    }

    #[test]
    fn a_stream_on_the_webhooks_own_host_is_dialled_as_the_webhook_was() {
        let voice = http("http://10.0.0.5:8000/voice");
        for (stream, expected) in [
            (
                "wss://10.0.0.5:8000/media?a=1",
                Some("ws://10.0.0.5:8000/media?a=1"),
            ),
            ("wss://10.0.0.5/media", Some("ws://10.0.0.5:8000/media")),
            ("ws://10.0.0.5/media", Some("ws://10.0.0.5:8000/media")),
            ("ws://10.0.0.5:8000/media", None),
            ("wss://10.0.0.5:8443/media", None),
            ("wss://bot.example/media", None),
        ] {
            let dialled = ws(stream).stream_beside(&voice);
            assert_eq!(dialled.as_ref().map(VoiceUrl::expose), expected, "{stream}");
        }
        let stream = ws("wss://10.0.0.5/media");
        assert_eq!(stream.stream_beside(&http("https://10.0.0.5/voice")), None);
        let at_80 = ws("wss://bot/m").stream_beside(&http("http://bot/v"));
        assert_eq!(at_80.unwrap().expose(), "ws://bot/m");
    }

    #[test]
    fn secrets_are_not_shown_and_logins_are_not_told() {
        let url = http("https://user:word@bot.example/k1?key=k2");
        assert_eq!(
            format!("{url} {url:?}"),
            "https://bot.example https://bot.example"
        );
        assert_eq!(url.without_login(), "https://bot.example/k1?key=k2");
        let longer = url.with_query(&[("Digits".into(), "1 #".into())]);
        assert_eq!(
            longer.without_login(),
            "https://bot.example/k1?key=k2&Digits=1+%23"
        );
    }
}
