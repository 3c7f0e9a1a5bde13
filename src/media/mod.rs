//! The pacer thread, tones and WAV files.

pub mod pacer;
