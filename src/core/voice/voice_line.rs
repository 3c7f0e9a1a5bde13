//! The voice webhook of a line: a bot that is asked by HTTP what is to be done with its calls.

use crate::core::twiml::document::Webhook;

/// A voice webhook as a line's way to its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiceLine {
    /// `voiceUrl` and `voiceMethod`.
    pub webhook: Webhook,
    /// `voiceFallbackUrl` and `voiceFallbackMethod`.
    pub fallback: Option<Webhook>,
}

impl VoiceLine {
    /// The hosts of its addresses.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        let all = [Some(&self.webhook), self.fallback.as_ref()];
        let hosts = all.into_iter().flatten();
        hosts.filter_map(|webhook| webhook.url.host())
    }
}
