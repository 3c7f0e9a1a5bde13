//! Which part of a SIP body is the session description (RFC 3261 section 7.4,
//! RFC 5621): the body itself, or a part of a multipart one.

use super::judge::SdpRefusal;

/// Most parts of a multipart body, and how deep they may lie.
const PARTS_MAX: usize = 16;
const DEPTH_MAX: usize = 2;

/// What the headers of a body say, its own or those of its part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// `application/sdp`, parameters left out.
    pub kind: &'a str,
    /// The parameter that separates the parts of a multipart body.
    pub boundary: Option<&'a str>,
    /// Content-Disposition with its parameters.
    pub disposition: Option<&'a str>,
    /// Content-Encoding, or Content-Transfer-Encoding of a part.
    pub encoding: Option<&'a str>,
}

/// The description in a body; `None` where there is none and the other side
/// can do without.
///
/// # Errors
/// Why a body that must be understood is not.
pub fn find<'a>(headers: Headers<'a>, body: &'a [u8]) -> Result<Option<&'a [u8]>, SdpRefusal> {
    if body.is_empty() {
        return Ok(None);
    }
    let optional = headers.disposition.is_some_and(is_optional);
    match search(headers, body, DEPTH_MAX) {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) | Err(_) if optional => Ok(None),
        Ok(None) => Err(SdpRefusal::Kind),
        Err(refusal) => Err(refusal),
    }
}

fn search<'a>(
    headers: Headers<'a>,
    body: &'a [u8],
    depth: usize,
) -> Result<Option<&'a [u8]>, SdpRefusal> {
    let kind = headers.kind.trim();
    if kind.eq_ignore_ascii_case("application/sdp") {
        return taken(headers).map(|()| Some(body));
    }
    let is_multipart = kind
        .get(..10)
        .is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
    if !is_multipart || depth == 0 {
        return Ok(None);
    }
    if is_encoded(headers.encoding) {
        return Err(SdpRefusal::Encoded);
    }
    let mut refused = None;
    for part in parts(headers.boundary, body)? {
        let (headers, body) = part_headers(part);
        match search(headers, body, depth - 1) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    refused.map_or(Ok(None), Err)
}

fn taken(headers: Headers<'_>) -> Result<(), SdpRefusal> {
    if is_encoded(headers.encoding) {
        return Err(SdpRefusal::Encoded);
    }
    let kind = headers.disposition.unwrap_or("session");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() || kind.eq_ignore_ascii_case("session") {
        Ok(())
    } else {
        Err(SdpRefusal::Disposition)
    }
}

fn is_encoded(encoding: Option<&str>) -> bool {
    let plain = ["", "identity", "7bit", "8bit", "binary"];
    let encoding = encoding.unwrap_or_default().trim();
    !plain
        .iter()
        .any(|plain| plain.eq_ignore_ascii_case(encoding))
}

fn is_optional(disposition: &str) -> bool {
    parameter(disposition, "handling").is_some_and(|value| value.eq_ignore_ascii_case("optional"))
}

/// A parameter of a header value, without quotes.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|pair| {
        let (own, value) = pair.split_once('=')?;
        let is_it = own.trim().eq_ignore_ascii_case(name);
        is_it.then(|| value.trim().trim_matches('"'))
    })
}

/// The parts of a multipart body (RFC 2046). Without a boundary in the header
/// the first line that looks like one is taken.
fn parts<'a>(boundary: Option<&str>, body: &'a [u8]) -> Result<Vec<&'a [u8]>, SdpRefusal> {
    let boundary = match boundary.map(|text| text.trim().trim_matches('"')) {
        Some(text) if !text.is_empty() => text.as_bytes().to_vec(),
        _ => first_boundary(body).ok_or(SdpRefusal::Multipart)?.to_vec(),
    };
    let mut parts = Vec::new();
    let mut begin = None;
    let mut at = 0;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let next = at + line.len();
        if let Some(rest) = delimiter(line, &boundary) {
            if let Some(begin) = begin.replace(next) {
                parts.push(without_last_newline(&body[begin..at]));
            }
            if rest.starts_with(b"--") || parts.len() == PARTS_MAX {
                return Ok(parts);
            }
        }
        at = next;
    }
    // The last delimiter is missing: what follows the one before is a part.
    match begin {
        Some(begin) => parts.push(&body[begin..]),
        None => return Err(SdpRefusal::Multipart),
    }
    Ok(parts)
}

fn first_boundary(body: &[u8]) -> Option<&[u8]> {
    body.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find_map(|line| line.strip_prefix(b"--"))
        .filter(|boundary| !boundary.is_empty())
}

/// What follows the boundary on a delimiter line, blanks left out.
fn delimiter<'a>(line: &'a [u8], boundary: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let rest = rest.trim_ascii();
    (rest.is_empty() || rest == b"--").then_some(rest)
}

fn without_last_newline(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

/// Headers and body of a part. Without a blank line it has no headers that
/// could say what it is.
fn part_headers(part: &[u8]) -> (Headers<'_>, &[u8]) {
    let mut headers = Headers::default();
    let mut at = 0;
    for line in part.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        let line = std::str::from_utf8(line).unwrap_or_default().trim();
        if line.is_empty() {
            return (headers, &part[at..]);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" | "c" => {
                headers.kind = value.split(';').next().unwrap_or_default().trim();
                headers.boundary = parameter(value, "boundary");
            }
            "content-disposition" => headers.disposition = Some(value),
            "content-encoding" | "e" | "content-transfer-encoding" if is_encoded(Some(value)) => {
                headers.encoding = Some(value);
            }
            _ => {}
        }
    }
    (headers, &[])
}
