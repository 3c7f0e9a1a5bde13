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
        let mut sorted = parameters.to_vec();
        sorted.sort_unstable();
        // Twilio's libraries look at a value that is there twice once.
        sorted.dedup();
        let mut text = url.to_owned();
        for (name, value) in sorted {
            text.push_str(name);
            text.push_str(value);
        }
        // HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(self.0.expose().as_bytes()) else {
            return String::new();
        };
        mac.update(text.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }

    /// The URL to send a JSON body to, and its signature.
    #[must_use]
    pub fn sign_json(&self, url: &str, body: &[u8]) -> (String, String) {
        let url = with_body_hash(url, body);
        let signature = self.sign_url(&url);
        (url, signature)
    }
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
