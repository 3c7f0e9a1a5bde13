//! Digest authentication of the test user agent (RFC 2617 as RFC 3261 section
//! 22 uses it): MD5, with and without `qop=auth`. Leaves out SHA-256, MD5-sess
//! and auth-int.

use md5::{Digest, Md5};

/// User name and password for 401 and 407.
#[derive(Clone)]
pub struct Credentials {
    /// Digest user name.
    pub username: String,
    /// Digest password; shown nowhere.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(***)")
    }
}

fn md5_hex(text: &str) -> String {
    use std::fmt::Write;
    Md5::digest(text.as_bytes())
        .iter()
        .fold(String::with_capacity(32), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// Splits `a="x, y", b=z` at the commas outside quotes.
fn parameters(list: &str) -> Vec<(&str, &str)> {
    let mut quoted = false;
    list.split(move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter_map(|part| part.split_once('='))
    .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
    .collect()
}

/// The value of Authorization or Proxy-Authorization that answers a
/// challenge; `None` when the challenge asks for something we cannot do.
pub fn answer(
    challenge: &str,
    credentials: &Credentials,
    method: &str,
    uri: &str,
    cnonce: &str,
) -> Option<String> {
    let list = challenge.strip_prefix("Digest ")?;
    let given = parameters(list);
    let find = |wanted: &str| {
        let found = given
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value)
    };
    let (realm, nonce) = (find("realm")?, find("nonce")?);
    if find("algorithm").is_some_and(|name| !name.eq_ignore_ascii_case("MD5")) {
        return None;
    }
    let Credentials { username, password } = credentials;
    let ha1 = md5_hex(&format!("{username}:{realm}:{password}"));
    let ha2 = md5_hex(&format!("{method}:{uri}"));
    let mut value = format!(
        "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm=MD5"
    );
    if let Some(qop) = find("qop") {
        if !qop.split(',').any(|one| one.trim() == "auth") {
            return None;
        }
        let response = md5_hex(&format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}"));
        value += &format!(", qop=auth, nc=00000001, cnonce=\"{cnonce}\", response=\"{response}\"");
    } else {
        let response = md5_hex(&format!("{ha1}:{nonce}:{ha2}"));
        value += &format!(", response=\"{response}\"");
    }
    if let Some(opaque) = find("opaque") {
        value += &format!(", opaque=\"{opaque}\"");
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 2617 section 3.5.
    #[test]
    fn matches_the_example_of_the_rfc() {
        let challenge = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let credentials = Credentials {
            username: "Mufasa".into(),
            password: "Circle Of Life".into(),
        };
        let value = answer(
            challenge,
            &credentials,
            "GET",
            "/dir/index.html",
            "0a4f113b",
        )
        .unwrap();
        assert!(value.contains("response=\"6629fae49393a05397450978507c4ef1\""));
    }
}
