//! Names of SIP headers, for people and programs that tell capitals apart: SIP itself does not (RFC 3261 section 7.3.1).

/// A header's name of which the engine knows the lower-case letters, with a capital for each word: `X-Trunk-Id`.
#[must_use]
pub fn capitals(name: &str) -> String {
    let mut is_first = true;
    name.chars()
        .map(|c| {
            let shown = if is_first { c.to_ascii_uppercase() } else { c };
            is_first = c == '-';
            shown
        })
        .collect()
}
