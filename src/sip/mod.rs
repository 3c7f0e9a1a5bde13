//! SIP: the engine's contract ([`engine`]), the in-memory engine for scenario
//! tests ([`sim`]), and the real one on pjproject ([`pjsip`], the only unsafe
//! room). Pure parts of their own: [`uri`], [`matching`] (which line an INVITE
//! belongs to), [`source`] (whose RTP a call takes).

pub mod engine;
pub mod matching;
pub mod pjsip;
pub mod rtp_channel;
pub mod sim;
pub mod source;
pub mod uri;
