//! The audio of one leg, whoever called: what goes out, what comes in, and
//! whether it is joined with the media of the SIP engine yet.

use std::sync::Arc;

use super::context::provisional_format;
use super::inbound_audio::InboundAudio;
use super::outbound_audio::OutboundAudio;
use crate::core::downlink::Downlink;
use crate::core::g711::Gain;
use crate::core::link::{MediaFormat, MediaLink};
use crate::core::opus::OpusError;
use crate::core::uplink::Uplink;
use crate::media::pacer::Pacer;
use crate::sip::rtp_channel::RtpReceiver;

/// How loud the audio of a leg is made.
#[derive(Clone)]
pub(super) struct LegGains {
    /// Applied to what comes in.
    pub(super) rx: Gain,
    /// Applied to what goes out.
    pub(super) tx: Gain,
}

impl LegGains {
    /// An empty downlink; RTP starts at random places (RFC 3550, 5.1).
    fn new_downlink(&self, format: &MediaFormat) -> Result<Downlink, OpusError> {
        Downlink::new(format, self.tx.clone(), rand::random(), rand::random())
    }
}

/// The audio of one leg, both ways. Dropping it ends what goes out.
pub(super) struct LegMedia {
    pub(super) stream: Arc<OutboundAudio>,
    pub(super) port: Arc<InboundAudio>,
    /// Media is up, and the pacer knows the stream.
    linked: bool,
}

impl LegMedia {
    /// Listens to the leg's RTP from now on; says nothing before
    /// [`LegMedia::connect`].
    pub(super) fn new(gains: &LegGains, rtp: &RtpReceiver) -> Result<Self, OpusError> {
        let format = provisional_format();
        let stream = Arc::new(OutboundAudio::new(gains.new_downlink(&format)?));
        let uplink = Uplink::new(&format, gains.rx.clone())?;
        let port = InboundAudio::new(uplink);
        rtp.tap(port.clone());
        Ok(Self {
            stream,
            port,
            linked: false,
        })
    }

    /// Media is up or changed; the streams go on. Whether it is the first time.
    pub(super) fn connect(&mut self, pacer: &Pacer, link: &MediaLink) -> Result<bool, OpusError> {
        self.stream.connect(link)?;
        self.port.lock().uplink.set_format(&link.format)?;
        let first = !self.linked;
        if first {
            self.linked = true;
            pacer.add(self.stream.clone());
        }
        Ok(first)
    }

    /// Whether media is up.
    pub(super) fn is_linked(&self) -> bool {
        self.linked
    }
}

impl Drop for LegMedia {
    fn drop(&mut self) {
        // The pacer forgets it.
        self.stream.finish();
    }
}
