//! Why there are no voices. No message holds the key, or what the provider wrote.

use std::time::Duration;

/// A failure of the voices' provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoicesError {
    /// There is no key.
    #[error("there is no key for the voices' provider: give ELEVENLABS_API_KEY")]
    NoKey,
    /// The client cannot be made.
    #[error("the voices' provider cannot be asked: {0}")]
    Client(String),
    /// It could not be reached, or went away.
    #[error("ElevenLabs cannot be reached: {0}")]
    Network(String),
    /// It took too long as a whole.
    #[error("ElevenLabs did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// Too much was asked of it.
    #[error("ElevenLabs takes no more requests for the moment (HTTP status 429)")]
    Busy,
    /// It does not take the key.
    #[error("ElevenLabs does not take the key (HTTP status {0}): see ELEVENLABS_API_KEY")]
    Key(u16),
    /// It has no such voice.
    #[error("ElevenLabs has no such voice")]
    Missing,
    /// It answered with a status that is of no use.
    #[error("ElevenLabs answered with HTTP status {0}")]
    Status(u16),
    /// The answer is longer than any should be.
    #[error("ElevenLabs sent more than {0} bytes")]
    TooLong(usize),
    /// The answer cannot be read.
    #[error("what ElevenLabs sent cannot be read")]
    Answer,
}

impl VoicesError {
    /// Whether the same may well succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Network(_) | Self::Slow(_) | Self::Busy)
    }
}
