//! The token in the Contact of a line: it names the line in the request URI of
//! what its registrar sends us, and nobody else can know it.
//!
//! A keyed hash (HMAC-SHA256, RFC 2104) of the line's id, the same over
//! restarts as long as the key is: registrars keep Contacts.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::core::ids::{LineId, hex};
use crate::core::key::MasterKey;

/// How many bytes a key has.
pub const KEY_BYTES: usize = 32;
/// Block of SHA-256.
const BLOCK_BYTES: usize = 64;
/// How many bytes of the hash a token shows: nobody guesses 128 bits.
const TOKEN_BYTES: usize = 16;
/// What keys derived from the master key are for.
const PURPOSE: &[u8] = b"sipbridge Contact tokens";

/// The key of all lines' tokens; wiped when dropped, never shown.
#[derive(Clone)]
pub struct ContactKey(Zeroizing<[u8; KEY_BYTES]>);

/// What a token is looked up by. Comparing two of them tells nothing of the
/// token itself, so that no answer's time helps to guess one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; KEY_BYTES]);

impl ContactKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A key that nothing else knows: tokens change with it.
    #[must_use]
    pub fn random() -> Self {
        Self::new(rand::random())
    }

    /// That of a bridge with a master key.
    #[must_use]
    pub fn derived(master: &MasterKey) -> Self {
        Self::new(hmac(master.expose(), &[PURPOSE]))
    }

    /// Reads 64 hex digits, as [`ContactKey::to_hex`] writes them.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let key = MasterKey::parse(hex.trim()).ok()?;
        Some(Self::new(*key.expose()))
    }

    /// 64 hex digits, to be kept where others cannot read them.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(&*self.0))
    }

    /// The value of a line's `line` parameter: 32 hex digits.
    #[must_use]
    pub fn token(&self, line: &LineId) -> String {
        hex(&hmac(&self.0, &[b"line:", line.as_str().as_bytes()])[..TOKEN_BYTES])
    }

    /// What to look a token up by.
    #[must_use]
    pub fn digest(&self, token: &str) -> TokenDigest {
        let token = token.as_bytes();
        TokenDigest(hmac(&self.0, &[b"token:", &token[..token.len().min(256)]]))
    }
}

impl fmt::Debug for ContactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContactKey(***)")
    }
}

fn hmac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    // A key shorter than a block is filled with zeros (RFC 2104).
    let mut block = Zeroizing::new([0; BLOCK_BYTES]);
    block[..KEY_BYTES].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_depends_on_line_and_key_and_on_nothing_else() {
        let (a, b) = (LineId::new("a"), LineId::new("b"));
        let key = ContactKey::new([7; 32]);
        assert_eq!(key.token(&a), ContactKey::new([7; 32]).token(&a));
        assert_eq!(key.token(&a).len(), 32);
        assert_ne!(key.token(&a), key.token(&b));
        assert_ne!(key.token(&a), ContactKey::new([8; 32]).token(&a));
        assert_ne!(
            ContactKey::random().token(&a),
            ContactKey::random().token(&a)
        );
    }

    #[test]
    fn a_key_is_kept_as_text_and_derived_from_the_master_key() {
        let key = ContactKey::random();
        let read = ContactKey::parse(&key.to_hex()).expect("a key");
        let line = LineId::new("a");
        assert_eq!(read.token(&line), key.token(&line));
        assert!(ContactKey::parse("abc").is_none());
        let master = MasterKey::parse(&"1f".repeat(32)).expect("a key");
        let derived = ContactKey::derived(&master);
        assert_ne!(*derived.0, *master.expose());
        assert_eq!(
            derived.token(&line),
            ContactKey::derived(&master).token(&line)
        );
        assert!(!format!("{derived:?}").contains("1f"));
    }

    #[test]
    fn tokens_are_found_by_their_digest() {
        let key = ContactKey::random();
        let token = key.token(&LineId::new("a"));
        assert_eq!(key.digest(&token), key.digest(&token));
        assert_ne!(key.digest(&token), key.digest(&token[..31]));
    }
}
