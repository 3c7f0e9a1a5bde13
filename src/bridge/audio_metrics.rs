//! How much audio waits in the calls in progress, and what was dropped.
//!
//! Nothing is counted per packet for this: a call is entered when it begins
//! and looked into once a second. What its own counters say at its end is
//! added to the sums, so that those only rise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::call_counters::CallCounters;
use super::leg::inbound_audio::InboundAudio;
use super::leg::leg_media::leg_stats;
use super::leg::outbound_audio::OutboundAudio;
use crate::core::audio_counters::AudioCounters;

/// Audio that waits now, and audio that was lost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioGauges {
    /// Longest time that something waits for one worker already.
    pub to_workers_max: Duration,
    /// Longest queue of audio that a worker has sent ahead for its caller.
    pub to_callers_max: Duration,
    /// All such queues together.
    pub to_callers_sum: Duration,
    /// Messages dropped on their way to a worker because too many waited.
    pub messages_dropped: u64,
    /// RTP packets that came in.
    pub rtp_in: u64,
    /// RTP packets that went out.
    pub rtp_out: u64,
    /// RTP packets that never came, or too late.
    pub rtp_lost: u64,
    /// RTP packets that could not be sent.
    pub rtp_unsent: u64,
    /// Frames to callers that were dropped or given up after a stall.
    pub frames_trimmed: u64,
    /// Marks refused because too many waited.
    pub marks_refused: u64,
    /// What else went wrong.
    pub counters: AudioCounters,
}

/// The audio of all calls in progress.
#[derive(Default)]
pub struct AudioMetrics {
    /// What became of the calls.
    pub counters: CallCounters,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    next: u64,
    calls: HashMap<u64, Watched>,
    /// Counters of calls that are over.
    ended: AudioGauges,
}

struct Watched {
    stream: Arc<OutboundAudio>,
    port: Arc<InboundAudio>,
}

impl AudioMetrics {
    /// Looks into this call as long as the guard lives.
    pub(super) fn watch(
        self: &Arc<Self>,
        stream: &Arc<OutboundAudio>,
        port: &Arc<InboundAudio>,
    ) -> WatchGuard {
        let mut live = self.live();
        let number = live.next;
        live.next += 1;
        let watched = Watched {
            stream: stream.clone(),
            port: port.clone(),
        };
        live.calls.insert(number, watched);
        WatchGuard {
            gauges: self.clone(),
            number,
        }
    }

    /// Reads all of them: short locks for each call.
    #[must_use]
    pub fn read(&self) -> AudioGauges {
        let live = self.live();
        let mut sum = live.ended;
        live.calls.values().for_each(|call| call.add_to(&mut sum));
        sum
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn add_to(&self, sum: &mut AudioGauges) {
        let (waiting, dropped) = {
            let state = self.port.lock();
            (state.waits_for(), state.dropped)
        };
        let (queued, spent) = {
            let mut downlink = self.stream.downlink();
            (downlink.queued_ms(), downlink.take_spent())
        };
        // Freed after the lock is released.
        drop(spent);
        let leg = leg_stats(&self.port, &self.stream);
        let (up, stats) = (leg.received, leg.sent);
        let queued = Duration::from_millis(queued);
        sum.to_workers_max = sum.to_workers_max.max(waiting);
        sum.to_callers_max = sum.to_callers_max.max(queued);
        sum.to_callers_sum += queued;
        sum.rtp_in += up.packets;
        sum.rtp_lost += up.lost;
        sum.rtp_out += stats.packets;
        sum.messages_dropped += dropped;
        sum.rtp_unsent += self.stream.unsent();
        sum.frames_trimmed += stats.trimmed_frames + stats.skipped_frames;
        sum.marks_refused += stats.marks_refused;
        sum.counters.add(&AudioCounters::of(&up, &stats));
    }
}

/// Dropping it moves the call's counters to those of the ended ones.
pub(super) struct WatchGuard {
    gauges: Arc<AudioMetrics>,
    number: u64,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let mut live = self.gauges.live();
        if let Some(call) = live.calls.remove(&self.number) {
            let mut ended = live.ended;
            call.add_to(&mut ended);
            // What waited in a call that is over waits no more.
            live.ended = AudioGauges {
                to_workers_max: Duration::ZERO,
                to_callers_max: Duration::ZERO,
                to_callers_sum: Duration::ZERO,
                ..ended
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::context::provisional_format;
    use crate::core::g711::Gain;
    use crate::core::media_session::{MediaSession, SessionConfig};

    #[test]
    fn what_waits_goes_with_its_call_and_what_was_lost_stays() {
        let gauges = Arc::new(AudioMetrics::default());
        let gain = Gain::from_factor(1.0);
        let format = provisional_format();
        let call = || {
            let session = MediaSession::new(SessionConfig {
                format,
                rx_gain: gain.clone(),
                tx_gain: gain.clone(),
                sequence: 1,
                timestamp: 1,
                now: std::time::Instant::now(),
            });
            let session = session.unwrap();
            let (stream, _) = OutboundAudio::new(session.handle, session.downlink);
            (Arc::new(stream), InboundAudio::new(session.uplink))
        };
        let ((stream, port), (other, other_port)) = (call(), call());
        let guard = gauges.watch(&stream, &port);
        let _other = gauges.watch(&other, &other_port);
        stream.downlink().push(&[0xff; 800]);
        other.downlink().push(&[0xff; 1_600]);
        port.lock().post(b"{}".to_vec());
        port.lock().dropped = 3;
        let read = gauges.read();
        assert_eq!(read.to_callers_max, Duration::from_millis(200));
        assert_eq!(read.to_callers_sum, Duration::from_millis(300));
        assert!(read.to_workers_max >= Duration::from_millis(20));
        assert_eq!(read.messages_dropped, 3);

        drop(guard);
        let read = gauges.read();
        assert_eq!(read.to_callers_sum, Duration::from_millis(200));
        assert_eq!(read.to_workers_max, Duration::ZERO);
        assert_eq!(read.messages_dropped, 3);
    }
}
