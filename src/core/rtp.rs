//! RTP packets (RFC 3550 5.1): header parsing and writing. Leaves out: their
//! order (see `reorder`), what the timestamps mean (see `uplink`), RTCP.

/// Bytes of an RTP header without CSRCs and extension.
pub const HEADER_BYTES: usize = 12;

/// The fields of an RTP header that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtpHeader {
    /// Start of a talk spurt.
    pub marker: bool,
    /// 7 bits.
    pub payload_type: u8,
    /// Wraps around.
    pub sequence: u16,
    /// In units of the codec's RTP clock; wraps around.
    pub timestamp: u32,
    /// The source.
    pub ssrc: u32,
}

impl RtpHeader {
    /// Splits a packet into header and payload; CSRCs, extension and padding
    /// are skipped. `None` when it is not RTP version 2 or is cut short.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = packet.split_first_chunk::<HEADER_BYTES>()?;
        let [first, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = *fixed;
        if first >> 6 != 2 {
            return None;
        }
        let mut payload = rest.get(4 * usize::from(first & 0x0F)..)?;
        if first & 0x10 != 0 {
            let ([_, _, high, low], after) = payload.split_first_chunk::<4>()?;
            payload = after.get(4 * usize::from(u16::from_be_bytes([*high, *low]))..)?;
        }
        if first & 0x20 != 0 {
            let padding = usize::from(*payload.last()?);
            if padding == 0 {
                return None;
            }
            payload = payload.get(..payload.len().checked_sub(padding)?)?;
        }
        let header = Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7F,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([i0, i1, i2, i3]),
        };
        Some((header, payload))
    }

    /// The header as it goes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = 0x80;
        bytes[1] = self.payload_type & 0x7F | u8::from(self.marker) << 7;
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = RtpHeader::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read_back(
            marker: bool, payload_type in 0..128_u8, sequence: u16, timestamp: u32, ssrc: u32,
            csrcs in 0..16_usize, extension in proptest::option::of(0..9_u16),
            padding in 0..20_u8, payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
            let mut packet = header.to_bytes().to_vec();
            packet[0] |= csrcs as u8;
            packet.resize(HEADER_BYTES + 4 * csrcs, 0xC5);
            if let Some(words) = extension {
                packet[0] |= 0x10;
                packet.extend([0xBE, 0xDE]);
                packet.extend(words.to_be_bytes());
                packet.resize(packet.len() + 4 * usize::from(words), 0xEE);
            }
            packet.extend(&payload);
            if padding > 0 {
                packet[0] |= 0x20;
                packet.resize(packet.len() + usize::from(padding), padding);
            }
            prop_assert_eq!(RtpHeader::parse(&packet), Some((header, &payload[..])));
        }
    }
}
