//! Audio that knows whose it is: 20 ms of mu-law with the caller, a counter
//! and the time it was sent in it. PCMU passes bit for bit, so that an echo of
//! it says which caller spoke, when, and that nothing was changed.

/// Bytes of 20 ms.
pub const FRAME: usize = 160;
const MAGIC: [u8; 2] = [0x5A, 0xC3];
const BODY: usize = 16;

/// What one frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub caller: u16,
    pub counter: u32,
    /// Milliseconds of the machine's clock.
    pub sent_ms: u64,
}

impl Stamp {
    /// Writes it: the stamp, its check sum, and a sound up to 20 ms.
    pub fn write(self) -> [u8; FRAME] {
        let mut frame = [0x24; FRAME];
        frame[..2].copy_from_slice(&MAGIC);
        frame[2..4].copy_from_slice(&self.caller.to_be_bytes());
        frame[4..8].copy_from_slice(&self.counter.to_be_bytes());
        frame[8..BODY].copy_from_slice(&self.sent_ms.to_be_bytes());
        let sum = sum(&frame[..BODY]).to_be_bytes();
        frame[BODY..BODY + 4].copy_from_slice(&sum);
        frame
    }

    /// Reads a frame; `None` for any other sound.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let frame: &[u8; FRAME] = frame.try_into().ok()?;
        let word = |at: usize| {
            u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
        };
        let stamp = Self {
            caller: u16::from_be_bytes([frame[2], frame[3]]),
            counter: word(4),
            sent_ms: u64::from(word(8)) << 32 | u64::from(word(12)),
        };
        (frame[..2] == MAGIC && stamp.write() == *frame).then_some(stamp)
    }
}

/// FNV-1a.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Milliseconds of the machine's clock, which all processes here share.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
