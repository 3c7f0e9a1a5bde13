//! Audio that can be recognised byte for byte, and a reference for G.711.

/// Bytes of one 20 ms frame.
pub const FRAME: usize = 160;

/// `frames` frames of mu-law in which every 20 ms are unlike all others: a
/// counter in front, then bytes drawn from it. Never mu-law silence (0xff).
pub fn numbered(first: u32, frames: u32) -> Vec<Vec<u8>> {
    (first..first + frames).map(numbered_frame).collect()
}

/// One frame of [`numbered`].
pub fn numbered_frame(number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let mut frame: Vec<u8> = (0..FRAME)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1] % 0x7f
        })
        .collect();
    // 7 bits each, so that 0xff never appears.
    frame[0] = 0x55;
    for (index, byte) in frame[1..5].iter_mut().enumerate() {
        *byte = u8::try_from((number >> (7 * index)) & 0x7f).unwrap();
    }
    frame
}

/// The number of a frame made by [`numbered`], if it is one, whole.
pub fn number_of(frame: &[u8]) -> Option<u32> {
    let counter = frame.get(1..5)?;
    let number = (0..4).fold(0, |sum, index| {
        sum | u32::from(counter[index]) << (7 * index)
    });
    (frame == numbered_frame(number)).then_some(number)
}

/// Whether `part` stands within `whole` without a break.
pub fn contains(whole: &[u8], part: &[u8]) -> bool {
    position(whole, part).is_some()
}

/// Whether some `run` of these frames is in the audio without a break: a machine that stands still for a moment breaks one.
pub fn contains_run(whole: &[u8], frames: &[Vec<u8>], run: usize) -> bool {
    let mut runs = frames.chunks_exact(run);
    runs.any(|frames| contains(whole, &frames.concat()))
}

/// Where `part` begins within `whole`.
pub fn position(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

/// Whether mu-law bytes are silence.
pub fn is_silence(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, 0xff | 0x7f))
}

/// Mu-law to 14-bit linear (ITU-T G.711), scaled to 16 bits.
pub fn ulaw_to_linear(byte: u8) -> i32 {
    let code = !byte;
    let magnitude = ((i32::from(code & 0x0f) << 3) + 0x84) << ((code >> 4) & 7);
    let value = magnitude - 0x84;
    if code & 0x80 == 0 { value } else { -value }
}

/// The mu-law byte that comes nearest to a 16-bit sample.
pub fn linear_to_ulaw(sample: i32) -> u8 {
    let distance = |byte: &u8| (ulaw_to_linear(*byte) - sample).abs();
    (0..=u8::MAX).min_by_key(distance).unwrap()
}

/// A tone in mu-law at 8 kHz.
pub fn ulaw_tone(hz: f64, length: std::time::Duration) -> Vec<u8> {
    let samples = u32::try_from(length.as_millis() * 8).unwrap();
    let at = |index: u32| (f64::from(index) * hz / 8_000.0 * std::f64::consts::TAU).sin();
    (0..samples)
        .map(|index| linear_to_ulaw((at(index) * 12_000.0) as i32))
        .collect()
}

/// A-law to 13-bit linear (ITU-T G.711), scaled to 16 bits.
pub fn alaw_to_linear(byte: u8) -> i32 {
    let code = byte ^ 0x55;
    let segment = (code >> 4) & 7;
    let step = (i32::from(code & 0x0f) << 4) + 8;
    let value = if segment == 0 {
        step
    } else {
        (step + 0x100) << (segment - 1)
    };
    if code & 0x80 == 0 { -value } else { value }
}

/// How far two samples may lie apart when one went through the other law's
/// nearest code: half a quantisation step of the coarser law, at that level.
pub fn step_at(value: i32) -> i32 {
    (value.abs() / 16).max(16)
}

/// Writes a 16-bit mono WAV file: tones of so many hertz, one second each.
pub fn write_tones(path: &std::path::Path, rate_hz: u32, tones_hz: &[f64]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate_hz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for hz in tones_hz {
        for at in 0..rate_hz {
            let phase = f64::from(at) * hz / f64::from(rate_hz) * std::f64::consts::TAU;
            let sample = (phase.sin() * 12_000.0).round();
            writer
                .write_sample(i16::try_from(sample as i32).unwrap())
                .unwrap();
        }
    }
    writer.finalize().unwrap();
}

/// How much of a mu-law sound at 8 kHz is this one tone, as a share of its
/// power: 1.0 is all of it.
pub fn share_of_tone(mulaw: &[u8], hz: f64) -> f64 {
    let (mut real, mut imaginary, mut power) = (0.0, 0.0, 0.0);
    for (at, byte) in mulaw.iter().enumerate() {
        let sample = f64::from(ulaw_to_linear(*byte));
        let phase = at as f64 * hz / 8_000.0 * std::f64::consts::TAU;
        real += sample * phase.cos();
        imaginary += sample * phase.sin();
        power += sample * sample;
    }
    if power == 0.0 {
        return 0.0;
    }
    2.0 * (real * real + imaginary * imaginary) / (mulaw.len() as f64 * power)
}
