//! G.711: mu-law and A-law to and from 16-bit linear, each other, and a gain,
//! all by tables built at compile time or once per process configuration.
//!
//! Linear samples use the whole 16-bit range: mu-law reaches ±32124, A-law
//! ±32256. Transcoding works on magnitudes, so the sign survives, also that of
//! zero. Leaves out appendices I and II (concealment, comfort noise).

use std::sync::Arc;

/// Mu-law code of zero: what silence is filled with.
pub const MULAW_SILENCE: u8 = 0xFF;
/// A-law code of the smallest positive value.
pub const ALAW_SILENCE: u8 = 0xD5;

/// Mu-law code to linear.
pub static MULAW_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = mulaw_to_linear(code as u8);
        code += 1;
    }
    table
};

/// A-law code to linear.
pub static ALAW_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = alaw_to_linear(code as u8);
        code += 1;
    }
    table
};

/// Mu-law code to the A-law code of the same sign and nearest value.
pub static MULAW_TO_ALAW: [u8; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        let sign = code as u8 & 0x80;
        let magnitude = mulaw_to_linear(code as u8 | 0x80);
        // Both laws set the top bit for positive values.
        table[code] = linear_to_alaw(magnitude) & 0x7F | sign;
        code += 1;
    }
    table
};

/// A-law code to the mu-law code of the same sign and nearest value.
pub static ALAW_TO_MULAW: [u8; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        let sign = code as u8 & 0x80;
        let magnitude = alaw_to_linear(code as u8 | 0x80);
        table[code] = linear_to_mulaw(magnitude) & 0x7F | sign;
        code += 1;
    }
    table
};

/// What is added to a mu-law magnitude so that each segment starts at a power of two.
const MULAW_BIAS: i32 = 132;
/// The largest magnitude that mu-law tells apart.
const MULAW_CLIP: i32 = 32_635;

/// Decodes one mu-law code; prefer [`MULAW_TO_LINEAR`] in loops.
#[must_use]
pub const fn mulaw_to_linear(code: u8) -> i16 {
    let bits = !code;
    let exponent = (bits >> 4) & 7;
    let mantissa = (bits & 0x0F) as i32;
    let magnitude = (((mantissa << 3) + MULAW_BIAS) << exponent) - MULAW_BIAS;
    (if bits & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }) as i16
}

/// Encodes one linear sample as mu-law.
#[must_use]
pub const fn linear_to_mulaw(sample: i16) -> u8 {
    let magnitude = (sample as i32).abs();
    let clipped = if magnitude > MULAW_CLIP {
        MULAW_CLIP
    } else {
        magnitude
    };
    let biased = (clipped + MULAW_BIAS) as u32;
    let exponent = 24 - biased.leading_zeros();
    let mantissa = (biased >> (exponent + 3)) & 0x0F;
    let sign = if sample < 0 { 0x80 } else { 0 };
    !(sign | (exponent as u8) << 4 | mantissa as u8)
}

/// Decodes one A-law code; prefer [`ALAW_TO_LINEAR`] in loops.
#[must_use]
pub const fn alaw_to_linear(code: u8) -> i16 {
    let bits = code ^ 0x55;
    let exponent = (bits >> 4) & 7;
    let mantissa = (bits & 0x0F) as i32;
    let magnitude = if exponent == 0 {
        (mantissa << 4) + 8
    } else {
        ((mantissa << 4) + 0x108) << (exponent - 1)
    };
    (if bits & 0x80 == 0 {
        -magnitude
    } else {
        magnitude
    }) as i16
}

/// Encodes one linear sample as A-law.
#[must_use]
pub const fn linear_to_alaw(sample: i16) -> u8 {
    let wide = (sample as i32).abs();
    let magnitude = if wide > 32_767 { 32_767 } else { wide } as u32;
    let bits = if magnitude < 256 {
        (magnitude >> 4) as u8
    } else {
        let exponent = 24 - magnitude.leading_zeros();
        (exponent as u8) << 4 | ((magnitude >> (exponent + 3)) & 0x0F) as u8
    };
    let sign = if sample < 0 { 0 } else { 0x80 };
    (bits | sign) ^ 0x55
}

/// A translation of G.711 codes by one look-up per sample; nothing to do when
/// it is the identity.
pub type CodeTable = [u8; 256];

/// Applies `table` to each code in place.
pub fn translate(codes: &mut [u8], table: &CodeTable) {
    for code in codes {
        *code = table[usize::from(*code)];
    }
}

/// Mean magnitude below which audio is quiet, about -48 dBFS.
const QUIET_MAGNITUDE: usize = 128;

/// Whether mu-law audio holds nothing that a listener would miss.
#[must_use]
pub fn is_quiet(mulaw: &[u8]) -> bool {
    let magnitude = |code: &u8| usize::from(MULAW_TO_LINEAR[usize::from(*code)].unsigned_abs());
    mulaw.iter().map(magnitude).sum::<usize>() < QUIET_MAGNITUDE * mulaw.len()
}

/// A gain on mu-law audio.
#[derive(Clone, Debug, Default)]
pub struct Gain(Option<Arc<CodeTable>>);

impl Gain {
    /// A linear factor. 1.0 changes nothing, bit for bit; what gets too loud
    /// is clipped; negative factors and NaN count as 0.
    #[must_use]
    pub fn from_factor(factor: f32) -> Self {
        if factor == 1.0 {
            return Self(None);
        }
        let mut table = [0; 256];
        for (entry, sample) in table.iter_mut().zip(MULAW_TO_LINEAR) {
            // Casting saturates, and turns NaN into 0.
            *entry = linear_to_mulaw((f32::from(sample) * factor.max(0.0)).round() as i16);
        }
        Self(Some(Arc::new(table)))
    }

    /// Whether audio passes bit for bit.
    #[must_use]
    pub fn is_unity(&self) -> bool {
        self.0.is_none()
    }

    /// One table for this gain on mu-law; `None` when it changes nothing.
    #[must_use]
    pub fn on_mulaw(&self) -> Option<CodeTable> {
        self.0.as_deref().copied()
    }

    /// One table from A-law to mu-law with this gain.
    #[must_use]
    pub fn from_alaw(&self) -> CodeTable {
        let mut table = ALAW_TO_MULAW;
        if let Some(gain) = &self.0 {
            translate(&mut table, gain);
        }
        table
    }

    /// One table from mu-law with this gain to A-law.
    #[must_use]
    pub fn to_alaw(&self) -> CodeTable {
        self.0.as_ref().map_or(MULAW_TO_ALAW, |gain| {
            gain.map(|code| MULAW_TO_ALAW[usize::from(code)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_of_the_recommendation() {
        assert_eq!(mulaw_to_linear(0xFF), 0);
        assert_eq!(mulaw_to_linear(0x80), 32_124);
        assert_eq!(mulaw_to_linear(0x00), -32_124);
        assert_eq!(alaw_to_linear(0xD5), 8);
        assert_eq!(alaw_to_linear(0x2A), -32_256);
        assert_eq!(alaw_to_linear(0xAA), 32_256);
        assert_eq!(linear_to_mulaw(i16::MIN), 0x00);
        assert_eq!(linear_to_mulaw(i16::MAX), 0x80);
        assert_eq!(linear_to_alaw(i16::MIN), 0x2A);
        assert_eq!(linear_to_alaw(0), ALAW_SILENCE);
    }

    #[test]
    fn every_code_survives_the_way_through_linear() {
        for code in 0..=255_u8 {
            let mulaw = linear_to_mulaw(MULAW_TO_LINEAR[usize::from(code)]);
            // Negative zero is the one code without a linear value of its own.
            assert_eq!(mulaw, if code == 0x7F { 0xFF } else { code });
            assert_eq!(linear_to_alaw(ALAW_TO_LINEAR[usize::from(code)]), code);
        }
    }

    #[test]
    fn every_sample_is_coded_within_half_a_step() {
        for sample in i16::MIN..=i16::MAX {
            let wide = i32::from(sample);
            let step = (wide.abs() + 132) / 16;
            let mulaw = i32::from(mulaw_to_linear(linear_to_mulaw(sample)));
            let alaw = i32::from(alaw_to_linear(linear_to_alaw(sample)));
            assert!((mulaw - wide).abs() <= step.max(8), "{sample} {mulaw}");
            assert!((alaw - wide).abs() <= step.max(8), "{sample} {alaw}");
        }
    }

    /// Table 3 of G.711 counts decoder values from 1; its start and the places
    /// where the two laws' segments meet.
    #[test]
    fn mulaw_to_alaw_follows_table_3() {
        let value = |number: u8| {
            let code = MULAW_TO_ALAW[usize::from(!(number - 1))];
            (code ^ 0xD5) + 1
        };
        let start: Vec<u8> = (1..=24).map(value).collect();
        assert_eq!(
            start,
            [
                1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 10, 11, 12, 13, 14, 15, 16
            ]
        );
        assert_eq!([33, 34, 35, 36].map(value), [25, 27, 29, 31].map(|v| v));
        assert_eq!(value(128), 128);
    }

    #[test]
    fn transcoding_keeps_sign_and_order() {
        for code in 0..=255_u8 {
            assert_eq!(MULAW_TO_ALAW[usize::from(code)] & 0x80, code & 0x80);
            assert_eq!(ALAW_TO_MULAW[usize::from(code)] & 0x80, code & 0x80);
        }
        for code in 0x80..0xFF_u8 {
            let louder = ALAW_TO_LINEAR[usize::from(MULAW_TO_ALAW[usize::from(code)])];
            let softer = ALAW_TO_LINEAR[usize::from(MULAW_TO_ALAW[usize::from(code + 1)])];
            assert!(louder >= softer);
        }
    }

    #[test]
    fn gain_of_one_is_no_table_and_others_scale_and_clip() {
        assert!(Gain::from_factor(1.0).on_mulaw().is_none());
        assert_eq!(Gain::from_factor(1.0).from_alaw(), ALAW_TO_MULAW);
        let double = Gain::from_factor(2.0).on_mulaw().unwrap();
        for code in 0..=255_u8 {
            let sample = i32::from(MULAW_TO_LINEAR[usize::from(code)]);
            let louder = i32::from(MULAW_TO_LINEAR[usize::from(double[usize::from(code)])]);
            let wanted = (2 * sample).clamp(-32_124, 32_124);
            assert!((louder - wanted).abs() <= wanted.abs() / 16 + 8);
        }
        let mute = Gain::from_factor(f32::NAN).on_mulaw().unwrap();
        assert!(
            mute.iter()
                .all(|code| MULAW_TO_LINEAR[usize::from(*code)] == 0)
        );
        let both = Gain::from_factor(0.5);
        assert_eq!(
            both.to_alaw()[0x80],
            MULAW_TO_ALAW[usize::from(both.on_mulaw().unwrap()[0x80])]
        );
    }
}
