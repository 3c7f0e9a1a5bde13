//! What it costs to read a TwiML document. Not a test of behaviour, so it is
//! ignored: `cargo test --release --test twiml_cost -- --ignored --nocapture`.
//! The budget is 0.2 ms for 4 kB.

use std::hint::black_box;
use std::time::Instant;

use sipbridge::core::outward::WrittenBy;
use sipbridge::core::twiml::{VoiceUrl, parse};

const ROUNDS: u32 = 20_000;

/// A document of at least so many bytes, of the verbs that bots send.
fn document(bytes: usize) -> String {
    let verbs = "<Gather numDigits=\"1\" action=\"/chosen?step=2&amp;lang=en\"><Say voice=\"alice\">Press one, two or three \
                 <break strength=\"weak\"/>now</Say><Play>https://bot.example/tune.wav</Play></Gather>\
                 <Connect action=\"after\"><Stream url=\"wss://bot.example/media\"><Parameter name=\"caller\" \
                 value=\"+33612345678\"/></Stream></Connect><Dial><Number sendDigits=\"ww1\">+33612345678</Number></Dial>";
    let times = bytes.div_ceil(verbs.len());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{}</Response>",
        verbs.repeat(times)
    )
}

#[test]
#[ignore = "a measurement, to be run in release"]
fn microseconds_per_document() {
    let address = VoiceUrl::parse_http("https://bot.example/voice");
    for bytes in [400, 4_096, 60_000] {
        let text = document(bytes);
        let rounds = ROUNDS.min(ROUNDS * 400 / u32::try_from(bytes).unwrap());
        let begun = Instant::now();
        for _ in 0..rounds {
            let read = parse(
                black_box(text.as_bytes()),
                address.as_ref(),
                WrittenBy::Operator,
            );
            black_box(read.unwrap());
        }
        let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        println!("TwiML of {} bytes: {micros:.1} us", text.len());
    }
}
