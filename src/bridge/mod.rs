//! Joins SIP, media, workers and the queue: one driver task per call. Divided by lifetime:
//! what lives as long as the bridge is here, what lives as long as a call in `call`, as a leg in `leg`.
//!
//! | file | what it holds |
//! |---|---|
//! | `call` | one call: its driver, and the parts that it owns |
//! | `leg` | one leg: its SIP side or Twilio's socket, and the audio that goes out and comes in |
//! | [`twilio_calls`] | takes calls of lines that are Twilio's |
//! | `arrival` | a call that has just come in, by SIP or from Twilio |
//! | [`intake`] | takes INVITEs from the engine and starts their drivers |
//! | [`place`] | places a call and starts its driver |
//! | `caller_id` | which number a callee is shown |
//! | `dialled_call` | places a leg of TwiML's `<Dial>`, a call bound to another one |
//! | [`drivers`] | makes the driver of each call from its parts |
//! | `call_place` | a place for one more call, also among those of other bridges |
//! | [`call_store`] | the calls as the API sees them, and what it asks of them |
//! | [`dialling`] | whom the lines may call, and how often |
//! | [`audio_metrics`] | audio that waits in the calls, and audio that was lost |
//! | [`call_counters`] | what became of calls and searches, counted |
//! | [`overload`] | notices that audio is late, and shuts the door |
//! | [`context`] | what a bridge is composed of |
//! | [`shutdown`] | the signal that calls must end |

mod arrival;
pub mod audio_metrics;
mod call;
pub mod call_counters;
mod call_place;
pub mod call_store;
mod caller_id;
pub mod context;
mod dialled_call;
pub mod dialling;
pub mod drivers;
pub mod intake;
mod leg;
pub mod overload;
pub mod place;
pub mod shutdown;
pub mod twilio_calls;
