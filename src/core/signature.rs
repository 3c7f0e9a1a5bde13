//! `X-Twilio-Signature`: what shows a receiver that a request comes from
//! this bridge, by the rules that Twilio's own libraries check.
//!
//! HMAC-SHA1 with the auth token as key, in base64, over the full URL as it is
//! asked for. A form's parameters follow it, sorted by name, name and value
//! without anything between. A JSON body is not signed itself: its SHA-256
//! goes into the URL's query as `bodySHA256`, and that URL is asked for and
//! signed. A GET is its URL alone, and so is the upgrade to a WebSocket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::ids::hex;
use super::private::Secret;

/// The header's name.
pub const HEADER: &str = "X-Twilio-Signature";
/// The query parameter that holds a body's hash.
const BODY_HASH: &str = "bodySHA256";

/// Signs with one auth token.
#[derive(Clone, Debug)]
pub struct Signer(Secret);

impl Signer {
    /// Takes the token that the receivers know too.
    #[must_use]
    pub const fn new(token: Secret) -> Self {
        Self(token)
    }

    /// The signature of a request without a body: its URL is all there is.
    #[must_use]
    pub fn sign_url(&self, url: &str) -> String {
        self.sign_form(url, &[])
    }

    /// The signature of a form.
    #[must_use]
    pub fn sign_form(&self, url: &str, parameters: &[(&str, &str)]) -> String {
        let mac = self.mac(url, parameters);
        let encoded = mac.map(|mac| STANDARD.encode(mac.finalize().into_bytes()));
        encoded.unwrap_or_default()
    }

    /// Whether a request is signed with this token: `offered` is its header, `url` what it asked for, with its query, and
    /// `parameters` its form, none of a GET.
    ///
    /// Whether the port is in what is signed depends on the sender and on proxies between. So the URL counts as it is,
    /// without its port, and with the port of its scheme, as in Twilio's own libraries. What is compared is compared in
    /// constant time.
    #[must_use]
    pub fn verifies(&self, url: &str, parameters: &[(&str, &str)], offered: &str) -> bool {
        let Ok(offered) = STANDARD.decode(offered) else {
            return false;
        };
        let forms = [Some(url.to_owned()), without_port(url), with_port(url)];
        let is_of = |url: String| {
            let mac = self.mac(&url, parameters);
            mac.is_some_and(|mac| mac.verify_slice(&offered).is_ok())
        };
        // All of them, whichever it is.
        let verified = forms.into_iter().flatten().map(is_of);
        verified.fold(false, |is_any, is_this| is_any | is_this)
    }

    /// HMAC takes a key of any length: there always is one.
    fn mac(&self, url: &str, parameters: &[(&str, &str)]) -> Option<Hmac<Sha1>> {
        let mut sorted = parameters.to_vec();
        sorted.sort_unstable();
        // Twilio's libraries look at a value that is there twice once.
        sorted.dedup();
        let mut mac = Hmac::<Sha1>::new_from_slice(self.0.expose().as_bytes()).ok()?;
        mac.update(url.as_bytes());
        for (name, value) in sorted {
            mac.update(name.as_bytes());
            mac.update(value.as_bytes());
        }
        Some(mac)
    }

    /// The URL to send a JSON body to, and its signature.
    #[must_use]
    pub fn sign_json(&self, url: &str, body: &[u8]) -> (String, String) {
        let url = with_body_hash(url, body);
        let signature = self.sign_url(&url);
        (url, signature)
    }
}

/// A URL, cut where a port stands or would stand; and that port, with its colon.
fn at_port(url: &str) -> Option<(&str, &str, &str)> {
    let begin = url.find("://")? + 3;
    let end = url[begin..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| begin + at);
    let authority = &url[begin..end];
    // The colons of an IPv6 address and of a login are not the port's.
    let host = authority.rfind(['@', ']']).map_or(0, |at| at + 1);
    let port = authority[host..]
        .rfind(':')
        .map_or(end, |at| begin + host + at);
    Some((&url[..port], &url[port..end], &url[end..]))
}

fn without_port(url: &str) -> Option<String> {
    let (before, port, after) = at_port(url)?;
    (!port.is_empty()).then(|| format!("{before}{after}"))
}

/// With the port of its scheme, where it has none.
fn with_port(url: &str) -> Option<String> {
    let (before, port, after) = at_port(url)?;
    let is_plain = ["http://", "ws://"]
        .iter()
        .any(|scheme| before.starts_with(scheme));
    let known = if is_plain { 80 } else { 443 };
    port.is_empty().then(|| format!("{before}:{known}{after}"))
}

/// The URL with the hash of the body at the end of its query.
fn with_body_hash(url: &str, body: &[u8]) -> String {
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}{BODY_HASH}={}", hex(&Sha256::digest(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://mycompany.com/myapp.php?foo=1&bar=2";

    fn signer() -> Signer {
        Signer::new(Secret::new("12345".into()))
    }

    /// The example of Twilio's documentation; the variant and the others were
    /// computed with Python's hmac.
    #[test]
    fn forms_are_signed_as_twilio_publishes_it() {
        for (caller, expected) in [
            ("+14158675309", "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
            ("+12349013030", "0/KCTR6DLpKmkAf8muzZqo1nDgQ="),
        ] {
            let parameters = [
                ("To", "+18005551212"),
                ("Digits", "1234"),
                ("From", caller),
                ("CallSid", "CA1234567890ABCDE"),
                ("Caller", caller),
            ];
            assert_eq!(signer().sign_form(URL, &parameters), expected);
        }
    }

    #[test]
    fn a_form_is_verified_as_twilio_signs_it() {
        let parameters = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ];
        let signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        assert!(signer().verifies(URL, &parameters, signature));
        // What stands there twice is looked at once.
        let twice = [&parameters[..], &parameters[..2]].concat();
        assert!(signer().verifies(URL, &twice, signature));
        let other = Signer::new(Secret::new("12346".into()));
        assert!(!other.verifies(URL, &parameters, signature));
        assert!(!signer().verifies(URL, &parameters[1..], signature));
        assert!(!signer().verifies(&URL[..URL.len() - 1], &parameters, signature));
        for forged in [
            "",
            "RSOYDt4T1cUTdK1PDd93",
            "no base64!",
            "AAAA",
            &signature[1..],
        ] {
            assert!(!signer().verifies(URL, &parameters, forged), "{forged}");
        }
    }

    #[test]
    fn a_get_is_verified_by_its_url_with_or_without_its_port() {
        for (asked, signed) in [
            ("https://h/x?a=1", "https://h/x?a=1"),
            ("https://h:443/x?a=1", "https://h/x?a=1"),
            ("https://h/x?a=1", "https://h:443/x?a=1"),
            ("http://h?a=1:2", "http://h:80?a=1:2"),
            ("http://h:8080", "http://h"),
            ("https://[::1]/x", "https://[::1]:443/x"),
            ("https://[::1]:5061/x", "https://[::1]/x"),
            ("https://user:word@h/x", "https://user:word@h:443/x"),
        ] {
            let signature = signer().sign_url(signed);
            assert!(signer().verifies(asked, &[], &signature), "{asked}");
        }
        for (asked, signed) in [
            ("https://h/x?a=1", "https://h/x?a=2"),
            ("https://h/x", "https://h:8443/x"),
            ("https://h:1/x", "https://h:2/x"),
            ("http://h/x", "https://h/x"),
            ("h:80/x", "h/x"),
            ("", "https://h/"),
        ] {
            let signature = signer().sign_url(signed);
            assert!(!signer().verifies(asked, &[], &signature), "{asked}");
        }
    }

    #[test]
    fn a_json_body_is_signed_by_its_hash_in_the_url() {
        let body = br#"{"property": 1, "boolean": true}"#;
        let (url, signature) = signer().sign_json(URL, body);
        let hash = "3fe4d3222ecafefd88a91e37bc7cd43b47ebc35c21051a196ac72b58bb4d39ad";
        assert_eq!(url, format!("{URL}&bodySHA256={hash}"));
        assert_eq!(signature, "4PXUTC/+IaK5/yvVfR/NeOQUUJ0=");
        let (url, _) = signer().sign_json("http://h/x", b"");
        assert!(url.starts_with("http://h/x?bodySHA256=e3b0c442"), "{url}");
    }

    #[test]
    fn an_upgrade_is_signed_by_its_url() {
        let signature = signer().sign_url("wss://worker.example.com/media?x=1");
        assert_eq!(signature, "wlp1vt1Dwrbhh42sxnMmeU89g8I=");
    }

    #[test]
    fn the_token_is_not_shown() {
        assert!(!format!("{:?}", signer()).contains("12345"));
    }
}
