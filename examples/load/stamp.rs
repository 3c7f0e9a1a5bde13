//! What the frames carry: 160 mu-law bytes that name the run, the call and the
//! frame and fill the rest with a pattern, so that a frame that comes back is
//! matched, and a single changed byte is noticed.

use std::sync::LazyLock;

/// Bytes of one 20 ms frame of G.711.
pub const FRAME_BYTES: usize = 160;
/// Tells this run's frames from those of another generator that calls the
/// same bridge.
static MAGIC: LazyLock<[u8; 4]> = LazyLock::new(|| {
    let [high, low] = rand::random::<u16>().to_be_bytes();
    [b's', b'B', high, low]
});

/// Who made a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The caller; the worker echoes it.
    Speech,
    /// The worker, as the audio that `clear` must stop.
    Pattern,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub kind: Kind,
    pub call: u16,
    pub counter: u32,
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A stamped frame, bit for bit.
    Intact(Stamp),
    /// 160 equal bytes: silence or a filler.
    Silence,
    /// The frame of another run.
    Foreign,
    /// Anything else.
    Altered,
}

impl Stamp {
    /// The frame with this stamp.
    pub fn write(self) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        frame[..4].copy_from_slice(&*MAGIC);
        frame[4] = self.kind as u8;
        frame[5..7].copy_from_slice(&self.call.to_be_bytes());
        frame[7..11].copy_from_slice(&self.counter.to_be_bytes());
        let seed = self.counter.wrapping_mul(0x9E37_79B9)
            ^ u32::from(self.call).rotate_left(16)
            ^ (self.kind as u32).rotate_left(12);
        for (i, chunk) in frame[11..].chunks_mut(4).enumerate() {
            let word = seed.wrapping_mul(i as u32 * 2 + 1).rotate_left(i as u32);
            chunk.copy_from_slice(&word.to_be_bytes()[..chunk.len()]);
        }
        frame
    }

    /// What a payload is.
    pub fn read(payload: &[u8]) -> Found {
        if payload.len() == FRAME_BYTES && payload[..4] == *MAGIC && payload[4] <= 1 {
            let stamp = Self {
                kind: if payload[4] == 0 {
                    Kind::Speech
                } else {
                    Kind::Pattern
                },
                call: u16::from_be_bytes([payload[5], payload[6]]),
                counter: u32::from_be_bytes([payload[7], payload[8], payload[9], payload[10]]),
            };
            if stamp.write() == payload {
                return Found::Intact(stamp);
            }
        }
        if payload.len() == FRAME_BYTES && payload[..2] == MAGIC[..2] && payload[2..4] != MAGIC[2..]
        {
            return Found::Foreign;
        }
        let first = payload.first();
        if payload.len() == FRAME_BYTES && payload.iter().all(|byte| Some(byte) == first) {
            return Found::Silence;
        }
        Found::Altered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_known_again_and_one_changed_bit_is_noticed() {
        let stamp = Stamp {
            kind: Kind::Pattern,
            call: 399,
            counter: 70_000,
        };
        let frame = stamp.write();
        assert_eq!(Stamp::read(&frame), Found::Intact(stamp));
        for byte in 0..FRAME_BYTES {
            let mut changed = frame;
            changed[byte] ^= 1;
            let found = if byte == 2 || byte == 3 {
                Found::Foreign
            } else {
                Found::Altered
            };
            assert_eq!(Stamp::read(&changed), found);
        }
        assert_eq!(Stamp::read(&[0xFF; FRAME_BYTES]), Found::Silence);
    }
}
