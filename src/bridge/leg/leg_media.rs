//! The audio of one leg, whoever called: what goes out, what comes in, and
//! whether it is joined with the media of the SIP engine yet. Here the leg's
//! [`MediaSession`] is dealt out to the threads that hold its parts.

use std::sync::Arc;
use std::time::Instant;

use super::copied_audio::{CopiedAudio, CopyTaps};
use super::inbound_audio::InboundAudio;
use super::outbound_audio::{OutboundAudio, PacedAudio};
use crate::bridge::context::provisional_format;
use crate::core::g711::Gain;
use crate::core::media_link::MediaLink;
use crate::core::media_session::stats::LegStats;
use crate::core::media_session::uplink::PreparedFormat;
use crate::core::media_session::{MediaSession, SessionConfig};
use crate::core::opus::OpusError;
use crate::core::twiml::document::Track;
use crate::media::pacer::Pacer;
use crate::sip::rtp_channel::RtpReceiver;

/// How loud the audio of a leg is made.
#[derive(Clone)]
pub(in crate::bridge) struct LegGains {
    /// Applied to what comes in.
    pub(in crate::bridge) rx: Gain,
    /// Applied to what goes out.
    pub(in crate::bridge) tx: Gain,
}

impl LegGains {
    /// The sound of a new leg; RTP starts at random places (RFC 3550, 5.1).
    fn new_session(&self) -> Result<MediaSession, OpusError> {
        MediaSession::new(SessionConfig {
            format: provisional_format(),
            rx_gain: self.rx.clone(),
            tx_gain: self.tx.clone(),
            sequence: rand::random(),
            timestamp: rand::random(),
            now: Instant::now(),
        })
    }
}

/// The audio of one leg, both ways. Dropping it ends what goes out.
pub(in crate::bridge) struct LegMedia {
    pub(in crate::bridge) stream: Arc<OutboundAudio>,
    pub(in crate::bridge) port: Arc<InboundAudio>,
    /// The pacer's half, until media is up and the pacer takes it.
    paced: Option<Box<PacedAudio>>,
    rx_gain: Gain,
}

impl LegMedia {
    /// Listens to the leg's RTP from now on; says nothing before
    /// [`LegMedia::connect`].
    pub(in crate::bridge) fn new(gains: &LegGains, rtp: &RtpReceiver) -> Result<Self, OpusError> {
        let MediaSession {
            uplink,
            handle,
            downlink,
        } = gains.new_session()?;
        let (stream, paced) = OutboundAudio::new(handle, downlink);
        let port = InboundAudio::new(uplink);
        rtp.tap(port.clone());
        Ok(Self {
            stream: Arc::new(stream),
            port,
            paced: Some(Box::new(paced)),
            rx_gain: gains.rx.clone(),
        })
    }

    /// Media is up or changed; the streams go on. Whether it is the first time.
    pub(in crate::bridge) fn connect(
        &mut self,
        pacer: &Pacer,
        link: &MediaLink,
    ) -> Result<bool, OpusError> {
        let prepared = PreparedFormat::new(&link.format, &self.rx_gain)?;
        self.stream.connect(link)?;
        // What is not used any more is freed after the lock is released.
        let old = self.port.lock().uplink.set_format(prepared);
        drop(old);
        let paced = self.paced.take();
        let first = paced.is_some();
        if let Some(paced) = paced {
            pacer.add(paced);
        }
        Ok(first)
    }

    /// A copy of these tracks begins with what is heard and said now; it has one of the places for copies.
    pub(in crate::bridge) fn begin_copy(&self, place: usize, track: Track) -> CopiedAudio {
        let start = self.port.lock().uplink.clock().at(Instant::now());
        let (copied, taps) = CopiedAudio::new(track, start);
        self.set_taps(place, taps);
        copied
    }

    /// The copy in this place gets nothing more.
    pub(in crate::bridge) fn end_copy(&self, place: usize) {
        self.set_taps(place, CopyTaps::default());
    }

    fn set_taps(&self, place: usize, taps: CopyTaps) {
        let old = self.port.lock().uplink.set_tap(place, taps.inbound);
        drop(old);
        self.stream.downlink().set_tap(place, taps.outbound);
    }

    /// What comes in goes to no other leg any more.
    pub(in crate::bridge) fn part(&self) {
        let relay = self.port.lock().relay.take();
        // Freed after the lock is released.
        drop(relay);
    }

    /// Whether media is up.
    pub(in crate::bridge) fn is_linked(&self) -> bool {
        self.paced.is_none()
    }
}

impl Drop for LegMedia {
    fn drop(&mut self) {
        self.part();
        // The pacer forgets it.
        self.stream.finish();
    }
}

/// Both directions of a leg in this moment: the place where a report by RTCP would
/// be made, too.
pub(in crate::bridge) fn leg_stats(port: &InboundAudio, stream: &OutboundAudio) -> LegStats {
    let state = port.lock();
    LegStats::of(Instant::now(), &state.uplink, &stream.downlink())
}
