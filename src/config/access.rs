//! Who may use the API: `--api-token`, and where it may listen without one.

use std::net::IpAddr;

use super::config_error::FlagProblem;
use super::reader::Reader;
use crate::core::private::Secret;

/// Shortest token: what is shorter is a word, and can be guessed.
const TOKEN_MIN: usize = 17;

/// `--api-token`.
pub(super) fn token(reader: &mut Reader) -> Option<Secret> {
    let token = reader.secret("api-token")?;
    let text = token.expose();
    // The header that carries it ends at a space, and holds ASCII.
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.len() < TOKEN_MIN || !fits {
        reader.mistake("api-token", FlagProblem::Token(TOKEN_MIN));
        return None;
    }
    Some(token)
}

/// Without a token the API is for this machine alone. `/health` would do no
/// harm elsewhere, but one port serves both.
pub(super) fn check(bind: IpAddr, reader: &mut Reader) {
    // A token that was refused is a mistake of its own.
    if !bind.is_loopback() && reader.given.explicit("api-token").is_none() {
        reader.mistake("api-bind", FlagProblem::OpenApi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw_args::RawArgs;

    fn mistakes(pairs: &[(&'static str, &str)]) -> Vec<String> {
        let mut reader = Reader::new(RawArgs::from_pairs(pairs));
        let bind = reader.address("api-bind").expect("an address");
        let _ = token(&mut reader);
        check(bind, &mut reader);
        reader.mistakes.iter().map(|m| m.flag.to_owned()).collect()
    }

    #[test]
    fn a_token_is_long_and_fits_into_a_header() {
        let long = "0123456789abcdef0";
        assert!(mistakes(&[("api-token", long)]).is_empty());
        for bad in [&long[1..], "0123456789 abcdef0", "0123456789abcdef\u{e9}"] {
            assert_eq!(mistakes(&[("api-token", bad)]), ["api-token"], "{bad}");
        }
    }

    #[test]
    fn without_a_token_only_loopback_is_taken() {
        for loopback in ["127.0.0.1", "127.1.2.3", "::1"] {
            assert!(mistakes(&[("api-bind", loopback)]).is_empty());
        }
        for open in ["0.0.0.0", "::", "192.0.2.1"] {
            assert_eq!(mistakes(&[("api-bind", open)]), ["api-bind"]);
            let token = ("api-token", "0123456789abcdef0");
            assert!(mistakes(&[("api-bind", open), token]).is_empty());
        }
    }
}
