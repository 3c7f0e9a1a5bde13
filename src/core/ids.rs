//! Identifiers of the contracts: Twilio-style SIDs, lines, nodes, tokens, and
//! the slot numbers that stand for a call inside C user data.

use std::fmt;
use std::sync::Arc;

use rand::RngExt;
use sha2::{Digest, Sha256};

use super::key::MasterKey;

/// 16 random bytes as 32 hex digits.
fn random_hex32() -> String {
    hex(&rand::rng().random::<[u8; 16]>())
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
            use fmt::Write;
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

macro_rules! sid {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A fresh random id: prefix and 32 hex digits.
            #[must_use]
            pub fn random() -> Self {
                Self(format!(concat!($prefix, "{}"), random_hex32()).into())
            }

            /// Takes an id that came from outside; `None` when it has not the
            /// form prefix + 32 hex digits.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let hex = text.strip_prefix($prefix)?;
                let valid = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                valid.then(|| Self(text.into()))
            }

            /// The id as the contracts write it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

sid!(
    /// `callSid` and `callId`: one phone call, "CA" + 32 hex.
    CallId,
    "CA"
);
sid!(
    /// `streamSid`: one attachment of a worker to a call, "MZ" + 32 hex.
    StreamId,
    "MZ"
);
sid!(
    /// `accountSid`: this installation, "AC" + 32 hex.
    AccountSid,
    "AC"
);

impl AccountSid {
    /// The account of a bridge node: the same at every start.
    #[must_use]
    pub fn of_node(node_id: &str) -> Self {
        Self::of_hash(Sha256::new_with_prefix(node_id))
    }

    /// The account of all bridges that have this key: it tells nothing of the key.
    #[must_use]
    pub fn of_key(key: &MasterKey) -> Self {
        let domain = Sha256::new_with_prefix("sipbridge AccountSid ");
        Self::of_hash(domain.chain_update(key.expose()))
    }

    fn of_hash(hash: Sha256) -> Self {
        Self(format!("AC{}", hex(&hash.finalize()[..16])).into())
    }
}

/// The id of a phone line, as the database or the lines file names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineId(Arc<str>);

impl LineId {
    /// Takes a line id as configured.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The right to attach to one call once: 128 random bits as 32 hex digits.
/// Shown in no log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// A fresh random token.
    #[must_use]
    pub fn random() -> Self {
        Self(random_hex32().into())
    }

    /// The text for the job's URL; nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not depend on where the texts differ.
    #[must_use]
    pub fn matches(&self, offered: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), offered.as_bytes());
        ours.len() == theirs.len()
            && ours
                .iter()
                .zip(theirs)
                .fold(0, |diff, (a, b)| diff | (a ^ b))
                == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// One SIP call leg inside the engine: a slot number and its generation. A
/// late callback or command that carries an old generation finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId {
    /// The slot in the engine's table.
    pub index: u32,
    /// How often the slot has been given out; never 0 for a live leg.
    pub generation: u32,
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sids_have_their_prefix_and_32_hex_digits() {
        let id = CallId::random();
        assert_eq!(CallId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(StreamId::parse(id.as_str()), None);
        assert_eq!(CallId::parse("CA12"), None);
        assert_ne!(CallId::random(), id);
    }

    #[test]
    fn a_token_matches_only_itself_and_is_not_shown() {
        let token = Token::random();
        assert!(token.matches(token.expose()));
        assert!(!token.matches(Token::random().expose()));
        assert!(!token.matches(""));
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
