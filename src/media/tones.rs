//! Call progress tones as mu-law loops.
use std::sync::Arc;

/// Ringback: 440 Hz, 1.5 s on, 3.5 s off (France). A loop.
#[must_use]
pub fn ringback() -> Arc<[u8]> {
    unimplemented!()
}
/// Busy: 440 Hz, 0.5 s on, 0.5 s off. A loop.
#[must_use]
pub fn busy() -> Arc<[u8]> {
    unimplemented!()
}
/// Congestion: 440 Hz, 0.25 s on, 0.25 s off. A loop.
#[must_use]
pub fn congestion() -> Arc<[u8]> {
    unimplemented!()
}
