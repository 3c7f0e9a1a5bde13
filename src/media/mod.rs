//! The pacer threads, tones and WAV files.
