//! SIP: the engine's contract ([`engine`]), the in-memory engine for scenario
//! tests (`sim`), and the real one on pjproject (`pjsip`).

pub mod engine;
