//! Session descriptions (SDP, RFC 8866) of the other side: read, judged and
//! written anew. No byte of a foreign description reaches the SIP library;
//! what it gets was written by [`render`] from what [`parse`] understood.
//!
//! | file | what it holds |
//! |---|---|
//! | [`body`] | which part of a SIP body is the description, multipart too |
//! | [`parse`] | text to [`Description`], line by line, bounded, never panics |
//! | `draft` | a media line while it is read |
//! | `attributes` | the values that have a use here |
//! | [`description`] | the typed description |
//! | [`judge`] | what of an offer can be served, and the refusal where nothing can |
//! | [`render`] | a minimal, canonical text of a description |

mod attributes;
pub mod body;
pub mod description;
mod draft;
pub mod judge;
pub mod parse;
pub mod render;
#[cfg(test)]
mod sdp_tests;

pub use description::Description;
pub use judge::{SdpRefusal, Served};

/// Largest body that is looked at, in bytes: what fits into a datagram.
pub const BODY_MAX_BYTES: usize = 65_535;
/// Most `m=` lines that can be answered: the SIP library was built for so many
/// (`PJMEDIA_MAX_SDP_MEDIA`), and RFC 3264 wants each of them answered.
pub const MEDIA_MAX: usize = 6;
/// Most SRTP keys kept of one media line (`PJMEDIA_SRTP_MAX_CRYPTOS`).
pub const CRYPTOS_MAX: usize = 8;
/// Most ICE candidates kept of one media line (`PJ_ICE_ST_MAX_CAND`).
pub const CANDIDATES_MAX: usize = 8;
