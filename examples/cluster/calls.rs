//! Callers: calls with audio that must not be harmed while a bridge dies, and the public that rings some line every
//! 100 ms.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::Result;
use crate::bridge::user_of;
use crate::registrar::Registrar;
use crate::rtp::{FRAME_BYTES, RtpSocket};
use crate::sip_uac::{Call, CallOptions, Uac};
use crate::stage::port_of;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// An INVITE without a final answer by then is unanswered.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A bridge that takes no calls for longer is given up.
const BUSY_MAX: Duration = Duration::from_secs(60);
/// A caller who hears nothing for longer is harmed.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The public rings so often, and talks for so long.
const RING_EVERY: Duration = Duration::from_millis(100);
const TALK: Duration = Duration::from_millis(500);
/// PCMU.
const CODEC: u8 = 0;
const SILENCE: [u8; FRAME_BYTES] = [0xff; FRAME_BYTES];

/// Takes the bridges' WebSockets and says nothing.
pub async fn serve_workers(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                return;
            };
            while let Some(Ok(_)) = socket.next().await {}
        });
    }
}

/// Rings a line at a bridge, by the line's user.
async fn ring(uac: &Uac, line: usize, bridge: SocketAddr, rtp: SocketAddr) -> Result<Call> {
    let mut options = CallOptions::new(rtp);
    options.proxy = Some(bridge);
    Ok(uac
        .call(&format!("sip:{}@{bridge}", user_of(line)), options)
        .await?)
}

/// A call that is answered, after a while where the bridge takes none for now: it may be late on a busy machine.
async fn taken(uac: &Uac, line: usize, bridge: SocketAddr, rtp: SocketAddr) -> Result<Call> {
    let began = Instant::now();
    loop {
        let mut call = ring(uac, line, bridge, rtp).await?;
        match timeout(ANSWER_MAX, call.wait_answer()).await? {
            Ok(_) => return Ok(call),
            Err(rejection) if rejection.status == 503 && began.elapsed() < BUSY_MAX => {
                sleep(TALK).await;
            }
            Err(rejection) => return Err(format!("a call before the death: {rejection}").into()),
        }
    }
}

/// Calls in progress, each with audio both ways.
pub struct Talks(Vec<JoinHandle<bool>>, Arc<AtomicBool>);

impl Talks {
    /// So many calls at each of these bridges, once all are answered.
    pub async fn begin(bridges: &[SocketAddr], each: usize) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut talks = Vec::new();
        for (index, bridge) in bridges.iter().enumerate() {
            for line in 1..=each {
                let rtp = RtpSocket::bind(LOOPBACK).await?;
                let uac = Uac::bind((LOOPBACK, 0).into()).await?;
                let line = index * each + line;
                let call = taken(&uac, line, *bridge, rtp.local_addr()?).await?;
                talks.push(tokio::spawn(talk(uac, call, rtp, is_over.clone())));
            }
        }
        Ok(Self(talks, is_over))
    }

    /// Hangs up; how many calls were harmed, and how many there were.
    pub async fn end(self) -> Result<(usize, usize)> {
        self.1.store(true, Ordering::Relaxed);
        let (mut harmed, count) = (0, self.0.len());
        for talk in self.0 {
            harmed += usize::from(talk.await?);
        }
        Ok((harmed, count))
    }
}

/// One call, until it is over; whether the bridge ended it, or fell silent.
async fn talk(_uac: Uac, call: Call, rtp: RtpSocket, is_over: Arc<AtomicBool>) -> bool {
    let Some(remote) = call.remote_rtp() else {
        return true;
    };
    let mut out = rtp.stream_to(remote, CODEC);
    let speaking = async { while out.send_frame(&SILENCE).await.is_ok() {} };
    let listening = async {
        while let Ok(Ok(_)) = timeout(SILENCE_MAX, rtp.receive()).await {
            if is_over.load(Ordering::Relaxed) || call.is_over() {
                return;
            }
        }
    };
    tokio::select! {
        () = speaking => {}
        () = listening => {}
    }
    let was_harmed = !is_over.load(Ordering::Relaxed) || call.is_over();
    was_harmed || call.hangup().await.is_err()
}

/// What became of the calls of the public.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcomes {
    pub calls: usize,
    pub refused: usize,
    pub unanswered: usize,
    pub cut: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    Refused,
    Unanswered,
    Cut,
}

/// The public, which rings one line after the other at the Contact that was registered last.
pub struct Public(JoinHandle<Outcomes>, Arc<AtomicBool>);

impl Public {
    pub fn start(registrar: &Arc<Registrar>, lines: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ringing = ring_all_the_time(registrar.clone(), lines, is_over.clone());
        Self(tokio::spawn(ringing), is_over)
    }

    pub async fn end(self) -> Result<Outcomes> {
        self.1.store(true, Ordering::Relaxed);
        Ok(self.0.await?)
    }
}

async fn ring_all_the_time(
    registrar: Arc<Registrar>,
    lines: usize,
    is_over: Arc<AtomicBool>,
) -> Outcomes {
    let mut calls = JoinSet::new();
    let mut next = Instant::now();
    for line in (1..=lines).cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let contact = {
            let notes = registrar.notes();
            notes.contacts(&user_of(line)).last().map(str::to_owned)
        };
        calls.spawn(ring_once(line, contact));
        next += RING_EVERY;
        tokio::time::sleep_until(next).await;
    }
    let mut outcomes = Outcomes::default();
    for outcome in calls.join_all().await {
        outcomes.calls += 1;
        match outcome {
            Outcome::Good => {}
            Outcome::Refused => outcomes.refused += 1,
            Outcome::Unanswered => outcomes.unanswered += 1,
            Outcome::Cut => outcomes.cut += 1,
        }
    }
    outcomes
}

/// A short call; one to a line without a Contact is refused, as its registrar would.
async fn ring_once(line: usize, contact: Option<String>) -> Outcome {
    let Some(port) = contact.as_deref().and_then(port_of) else {
        return Outcome::Refused;
    };
    match call_shortly(line, (LOOPBACK, port).into()).await {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("a call to line {line}: {error}");
            Outcome::Unanswered
        }
    }
}

async fn call_shortly(line: usize, bridge: SocketAddr) -> Result<Outcome> {
    let uac = Uac::bind((LOOPBACK, 0).into()).await?;
    let rtp = RtpSocket::bind(LOOPBACK).await?;
    let mut call = ring(&uac, line, bridge, rtp.local_addr()?).await?;
    match timeout(ANSWER_MAX, call.wait_answer()).await {
        Err(_) => return Ok(Outcome::Unanswered),
        Ok(Err(rejection)) if rejection.status == 408 => return Ok(Outcome::Unanswered),
        Ok(Err(rejection)) => {
            eprintln!("a call to line {line}: {rejection}");
            return Ok(Outcome::Refused);
        }
        Ok(Ok(_)) => {}
    }
    sleep(TALK).await;
    if call.is_over() || call.hangup().await.is_err() {
        return Ok(Outcome::Cut);
    }
    Ok(Outcome::Good)
}
