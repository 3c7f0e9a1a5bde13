//! SIP: the engine's contract ([`engine`]), the in-memory engine for scenario
//! tests (`sim`), and the real one on pjproject (`pjsip`).

pub mod engine;
pub mod matching;
pub mod pjsip;
pub mod source;
pub mod uri;
