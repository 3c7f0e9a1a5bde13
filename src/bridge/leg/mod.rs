//! What lives as long as one leg of a call.
//!
//! | file | what it holds |
//! |---|---|
//! | `sip_leg` | the leg as the driver knows it: its events, and the commands about it, of SIP or of Twilio |
//! | `twilio_leg` | the leg of a call that is Twilio's: a WebSocket in the place of SIP and RTP |
//! | `leg_media` | its audio: what goes out and what comes in |
//! | `outbound_audio` | outgoing audio, shared with the pacer thread |
//! | `inbound_audio` | incoming audio, shared with the engine's media thread |
//! | `copied_audio` | what one-way copies of it carry |

pub(super) mod copied_audio;
pub(super) mod inbound_audio;
pub(super) mod leg_media;
pub(super) mod outbound_audio;
pub(super) mod sip_leg;
pub(super) mod twilio_leg;
