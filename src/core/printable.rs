//! Foreign text on one line of a terminal or a log: characters that end a
//! line, steer a terminal or turn the reading direction are written as what
//! they are instead of what they do.

use std::fmt::{self, Display, Write};

/// Whether a character is harmless in a line that people and programs read.
///
/// Not harmless are control characters (C0, DEL and C1: line ends, and ESC and CSI, which
/// begin a terminal's commands), the separators U+2028 and U+2029, the marks that turn the
/// reading direction (UAX #9), and the invisible tags of U+E0000 to U+E007F.
#[must_use]
pub fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{2028}' | '\u{2029}'
            | '\u{61c}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Shows a text with everything that is not [harmless](is_harmless) escaped
/// as Rust writes it: `\n`, `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'text>(pub &'text str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaping(f).write_str(self.0)
    }
}

/// A writer that [`OneLine`]s all that goes through it.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !is_harmless(*c)) {
            self.0.write_str(&rest[..at])?;
            match c {
                '\n' | '\r' | '\t' => write!(self.0, "{}", c.escape_default())?,
                _ => write!(self.0, "{}", c.escape_unicode())?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// A line of JSON in which what JSON itself leaves as it is (DEL, C1, separators, direction
/// marks) is escaped too. Such characters stand only in JSON's strings, so that it means
/// the same. `None` when there are none.
#[must_use]
pub fn escape_json(line: &str) -> Option<String> {
    let (body, end) = match line.strip_suffix('\n') {
        Some(body) => (body, "\n"),
        None => (line, ""),
    };
    if body.chars().all(is_harmless) {
        return None;
    }
    let mut out = String::with_capacity(line.len() + 16);
    for c in body.chars() {
        if is_harmless(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out.push_str(end);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_is_shown_and_what_reads_stays() {
        for (text, shown) in [
            ("Müller: “ça va” 😀", "Müller: “ça va” 😀"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("\u{202e}gpj.exe\u{2066}", "\\u{202e}gpj.exe\\u{2066}"),
            ("", ""),
        ] {
            assert_eq!(OneLine(text).to_string(), shown);
        }
    }

    #[test]
    fn json_means_the_same() {
        let text = "a\u{202e}b\u{9b}c\u{e0041}\n\u{7f}";
        let line = format!("{{\"message\":{}}}\n", serde_json::json!(text));
        let escaped = escape_json(&line).unwrap();
        assert!(escaped.trim_end().chars().all(is_harmless), "{escaped}");
        let read: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read["message"], text);
        assert_eq!(escape_json("{\"a\":1}\n"), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_one_harmless_line(text in any::<String>()) {
            prop_assert!(OneLine(&text).to_string().chars().all(is_harmless));
        }
    }
}
