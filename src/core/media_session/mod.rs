//! The sound of one leg of a call, both directions, without sockets, threads or
//! clock. [`MediaSession`] is the whole of it on one thread, as tests use it; the
//! bridge deals its three parts out to the threads that own them.
//!
//! | file | what it holds |
//! |---|---|
//! | [`uplink`], [`reorder`], `timeline`, [`replay_buffer`] | caller to worker: order, clocks, and what no worker has taken yet |
//! | [`downlink`], [`latency_recovery`] | worker to caller, the pacer's half: a packet every 20 ms, the stall rule |
//! | [`downlink_handle`] | worker to caller, the half of normal threads: audio, marks, whatever else is to be sent |
//! | [`playout`], [`playout_reader`], [`audio_queue`] | the queue between these two, with its marks |
//! | [`clock`] | the leg's media clock, and the taps: places for copies of the sound |
//! | [`stats`] | what was sent and received, at one place: log, metrics, RTCP |
//! | `transcode` | between mu-law and the codec of the call |
//!
//! # Who calls what, on which thread
//!
//! | part | owner | calls | then |
//! |---|---|---|---|
//! | [`uplink::Uplink`] | pjsip's media thread and the call's driver, behind one lock (`InboundAudio`) | the media thread: `handle_rtp`; the driver: `handle_tick` each 20 to 200 ms, `handle_digit`, `attach`, `resume`, `detach`, `set_format`, `set_tap` | `poll_message` (joined with another leg: `poll_digit`, `poll_frame`) until there is nothing |
//! | [`downlink_handle::DownlinkHandle`] | the driver, and the media thread of a leg that this one is joined with, behind one lock (`OutboundAudio`) | `push`, `mark`, `clear`, `abandon`, `send_digits`, `drop_digits`, `set_hold`, `set_idle_audio`, `set_format`, `set_tap`, `notify_drained` | `drain_echoes` after `mark`, `clear` and each wake-up; `is_drained` after a wake-up |
//! | [`downlink::Downlink`] | the pacer thread alone, without a lock (`PacedAudio`) | `skip` where it was late, `handle_tick` each 20 ms | `poll_transmit` once; where `handle_tick` says so, the driver is woken |
//!
//! Order of locks where two are held: an uplink's, then a handle's. Nobody takes
//! them the other way round.
//!
//! # No lock is held over a backlog
//!
//! The uplink's lock is what pjsip's media thread waits for, and with it the audio
//! of all calls of that thread. What was kept for a worker is therefore encoded in
//! slices, the lock given back between them; decoders are made, and dropped messages
//! and decoders freed, outside of it. The longest that is done under it is to fill a
//! pause: silence is written for at most 35 s, which is one `memset`.
//!
//! # The pacer waits for nobody
//!
//! It is a real-time thread: were it to wait for a lock, a normal thread that was
//! preempted with that lock held would delay the audio of all calls. So the two
//! halves of the downlink share no lock that the pacer takes by waiting:
//! - *audio*: a queue of bytes addressed by position ([`audio_queue`]). The handle
//!   writes and publishes, the pacer copies and moves on by one atomic step.
//! - *`clear`*: the handle moves the pacer's position by the same atomic step. It knows
//!   at once, and to the byte, what was taken before. So marks never leave the handle:
//!   each is a position, and the pacer only says how far it is.
//! - *format, hold, idle audio, digits, taps*: [`crate::core::handover`]. Where the handle is making a
//!   change in the very moment of the tick, the pacer sends what was right before the
//!   change, and sees it 20 ms later.
//! - *counters, drain, position of the next mark*: atomics.
//! - *to wake a driver*, and *to free a leg*, are left to a thread of normal priority
//!   (`src/media/deferred.rs`): both take locks or time. Nothing is allocated or freed in a tick.
//!
//! A ring of commands that the pacer takes in at its tick would do as well, but an
//! answer would take 20 ms: whether a digit is refused, that a mark with nothing before
//! it comes back at once, which marks a `clear` sends back. A lock that the pacer only
//! tries would cost the frame whenever it is held.
//!
//! # Copies, recording and RTCP
//!
//! Both directions count time on one [`clock::MediaClock`]. Each frame of 20 ms passes one point
//! of its half (`pass_frames` in the uplink, `pass` in the downlink), where a [`clock::FrameTap`]
//! sees it with its media time: one-way copies of a call are made there. [`stats::LegStats`] has what a
//! sender report and a receiver report need, of one moment. A recorder and RTCP are not built yet.
//!
//! # Teardown
//!
//! The driver marks the outgoing stream as over and forgets its halves. The pacer
//! gives its half no other tick and hands it to the thread that frees. The media
//! thread holds the uplink as long as the engine knows the leg; what comes in after
//! the end is put into a stream that nobody reads, and bounded. Whichever part goes
//! last frees what was shared, and it is never the pacer.

pub mod audio_queue;
pub mod clock;
pub mod downlink;
pub mod downlink_handle;
pub mod latency_recovery;
pub mod playout;
pub mod playout_reader;
pub mod reorder;
pub mod replay_buffer;
pub mod stats;
mod timeline;
mod transcode;
pub mod uplink;

#[cfg(test)]
mod session_tests;

use std::time::Instant;

use self::clock::MediaClock;
use self::downlink::{Downlink, DownlinkConfig};
use self::downlink_handle::DownlinkHandle;
use self::playout::Pushed;
use self::stats::LegStats;
use self::uplink::{PreparedFormat, Uplink};
use super::g711::Gain;
use super::media_link::MediaFormat;
use super::opus::OpusError;

/// How a session begins.
#[derive(Debug)]
pub struct SessionConfig {
    /// What was negotiated, as far as it was.
    pub format: MediaFormat,
    /// Applied to what comes in.
    pub rx_gain: Gain,
    /// Applied to what goes out.
    pub tx_gain: Gain,
    /// The first of the packets that go out: random, as RFC 3550 asks.
    pub sequence: u16,
    /// The first of the packets that go out: random too.
    pub timestamp: u32,
    /// When the leg's media clock begins.
    pub now: Instant,
}

/// The sound of one leg.
#[derive(Debug)]
pub struct MediaSession {
    /// Caller to worker.
    pub uplink: Uplink,
    /// Worker to caller: what is asked of it.
    pub handle: DownlinkHandle,
    /// Worker to caller: what is sent.
    pub downlink: Downlink,
}

impl MediaSession {
    /// A session with no worker yet.
    ///
    /// # Errors
    /// When the codec is Opus and libopus makes no coder.
    pub fn new(config: SessionConfig) -> Result<Self, OpusError> {
        let clock = MediaClock::starting_at(config.now);
        let prepared = PreparedFormat::new(&config.format, &config.rx_gain)?;
        let (handle, downlink) = downlink::downlink(DownlinkConfig {
            format: config.format,
            gain: config.tx_gain,
            sequence: config.sequence,
            timestamp: config.timestamp,
            clock,
        })?;
        Ok(Self {
            uplink: Uplink::new(prepared, clock),
            handle,
            downlink,
        })
    }

    /// One RTP packet from the caller. Poll messages after it.
    pub fn handle_rtp(&mut self, arrived: Instant, packet: &[u8]) {
        self.uplink.handle_rtp(arrived, packet);
    }

    /// Audio of the worker.
    pub fn handle_worker_audio(&mut self, audio: &[u8]) -> Pushed {
        self.handle.push(audio)
    }

    /// 20 ms have passed. Poll messages and the packet after it; whether echoes, or
    /// the drain, are to be looked at.
    pub fn handle_tick(&mut self, now: Instant) -> bool {
        self.uplink.handle_tick(now);
        self.downlink.handle_tick(now)
    }

    /// The RTP packet of this tick, once.
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        self.downlink.poll_transmit()
    }

    /// Appends the next message to the worker to `out`; false when there is none.
    pub fn poll_message(&mut self, out: &mut Vec<u8>) -> bool {
        self.uplink.poll_message(out)
    }

    /// Both directions in this moment.
    #[must_use]
    pub fn stats(&self, now: Instant) -> LegStats {
        LegStats::of(now, &self.uplink, &self.handle)
    }
}
