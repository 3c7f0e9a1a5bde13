//! The pacer thread, tones and WAV files.
//!
//! | file | what it holds |
//! |---|---|
//! | [`pacer`] | the thread that gives every stream its tick each 20 ms |
//! | `deferred` | what the pacer leaves to a thread of normal priority |
//! | [`sounds`] | what callers hear when no worker speaks |
//! | [`tones`] | call progress tones and hold music |
//! | [`wav`], `g711_wav`, `riff` | WAV files: announcements in, recordings out; those of A-law and mu-law; their chunks |

mod deferred;
mod g711_wav;
pub mod pacer;
mod riff;
pub mod sounds;
pub mod tones;
pub mod wav;
