//! SIP: a contract, and two engines that keep it.
//!
//! | file | what it holds |
//! |---|---|
//! | [`bindings`] | which Contact of a registrar's list is ours, and whether a sibling's is listed |
//! | [`contact`] | where requests go whose dialog began behind a NAT |
//! | [`engine`] | the contract: commands in, events out, media links |
//! | [`pjsip`] | the real one, on pjproject: the only unsafe room |
//! | [`rtp_channel`] | how RTP of a leg gets from the engine to its driver |
//! | [`rtp_intake`] | what one leg takes from the network: its source, valid RTP, no flood |
//! | [`matching`] | which line an INVITE belongs to |
//! | [`source`] | whose RTP a call takes |
//! | [`identity`] | who calls, and whether that may be told |
//! | [`header_names`] | which headers of an INVITE a worker gets |
//! | [`submit`] | commands whose sender waits while the queue is full |
//! | [`tls_roots`] | by which roots SIP servers are verified |
//! | [`uri`] | SIP and tel URIs |

pub mod bindings;
pub mod contact;
pub mod engine;
pub mod header_names;
pub mod identity;
pub mod matching;
pub mod pjsip;
pub mod rtp_channel;
pub mod rtp_intake;
pub mod source;
pub mod submit;
pub mod tls_roots;
pub mod uri;
