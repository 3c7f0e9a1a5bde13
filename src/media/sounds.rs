//! What callers hear when no worker speaks: ringback, the announcement that
//! nobody can take the call, and a line's greeting. Raw mu-law at 8 kHz.

use std::sync::Arc;

use super::tones;

/// Spoken by espeak-ng; French, then English.
const UNAVAILABLE: [&[u8]; 2] = [
    include_bytes!("announcements/unavailable.fr.ulaw"),
    include_bytes!("announcements/unavailable.en.ulaw"),
];
/// Ringback that follows a greeting: longer than anybody waits.
const RINGBACK_AFTER_GREETING_S: usize = 60;
const BYTES_PER_S: usize = 8_000;

/// The sounds shared by all calls.
#[derive(Clone, Debug)]
pub struct Sounds {
    /// A loop.
    pub ringback: Arc<[u8]>,
    /// Hold music, a loop.
    pub hold: Arc<[u8]>,
    /// Once.
    pub unavailable: Arc<[u8]>,
}

impl Sounds {
    /// The built-in sounds.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            ringback: tones::ringback(),
            hold: tones::hold(),
            unavailable: UNAVAILABLE.concat().into(),
        }
    }

    /// A line's greeting, followed by ringback.
    #[must_use]
    pub fn greeting(&self, greeting: &[u8]) -> Arc<[u8]> {
        let ringback = self
            .ringback
            .iter()
            .cycle()
            .take(RINGBACK_AFTER_GREETING_S * BYTES_PER_S);
        greeting.iter().chain(ringback).copied().collect()
    }
}
