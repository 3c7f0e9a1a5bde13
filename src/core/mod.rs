//! Pure decisions: no sockets, threads, clock or runtime. Time is an
//! argument. Imports nothing of ours.
//!
//! | file | what it holds |
//! |---|---|
//! | [`agents`] | the agent of a tenant: how its worker is to speak |
//! | [`call`] | the life of a call: the state machine that says what is done when |
//! | [`call_object`], [`outcome`] | a call as clients see it, and how it ended |
//! | [`media_session`] | the sound of one leg: caller to worker, and worker to caller |
//! | [`g711`], [`opus`] | codecs |
//! | [`rtp`], [`telephone_event`], [`digits`], [`info_digits`] | RTP, and digits in it or in SIP INFO |
//! | [`sdp`] | session descriptions: read, judged, written anew |
//! | [`mos`], [`audio_counters`] | how a call sounded, and what went wrong with its audio |
//! | [`media_streams`], [`worker_message`] | the WebSocket contract: what is sent, what is read |
//! | [`media_link`] | what passes between SIP engine and media plane |
//! | [`answering_machine`] | whether a person, a machine or a fax has answered |
//! | [`callback`], [`signature`] | HTTP callbacks: which, in what order, how often; their signature |
//! | [`twiml`], [`voice`] | TwiML: read into typed verbs; the state machine that runs them |
//! | [`outward`] | which addresses of clients are reached, and signed for |
//! | [`dialling`], [`numbers`] | whom lines may call; numbers in E.164 |
//! | [`refused_lines`] | lines that the SIP engine could not add, and when each is tried again |
//! | [`cluster`] | bridges that share lines: which node registers which |
//! | [`register_gate`] | until when REGISTERs may be sent |
//! | [`registration_wish`] | what is wanted of an account at its registrar, one REGISTER at a time |
//! | [`credential_policy`], [`challenges`] | to whom a line's password may be proven; challenges that share a header |
//! | [`access`] | who may talk SIP to us, and how much of it |
//! | [`ring`], [`handover`] | what passes between a normal thread and a real-time one, neither of which waits |
//! | [`address`], [`ids`], [`json_type`], [`key`], [`private`], [`timestamp`], [`log_limiter`], [`printable`], [`header_name`] | values that everybody needs |
//! | [`sync`] | locks and atomics that a test can put others in the place of |

pub mod access;
pub mod address;
pub mod agents;
pub mod answering_machine;
pub mod audio_counters;
pub mod call;
pub mod call_facts;
pub mod call_object;
pub mod callback;
pub mod challenges;
pub mod cluster;
pub mod credential_policy;
pub mod dialling;
pub mod digits;
pub mod g711;
pub mod handover;
pub mod header_name;
pub mod ids;
pub mod info_digits;
pub mod json_type;
pub mod key;
pub mod log_limiter;
pub mod media_link;
pub mod media_session;
pub mod media_streams;
pub mod mos;
pub mod numbers;
pub mod opus;
pub mod outcome;
pub mod outward;
pub mod printable;
pub mod private;
pub mod refused_lines;
pub mod register_gate;
pub mod registration_wish;
pub mod ring;
pub mod rtp;
pub mod sdp;
pub mod signature;
pub mod sip_header;
pub mod sync;
pub mod telephone_event;
pub mod timestamp;
pub mod twilio_stream;
pub mod twiml;
pub mod voice;
pub mod worker_message;
