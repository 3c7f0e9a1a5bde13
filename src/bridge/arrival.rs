//! A call that has just come in, by SIP or from Twilio: what its driver is made of.

use std::collections::BTreeMap;

use super::call::call_terms::CallTerms;
pub use super::call::opening::TwilioCall;
use super::call::opening::{caller_hash, incoming_call, number_hash, told_headers, twilio_call};
use super::context::Settings;
use super::leg::sip_leg::Leg;
use super::leg::twilio_leg::TwilioLeg;
use crate::core::call_object::CallObject;
use crate::core::ids::{LegId, LineId};
use crate::fleet::LineProfile;
use crate::queue::CallerHash;
use crate::sip::engine::{IncomingCall, SharedEngine};
use crate::sip::rtp_channel::RtpReceiver;

/// A call that came in.
pub(super) enum Arrival {
    /// By an INVITE.
    Sip(Box<IncomingCall>),
    /// By Twilio's webhook; its stream is on its way.
    Twilio {
        /// What is known of it.
        call: TwilioCall,
        /// Its leg.
        leg: TwilioLeg,
    },
}

impl Arrival {
    /// The line that was called.
    pub(super) fn line(&self) -> &LineId {
        match self {
            Self::Sip(incoming) => &incoming.line,
            Self::Twilio { call, .. } => &call.line,
        }
    }

    /// Who calls, where he may be recognised.
    pub(super) fn caller(&self, line: &LineProfile) -> Option<CallerHash> {
        match self {
            Self::Sip(incoming) => caller_hash(line, &incoming.caller),
            Self::Twilio { call, .. } => number_hash(line, &call.from),
        }
    }

    /// The call as it begins.
    pub(super) fn call(
        &self,
        settings: &Settings,
        line: &LineProfile,
        terms: &CallTerms,
    ) -> CallObject {
        match self {
            Self::Sip(incoming) => incoming_call(settings, line, incoming, terms),
            Self::Twilio { call, .. } => twilio_call(settings, line, call, terms),
        }
    }

    /// The headers of its INVITE that others may hear of.
    pub(super) fn told_headers(&self, settings: &Settings) -> BTreeMap<String, String> {
        match self {
            Self::Sip(incoming) => told_headers(settings, incoming),
            Self::Twilio { .. } => BTreeMap::new(),
        }
    }

    /// Its leg at the SIP engine.
    pub(super) fn sip_leg(&self) -> Option<LegId> {
        match self {
            Self::Sip(incoming) => Some(incoming.leg),
            Self::Twilio { .. } => None,
        }
    }

    /// Its leg, and its RTP.
    pub(super) fn into_leg(self, engine: &SharedEngine) -> (Leg, RtpReceiver) {
        match self {
            Self::Sip(incoming) => Leg::incoming(engine, *incoming),
            Self::Twilio { leg, .. } => Leg::twilio(leg),
        }
    }
}
