//! G.711.

/// Mu-law silence.
pub const MULAW_SILENCE: u8 = 0xFF;

/// A gain applied to mu-law by one table look-up per sample; nothing at 1.0.
#[derive(Clone, Debug, Default)]
pub struct Gain(Option<std::sync::Arc<[u8; 256]>>);

impl Gain {
    /// A linear factor; 1.0 changes nothing, bit for bit.
    #[must_use]
    pub fn from_factor(_factor: f32) -> Self {
        unimplemented!()
    }
}
