//! The pacer threads, tones and WAV files.

pub mod tones;
pub mod wav;
