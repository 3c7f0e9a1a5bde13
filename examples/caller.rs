//! A SIP caller: dials, plays a WAV, records what it hears, sends digits.
//! Shows what happens and judges nothing; the exit code is 0 when the call
//! was answered and ended normally.
//!
//! ```text
//! cargo run --example caller -- --to sip:+33972360682@127.0.0.1:5060 \
//!     --play question.wav --record answer.wav --seconds 10
//! ```
//!
//! G.711 over UDP; no registering, no SRTP.

#[expect(dead_code, reason = "shared with programs that use other parts of it")]
mod common;

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::time::{Instant, sleep, timeout};

use common::audio::{RATE_HZ, from_alaw, from_ulaw, read_wav, to_alaw, to_ulaw, write_wav};
use common::rtp::{FRAME_BYTES, FRAME_TIME, Packet, RtpSocket, RtpStream};
use common::sip_uac::{Call, CallEvent, CallOptions, Credentials, RemoteMedia, Uac};

const PCMA: u8 = 8;
/// Pause between digits.
const DIGIT_PAUSE_FRAMES: usize = 10;

/// Calls a SIP address.
#[derive(Parser)]
struct Args {
    /// Who is called.
    #[arg(long, value_name = "sip:USER@HOST:PORT")]
    to: String,
    /// User part of our own address.
    #[arg(long, default_value = "+33612345678")]
    from: String,
    /// Digest user name.
    #[arg(long)]
    username: Option<String>,
    /// Digest password.
    #[arg(long, env = "SIP_PASSWORD", hide_env_values = true, default_value = "")]
    password: String,
    /// Send requests here instead of to the address's host.
    #[arg(long, value_name = "IP:PORT")]
    proxy: Option<SocketAddr>,
    /// Our address, for SIP and RTP.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    local: IpAddr,
    /// Play this WAV (PCM16, 8 or 16 kHz), then silence.
    #[arg(long)]
    play: Option<PathBuf>,
    /// Wait so long after the answer before playing.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    play_after: f64,
    /// Write what is heard here (PCM16, 8 kHz).
    #[arg(long)]
    record: Option<PathBuf>,
    /// Digits to send after what is played.
    #[arg(long, default_value = "")]
    dtmf: String,
    /// Hang up so long after the answer; else the other side does.
    #[arg(long)]
    seconds: Option<f64>,
    /// Give up when not answered in time.
    #[arg(long, default_value_t = 60)]
    answer_timeout: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let sound = match &args.play {
        Some(path) => read_wav(path)?,
        None => Vec::new(),
    };
    let rtp = RtpSocket::bind(args.local).await?;
    let uac = Uac::bind(SocketAddr::new(args.local, 0)).await?;
    let mut options = CallOptions::new(rtp.local_addr()?);
    options.from_user.clone_from(&args.from);
    options.proxy = args.proxy;
    options.credentials = args.username.clone().map(|username| Credentials {
        username,
        password: args.password.clone(),
    });
    println!("INVITE {}", args.to);
    let started = Instant::now();
    let mut call = uac.call(&args.to, options).await?;
    let waiting = wait_answer(&mut call, started);
    let media = tokio::select! {
        answer = timeout(Duration::from_secs(args.answer_timeout), waiting) => answer.ok(),
        _ = tokio::signal::ctrl_c() => None,
    };
    let Some(media) = media else {
        call.cancel().await?;
        return Err("not answered, cancelled".into());
    };
    let heard = talk(&args, &mut call, &rtp, &media?, &sound).await?;
    if let Some(path) = &args.record {
        write_wav(path, &heard)?;
        println!("recorded to {}", path.display());
    }
    for fault in uac.faults() {
        println!("SIP fault of the other side: {fault}");
    }
    Ok(())
}

async fn wait_answer(call: &mut Call, started: Instant) -> Result<RemoteMedia, String> {
    while let Some(event) = call.next_event().await {
        let after_ms = started.elapsed().as_millis();
        match event {
            CallEvent::Provisional { status, reason, .. } => {
                println!("{status} {reason} after {after_ms} ms");
            }
            CallEvent::Answered(answer) => {
                println!("{} answered after {after_ms} ms", answer.status);
                return answer
                    .media
                    .ok_or_else(|| "answer without usable SDP".into());
            }
            CallEvent::Failed(rejection) => return Err(rejection.to_string()),
            _ => {}
        }
    }
    Err("user agent is gone".into())
}

/// The answered call, until either side hangs up. Returns what was heard.
async fn talk(
    args: &Args,
    call: &mut Call,
    rtp: &RtpSocket,
    media: &RemoteMedia,
    sound: &[i16],
) -> Result<Vec<i16>, Box<dyn Error>> {
    let codec = media
        .audio_payload_type()
        .ok_or("answer without audio codec")?;
    let name = if codec == PCMA { "PCMA" } else { "PCMU" };
    println!("audio: {name}");
    let mut ear = Ear::default();
    let mut out = rtp.stream_to(media.address, codec);
    let ends = Duration::from_secs_f64(args.seconds.unwrap_or(86_400.0));
    let by_us = tokio::select! {
        result = speak(args, &mut out, codec, media.dtmf, sound) => match result? {},
        result = ear.listen(rtp) => match result? {},
        () = wait_end(call) => false,
        () = sleep(ends) => true,
        _ = tokio::signal::ctrl_c() => true,
    };
    if by_us {
        call.hangup().await?;
        println!("BYE sent and answered");
    }
    println!("heard {} packets, {} lost", ear.packets, ear.lost);
    Ok(ear.samples)
}

async fn wait_end(call: &mut Call) {
    while let Some(event) = call.next_event().await {
        match event {
            CallEvent::Bye { reason } => {
                return println!("BYE received {}", reason.unwrap_or_default());
            }
            CallEvent::Refer { refer_to } => println!("REFER to {refer_to}"),
            CallEvent::ReInvite { .. } => println!("re-INVITE received"),
            CallEvent::Update { .. } => println!("UPDATE received"),
            _ => {}
        }
    }
}

/// Sound, digits, then silence for ever: a caller never stops sending.
async fn speak(
    args: &Args,
    out: &mut RtpStream,
    codec: u8,
    event_type: Option<u8>,
    sound: &[i16],
) -> Result<Infallible, Box<dyn Error>> {
    let encode = if codec == PCMA { to_alaw } else { to_ulaw };
    let silence = [encode(0); FRAME_BYTES];
    let before = Duration::from_secs_f64(args.play_after).as_millis() / FRAME_TIME.as_millis();
    for _ in 0..before {
        out.send_frame(&silence).await?;
    }
    for frame in sound.chunks(FRAME_BYTES) {
        let mut payload = silence;
        for (byte, sample) in payload.iter_mut().zip(frame) {
            *byte = encode(*sample);
        }
        out.send_frame(&payload).await?;
    }
    if !sound.is_empty() {
        println!("played {:.1} s", sound.len() as f64 / f64::from(RATE_HZ));
    }
    for digit in args.dtmf.chars() {
        let event_type = event_type.ok_or("the other side takes no RFC 4733 digits")?;
        out.send_digit(event_type, digit).await?;
        println!("digit {digit} sent");
        for _ in 0..DIGIT_PAUSE_FRAMES {
            out.send_frame(&silence).await?;
        }
    }
    loop {
        out.send_frame(&silence).await?;
    }
}

/// Puts what comes in where its timestamp says; silence where nothing came.
#[derive(Default)]
struct Ear {
    samples: Vec<i16>,
    packets: u64,
    lost: u64,
    first_timestamp: Option<u32>,
    last_sequence: Option<u16>,
}

impl Ear {
    async fn listen(&mut self, rtp: &RtpSocket) -> Result<Infallible, Box<dyn Error>> {
        loop {
            let packet = rtp.receive().await?;
            self.handle(&packet);
        }
    }

    fn handle(&mut self, packet: &Packet) {
        let decode = match packet.payload_type {
            0 => from_ulaw,
            PCMA => from_alaw,
            _ => return,
        };
        self.packets += 1;
        let step = self
            .last_sequence
            .map_or(1, |last| packet.sequence.wrapping_sub(last));
        if step > 0 && step < 0x8000 {
            self.lost += u64::from(step - 1);
            self.last_sequence = Some(packet.sequence);
        }
        let first = *self.first_timestamp.get_or_insert(packet.timestamp);
        let at = packet.timestamp.wrapping_sub(first) as usize;
        // More than 10 s ahead is a new stream, not a gap to fill.
        if at > self.samples.len() + 10 * RATE_HZ as usize {
            self.first_timestamp = Some(packet.timestamp.wrapping_sub(self.samples.len() as u32));
            return self
                .samples
                .extend(packet.payload.iter().map(|byte| decode(*byte)));
        }
        let end = at + packet.payload.len();
        if self.samples.len() < end {
            self.samples.resize(end, 0);
        }
        for (sample, byte) in self.samples[at..end].iter_mut().zip(&packet.payload) {
            *sample = decode(*byte);
        }
    }
}
