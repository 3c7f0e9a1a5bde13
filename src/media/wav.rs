//! WAV files in and out.
use std::path::Path;
use std::sync::Arc;

/// A WAV file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WavError {}

/// Loads a WAV file as mu-law at 8 kHz: any rate from 8 to 192 kHz, mixed down to mono.
///
/// # Errors
/// The file and what is wrong with it.
pub fn load(_path: &Path) -> Result<Arc<[u8]>, WavError> {
    unimplemented!()
}

/// Writes mu-law at 8 kHz as a PCM16 WAV file.
///
/// # Errors
/// The file and what is wrong with it.
pub fn save(_path: &Path, _mulaw: &[u8]) -> Result<(), WavError> {
    unimplemented!()
}
