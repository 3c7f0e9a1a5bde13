//! Credentials at rest, as [`crate::guide::phone_lines`] fixes them: AES-256-GCM under a key
//! derived per line with PBKDF2-HMAC-SHA256, stored as `iv:authTag:ciphertext`.
//!
//! The same scheme serves SIP servers, with the server's id as salt. Leaves
//! out where the stored text comes from.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::core::key::MasterKey;
use crate::core::private::Secret;

/// Iterations of the derivation: about 20 ms of CPU by design.
const ITERATIONS: u32 = 100_000;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// A part of the stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The initialisation vector.
    Iv,
    /// The authentication tag.
    Tag,
    /// The encrypted password.
    Ciphertext,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Iv => "IV",
            Self::Tag => "authentication tag",
            Self::Ciphertext => "ciphertext",
        })
    }
}

/// Why a stored credential cannot be used. Never holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// It is encrypted and there is no master key.
    #[error("the password is encrypted and no key was given: set ENCRYPTION_KEY")]
    NoKey,
    /// A part is not standard base64 with padding.
    #[error("the {0} of the encrypted password is not valid base64")]
    Base64(Part),
    /// The IV has not 12 bytes.
    #[error("the IV of the encrypted password has {0} bytes instead of 12")]
    IvLength(usize),
    /// The tag has not 16 bytes.
    #[error("the authentication tag of the encrypted password has {0} bytes instead of 16")]
    TagLength(usize),
    /// The tag does not match: one of three mistakes, not to be told apart.
    #[error(
        "the encrypted password does not decrypt: it was encrypted under another ENCRYPTION_KEY, \
         for another line id, or was altered"
    )]
    Authentication,
    /// It decrypted to bytes that are no text.
    #[error("the encrypted password decrypts to something that is not UTF-8 text")]
    NotText,
}

/// What a stored credential turned out to be.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing stored: the trunk needs no password.
    Absent,
    /// A clear-text password from before the migration: works, worth a warning.
    Plain(Secret),
    /// It was encrypted, and decrypts.
    Decrypted(Secret),
}

impl Credential {
    /// Opens what is stored for a line (or for a server, by its id).
    ///
    /// Costs about 20 ms of CPU for an encrypted value.
    ///
    /// # Errors
    /// When it is encrypted and does not decrypt, or there is no key.
    pub fn open(
        key: Option<&MasterKey>,
        line_id: &str,
        stored: Option<&Secret>,
    ) -> Result<Self, CredentialError> {
        let Some(stored) = stored else {
            return Ok(Self::Absent);
        };
        if !is_encrypted(stored.expose()) {
            return Ok(Self::Plain(stored.clone()));
        }
        let key = key.ok_or(CredentialError::NoKey)?;
        key.decrypt(line_id, stored.expose()).map(Self::Decrypted)
    }

    /// The password, where there is one.
    #[must_use]
    pub fn into_password(self) -> Option<Secret> {
        match self {
            Self::Absent => None,
            Self::Plain(password) | Self::Decrypted(password) => Some(password),
        }
    }
}

/// Whether a stored value is an encrypted one: exactly three parts between
/// colons, whatever is in them.
#[must_use]
pub fn is_encrypted(stored: &str) -> bool {
    stored.split(':').count() == 3
}

/// Whether an encrypted value has the form of one: parts of base64, of the
/// right lengths. All that can be said of it without a key.
///
/// # Errors
/// What is wrong with it.
pub fn check_form(stored: &str) -> Result<(), CredentialError> {
    Parts::read(stored).map(drop)
}

/// The stored form, taken apart.
struct Parts {
    iv: [u8; IV_BYTES],
    tag: [u8; TAG_BYTES],
    text: Zeroizing<Vec<u8>>,
}

impl Parts {
    fn read(stored: &str) -> Result<Self, CredentialError> {
        let mut parts = stored.split(':');
        let mut part = |name| {
            let decoded = STANDARD.decode(parts.next().unwrap_or_default());
            // Of a clear password with two colons it may be a piece.
            decoded
                .map(Zeroizing::new)
                .map_err(|_| CredentialError::Base64(name))
        };
        let (iv, tag) = (part(Part::Iv)?, part(Part::Tag)?);
        let text = part(Part::Ciphertext)?;
        let iv = exact(&iv).ok_or(CredentialError::IvLength(iv.len()))?;
        let tag = exact(&tag).ok_or(CredentialError::TagLength(tag.len()))?;
        Ok(Self { iv, tag, text })
    }
}

impl MasterKey {
    /// Encrypts a password for a line, with a fresh random IV.
    #[must_use]
    pub fn encrypt(&self, line_id: &str, password: &Secret) -> String {
        self.seal(line_id, password, rand::rng().random())
    }

    /// Decrypts what [`MasterKey::encrypt`] made for the same line.
    ///
    /// # Errors
    /// When the stored form is malformed or its tag does not match.
    pub fn decrypt(&self, line_id: &str, stored: &str) -> Result<Secret, CredentialError> {
        let Parts { iv, tag, mut text } = Parts::read(stored)?;
        self.cipher(line_id)
            .decrypt_inout_detached(
                &Nonce::from(iv),
                b"",
                text.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .map_err(|_| CredentialError::Authentication)?;
        into_text(std::mem::take(&mut *text))
    }

    #[expect(
        clippy::expect_used,
        reason = "GCM refuses only texts over 64 GB; going on would print the password"
    )]
    fn seal(&self, line_id: &str, password: &Secret, iv: [u8; IV_BYTES]) -> String {
        let mut text = Zeroizing::new(password.expose().as_bytes().to_vec());
        let tag = self
            .cipher(line_id)
            .encrypt_inout_detached(&Nonce::from(iv), b"", text.as_mut_slice().into())
            .expect("a password is shorter than 64 GB");
        format!(
            "{}:{}:{}",
            STANDARD.encode(iv),
            STANDARD.encode(tag),
            STANDARD.encode(text.as_slice())
        )
    }

    fn cipher(&self, line_id: &str) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(
            self.expose(),
            line_id.as_bytes(),
            ITERATIONS,
            key.as_mut_slice(),
        );
        Aes256Gcm::new((&*key).into())
    }
}

fn exact<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn into_text(bytes: Vec<u8>) -> Result<Secret, CredentialError> {
    String::from_utf8(bytes).map(Secret::new).map_err(|error| {
        error.into_bytes().zeroize();
        CredentialError::NotText
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made with Python's `cryptography` 48 and again with Node's `crypto`:
    /// key 00 01 … 1f, IV a0 … ab.
    const KNOWN: &str = "oKGio6Slpqeoqaqr:MKhilMbRRky3tR68q5lTVw==:0x46k87esPmC/mkOmg==";
    /// The same key, a line id outside ASCII, IV all ff.
    const KNOWN_UTF8_ID: &str = "////////////////:d74ujhYzlx8MIDYkI6SQiw==:5Q==";

    fn key() -> MasterKey {
        MasterKey::parse("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
            .expect("valid")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.into())
    }

    #[test]
    fn decrypts_what_other_programs_encrypted() {
        let opened = key().decrypt("line-42", KNOWN).expect("known answer");
        assert_eq!(opened.expose(), "s3cr3t:Pa§§");
        let opened = key()
            .decrypt("café/7", KNOWN_UTF8_ID)
            .expect("known answer");
        assert_eq!(opened.expose(), "x");
    }

    #[test]
    fn encrypts_byte_for_byte_as_other_programs_do() {
        let iv = std::array::from_fn(|index| 0xa0 + index as u8);
        assert_eq!(key().seal("line-42", &secret("s3cr3t:Pa§§"), iv), KNOWN);
    }

    #[test]
    fn every_encryption_has_its_own_iv() {
        let (one, two) = (
            key().encrypt("7", &secret("pw")),
            key().encrypt("7", &secret("pw")),
        );
        assert_ne!(one, two);
        assert_eq!(key().decrypt("7", &one).expect("own").expose(), "pw");
        assert_eq!(key().decrypt("7", &two).expect("own").expose(), "pw");
    }

    #[test]
    fn wrong_key_wrong_line_and_tampering_fail_the_tag() {
        let other = MasterKey::parse(&"ab".repeat(32)).expect("valid");
        let failed = Err(CredentialError::Authentication);
        assert_eq!(other.decrypt("line-42", KNOWN).map(|_| ()), failed);
        assert_eq!(key().decrypt("line-43", KNOWN).map(|_| ()), failed);
        for tampered in [
            KNOWN.replace("oKGi", "oKGj"),
            KNOWN.replace("MKhi", "MKhj"),
            KNOWN.replace("0x46", "0x47"),
        ] {
            assert_eq!(key().decrypt("line-42", &tampered).map(|_| ()), failed);
        }
    }

    #[test]
    fn a_malformed_encrypted_value_says_which_part_is_wrong() {
        let open = |stored: &str| {
            Credential::open(Some(&key()), "1", Some(&secret(stored)))
                .map(|_| ())
                .expect_err(stored)
        };
        let (iv, tag) = ("oKGio6Slpqeoqaqr", "MKhilMbRRky3tR68q5lTVw==");
        assert_eq!(open("usr:pass:word"), CredentialError::Base64(Part::Iv));
        assert_eq!(open("::"), CredentialError::IvLength(0));
        assert_eq!(
            open(&format!("{iv}:%:")),
            CredentialError::Base64(Part::Tag)
        );
        assert_eq!(open(&format!("{iv}:AAAA:")), CredentialError::TagLength(3));
        assert_eq!(open(&format!("AAAA:{tag}:")), CredentialError::IvLength(3));
        let unpadded = format!("{iv}:{tag}:5Q");
        assert_eq!(open(&unpadded), CredentialError::Base64(Part::Ciphertext));
    }

    #[test]
    fn without_a_key_only_plain_passwords_open() {
        let open = |stored: Option<&str>| Credential::open(None, "1", stored.map(secret).as_ref());
        assert_eq!(open(Some(KNOWN)).map(|_| ()), Err(CredentialError::NoKey));
        assert!(matches!(open(None), Ok(Credential::Absent)));
        for plain in ["hunter2", "a:b", "a:b:c:d", ""] {
            let opened = open(Some(plain)).expect("plain");
            assert!(matches!(&opened, Credential::Plain(p) if p.expose() == plain));
        }
    }

    proptest! {
        // Each case derives a key: few cases, the rest of the coverage is above.
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn any_password_of_any_line_survives(id in "\\PC{1,20}", password in "\\PC{1,60}") {
            let stored = key().encrypt(&id, &secret(&password));
            prop_assert!(is_encrypted(&stored));
            let opened = key().decrypt(&id, &stored).expect("own");
            prop_assert_eq!(opened.expose(), password);
        }
    }

    proptest! {
        #[test]
        fn any_text_without_two_colons_is_a_plain_password(text in "[^:]{0,20}(:[^:]{0,9}){3,5}|[^:]{0,30}:?[^:]{0,9}") {
            let opened = Credential::open(Some(&key()), "1", Some(&secret(&text)));
            prop_assert!(matches!(opened, Ok(Credential::Plain(_))));
        }
    }
}
