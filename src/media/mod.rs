//! The pacer thread, tones and WAV files.
//!
//! | file | what it holds |
//! |---|---|
//! | [`pacer`] | the thread that gives every stream its tick each 20 ms |
//! | `deferred` | what the pacer leaves to a thread of normal priority |
//! | [`sounds`] | what callers hear when no worker speaks |
//! | [`tones`] | call progress tones and hold music |
//! | [`wav`] | WAV files: announcements in, recordings out |

mod deferred;
pub mod pacer;
pub mod sounds;
pub mod tones;
pub mod wav;
