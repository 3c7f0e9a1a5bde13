//! Challenges of several authentication schemes that share one header field
//! (RFC 9110 section 11.6.1): `WWW-Authenticate: Basic realm="x", Digest …`.
//! RFC 3261 allows one challenge a header, and pjsip reads no other form: it
//! drops the whole response. So all but one Digest challenge is blanked out
//! before it is parsed, in place: no byte moves and no length changes.

use std::ops::Range;

/// The headers that hold challenges. They have no short form.
const NAMES: [&[u8]; 2] = [b"www-authenticate", b"proxy-authenticate"];
/// The algorithms of Digest that pjsip answers (RFC 3261, RFC 8760).
const ALGORITHMS: [&[u8]; 3] = [b"md5", b"sha-256", b"sha-512-256"];

/// Leaves one Digest challenge in each header that joins challenges of several
/// schemes, or several of Digest: the first whose algorithm is known. A header
/// that has no Digest, or only one challenge, or whose end has not come yet,
/// stays as it is, as does all else in the packet.
pub fn leave_digest(packet: &mut [u8]) {
    let mut at = 0;
    while at < packet.len() {
        let end = header_end(packet, at);
        if let Some(end) = end
            && let Some(value) = value_of_challenge(&packet[at..end])
        {
            keep_one(&mut packet[at + value..end]);
        }
        at = end.unwrap_or_else(|| line_end(packet, at));
    }
}

/// Behind the line that begins here.
fn line_end(packet: &[u8], at: usize) -> usize {
    let feed = packet[at..].iter().position(|byte| *byte == b'\n');
    feed.map_or(packet.len(), |feed| at + feed + 1)
}

/// Behind the header that begins here, with the lines that continue it; `None`
/// where what follows is not known yet.
fn header_end(packet: &[u8], at: usize) -> Option<usize> {
    let mut end = line_end(packet, at);
    while matches!(packet.get(end)?, b' ' | b'\t') {
        end = line_end(packet, end);
    }
    Some(end)
}

/// Where the value begins, in a header that holds challenges.
fn value_of_challenge(header: &[u8]) -> Option<usize> {
    let colon = header.iter().position(|byte| *byte == b':')?;
    let name = header[..colon].trim_ascii_end();
    let holds = NAMES.iter().any(|known| name.eq_ignore_ascii_case(known));
    holds.then_some(colon + 1)
}

/// Blanks out all but one Digest challenge of a header's value.
fn keep_one(value: &mut [u8]) {
    let length = value.trim_ascii_end().len();
    let value = &mut value[..length];
    let challenges = split(value);
    let digests = challenges
        .iter()
        .filter(|it| is_digest(&value[(*it).clone()]));
    let is_answered = |range: &&Range<usize>| has_known_algorithm(&value[(*range).clone()]);
    let mut answered = digests.clone().filter(is_answered);
    let Some(kept) = answered.next().or_else(|| digests.clone().next()).cloned() else {
        return;
    };
    if challenges.len() > 1 {
        value[..kept.start].fill(b' ');
        value[kept.end..].fill(b' ');
    }
}

/// The challenges of a value: a comma ends one where a scheme follows it.
fn split(value: &[u8]) -> Vec<Range<usize>> {
    let mut challenges: Vec<Range<usize>> = Vec::new();
    for element in elements(value) {
        match challenges.last_mut() {
            Some(last) if !begins_challenge(&value[element.clone()]) => last.end = element.end,
            _ => challenges.push(element),
        }
    }
    challenges
}

/// What lies between commas outside of quotes, without space around it.
fn elements(value: &[u8]) -> Vec<Range<usize>> {
    let mut elements = Vec::new();
    let (mut start, mut in_quotes, mut escaped) = (0, false, false);
    for at in 0..=value.len() {
        match value.get(at) {
            _ if escaped => escaped = false,
            Some(b'\\') if in_quotes => escaped = true,
            Some(b'"') => in_quotes = !in_quotes,
            Some(b',') | None if !in_quotes || at == value.len() => {
                let whole = &value[start..at];
                let text = whole.trim_ascii_start();
                let begin = at - text.len();
                let end = begin + text.trim_ascii_end().len();
                if begin < end {
                    elements.push(begin..end);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    elements
}

/// Whether an element begins with a scheme: a word that no `=` follows. `auth`
/// and `auth-int` come so from who forgot the quotes of a list of qop.
fn begins_challenge(element: &[u8]) -> bool {
    let is_word = |byte: &u8| !byte.is_ascii_whitespace() && !matches!(byte, b'=' | b'"');
    let length = element.iter().take_while(|byte| is_word(byte)).count();
    let (word, rest) = element.split_at(length);
    let rest = rest.trim_ascii_start();
    let is_qop = rest.is_empty()
        && (word.eq_ignore_ascii_case(b"auth") || word.eq_ignore_ascii_case(b"auth-int"));
    !word.is_empty() && !matches!(rest.first(), Some(b'=' | b'"')) && !is_qop
}

fn is_digest(challenge: &[u8]) -> bool {
    let (scheme, rest) = challenge.split_at(challenge.len().min(6));
    scheme.eq_ignore_ascii_case(b"digest") && rest.first().is_some_and(u8::is_ascii_whitespace)
}

/// Whether a Digest challenge names an algorithm that pjsip answers, or none.
fn has_known_algorithm(challenge: &[u8]) -> bool {
    let parameters = &challenge[challenge.len().min(6)..];
    elements(parameters)
        .into_iter()
        .filter_map(|element| {
            let element = &parameters[element];
            let equals = element.iter().position(|byte| *byte == b'=')?;
            let name = element[..equals].trim_ascii();
            let value = element[equals + 1..].trim_ascii();
            name.eq_ignore_ascii_case(b"algorithm").then_some(value)
        })
        .all(|algorithm| {
            let bare = algorithm.strip_prefix(b"\"").unwrap_or(algorithm);
            let bare = bare.strip_suffix(b"\"").unwrap_or(bare);
            ALGORITHMS
                .iter()
                .any(|known| bare.eq_ignore_ascii_case(known))
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = r#"Digest realm="a, Basic b\", NTLM", nonce="n", qop="auth,auth-int""#;

    /// What is left of a value, without space around it.
    fn left(value: &str) -> String {
        let before = format!("SIP/2.0 401 No\r\nCSeq: 1 X\r\nWWW-Authenticate:{value}\r\n");
        let mut packet = format!("{before}Content-Length: 0\r\n\r\n").into_bytes();
        let length = packet.len();
        leave_digest(&mut packet);
        assert_eq!(packet.len(), length);
        let text = String::from_utf8(packet).expect("text");
        assert!(text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
        let header = text.split("WWW-Authenticate:").nth(1).expect("it stays");
        let value = header
            .split("\r\nContent-Length")
            .next()
            .unwrap_or_default();
        value.trim().to_owned()
    }

    #[test]
    fn the_digest_is_left_whatever_stands_beside_it() {
        for other in [
            r#"Basic realm="x""#,
            r#"Basic realm="x, Digest realm=y", charset="UTF-8""#,
            "NTLM",
            "Negotiate",
            "NTLM TlRMTVNTUAACAAAA==",
            r#"Bearer realm="x", scope="a b", error=invalid_token"#,
            r#"Digest realm="x", nonce="y", algorithm=AKAv1-MD5"#,
            r#"Digest realm="x", nonce="y", algorithm = "MD5-sess""#,
        ] {
            assert_eq!(left(&format!(" {other}, {DIGEST}")), DIGEST, "{other}");
            assert_eq!(left(&format!(" {DIGEST},{other}")), DIGEST, "{other}");
            let both = format!("{other} ,, {DIGEST} ,\r\n {other}, NTLM");
            assert_eq!(left(&both), DIGEST, "{other}");
        }
        let sha = format!("{DIGEST}, algorithm=SHA-256");
        assert_eq!(left(&format!("{sha}, {DIGEST}")), sha);
        assert_eq!(
            left(&format!("{DIGEST}, algorithm=MD5, {sha}")),
            format!("{DIGEST}, algorithm=MD5")
        );
    }

    #[test]
    fn one_challenge_stays_as_it_is() {
        for alone in [
            DIGEST,
            "Basic realm=\"x\"",
            "NTLM",
            "Basic realm=\"x\", Bearer realm=\"y\"",
            "Digest realm=\"x\", qop=auth,auth-int, nonce=\"y\"",
            "Digest realm=\"x\",\r\n\tnonce=\"y\"",
            "Digest realm=\"open, Basic x, nonce=\"y",
            "digestive, Basic x",
            "",
            ",,\"",
        ] {
            assert_eq!(left(alone), alone);
        }
    }

    #[test]
    fn a_header_that_is_not_whole_waits_for_its_rest() {
        let whole =
            format!("SIP/2.0 407 No\r\nproxy-authenticate : NTLM, {DIGEST}, Basic x\r\nX: y");
        for length in 0..whole.len() - 4 {
            let mut part = whole.as_bytes()[..length].to_vec();
            leave_digest(&mut part);
            assert_eq!(part, whole.as_bytes()[..length]);
        }
        let mut packet = whole.into_bytes();
        leave_digest(&mut packet);
        let text = String::from_utf8(packet).expect("text");
        assert!(
            text.contains(&format!(
                "proxy-authenticate :       {DIGEST}         \r\nX: y"
            )),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length_and_their_other_headers(
            value in "[DdigestBasic =,\"\\\\a-z\r\n\t]{0,80}",
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut packet = b"WWW-Authenticate: Digest ".to_vec();
            packet.extend_from_slice(value.as_bytes());
            packet.extend_from_slice(&bytes);
            let before = packet.clone();
            leave_digest(&mut packet);
            prop_assert_eq!(packet.len(), before.len());
            let changed = packet.iter().zip(&before).filter(|(now, was)| now != was);
            prop_assert!(changed.into_iter().all(|(now, _)| *now == b' '));
        }
    }
}
