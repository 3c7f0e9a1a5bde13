//! The master key that credentials at rest are encrypted under
//! ([`crate::guide::phone_lines`]). What is done with it is in `lines::credentials`.

use std::fmt;

use zeroize::Zeroizing;

/// How many bytes a master key has.
pub const MASTER_KEY_BYTES: usize = 32;

/// Why a text is no master key. Never holds any of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short or too long.
    #[error("must be 64 hex digits (32 bytes), has {digits} characters")]
    Length {
        /// How many characters there were.
        digits: usize,
    },
    /// A character that is no hex digit.
    #[error("must be 64 hex digits (32 bytes), character {position} is none")]
    NotHex {
        /// Which character, counted from 1.
        position: usize,
    },
}

/// `ENCRYPTION_KEY`: 32 bytes, wiped when dropped, never shown.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; MASTER_KEY_BYTES]>);

impl MasterKey {
    /// Reads 64 hex digits, of either case.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(hex: &str) -> Result<Self, KeyError> {
        let digits = hex.chars().count();
        if digits != 2 * MASTER_KEY_BYTES {
            return Err(KeyError::Length { digits });
        }
        let mut bytes = Zeroizing::new([0; MASTER_KEY_BYTES]);
        for (index, character) in hex.chars().enumerate() {
            let digit = character.to_digit(16).ok_or(KeyError::NotHex {
                position: index + 1,
            })?;
            // A hex digit is below 16.
            bytes[index / 2] = (bytes[index / 2] << 4) | (digit as u8);
        }
        Ok(Self(bytes))
    }

    /// The key's bytes, for the derivation alone.
    #[must_use]
    pub fn expose(&self) -> &[u8; MASTER_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hex_digits_of_either_case() {
        let hex = "00ff".repeat(16);
        let key = MasterKey::parse(&hex).expect("valid");
        assert_eq!(&key.expose()[..4], [0, 255, 0, 255]);
        assert_eq!(
            MasterKey::parse(&hex.to_uppercase())
                .expect("valid")
                .expose(),
            key.expose()
        );
    }

    #[test]
    fn a_bad_key_is_refused_without_being_shown() {
        let secret = "feedfacecafe";
        let short = MasterKey::parse(secret).expect_err("short");
        assert_eq!(short, KeyError::Length { digits: 12 });
        let bad = format!("{}z", "a".repeat(63));
        let error = MasterKey::parse(&bad).expect_err("not hex");
        assert_eq!(error, KeyError::NotHex { position: 64 });
        let key = MasterKey::parse(&"cafe".repeat(16)).expect("valid");
        for shown in [short.to_string(), error.to_string(), format!("{key:?}")] {
            assert!(
                !shown.contains("cafe") && !shown.contains("aaaa"),
                "{shown}"
            );
        }
    }
}
