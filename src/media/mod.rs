//! The pacer thread, tones and WAV files.

pub mod pacer;
pub mod sounds;

pub mod tones;
pub mod wav;
