//! A caller with real RTP: says stamped frames, keeps everything that it
//! hears, and leaves when its plan says so. Draws no conclusions; `record`
//! does.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::common::sip_uac::{Call, CallEvent, CallOptions, Uac};
use crate::record::{End, Heard, Kind, Record};
use crate::stamp::{FRAME, Stamp, now_ms};

const HEADER: usize = 12;
/// How long an INVITE may go without a final response.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// Nobody stays longer: a call that never ends is a finding, not a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// When a caller hangs up.
#[derive(Clone, Copy, Debug)]
pub enum Leave {
    /// So long after the answer.
    After(Duration),
    /// So long after hearing the worker first.
    AfterWorker(Duration),
    /// So long after the worker's voice gave way to another sound.
    AfterHold(Duration),
    /// When asked to call somebody else.
    OnRefer,
    /// By CANCEL, so long after the INVITE; by BYE if it is answered before.
    Cancel(Duration),
    /// Stays until the other side hangs up.
    Never,
}

/// What a caller does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub leave: Leave,
    /// Share of its packets that go missing.
    pub loss: f64,
    /// Share of its packets that are overtaken by the next.
    pub reorder: f64,
}

impl Plan {
    /// A caller with a perfect network.
    pub fn new(leave: Leave) -> Self {
        Self {
            leave,
            loss: 0.0,
            reorder: 0.0,
        }
    }
}

/// Makes one call, from INVITE to its end.
pub async fn call(uac: Uac, bridge: SocketAddr, index: u16, seed: u64, plan: Plan) -> Record {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut options = CallOptions::new(socket.local_addr().unwrap());
    options.from_user = format!("+336{index:08}");
    let target = format!("sip:{}@{bridge}", crate::harness::bridge::NUMBER);
    let mut record = Record::new(index);
    let mut call = uac.call(&target, options).await.unwrap();
    let answer = match plan.leave {
        Leave::Cancel(after) => cancelled(&mut call, after).await,
        _ => timeout(ANSWER_LIMIT, call.wait_answer()).await.ok(),
    };
    let end = match answer {
        None => End::NotAnswered,
        Some(Err(rejection)) => End::Refused(rejection.status),
        Some(Ok(answer)) => {
            record.answered_at = Some(Instant::now());
            let remote = answer.media.map(|media| media.address).unwrap();
            let mut leg = Leg {
                socket,
                remote,
                random: StdRng::seed_from_u64(seed ^ u64::from(index) << 32),
                plan,
                counter: 0,
                held: VecDeque::new(),
            };
            let end = leg.run(&mut call, &mut record).await;
            leg.linger(&mut record).await;
            record.said = leg.counter;
            end
        }
    };
    record.finish(end);
    record
}

/// Cancels after a while; `None` when there is no final response at all.
async fn cancelled(
    call: &mut Call,
    after: Duration,
) -> Option<Result<crate::common::sip_uac::Answer, crate::common::sip_uac::Rejection>> {
    if let Ok(answer) = timeout(after, call.wait_answer()).await {
        return Some(answer);
    }
    // Refused when the answer is there already: then BYE follows.
    let _ = call.cancel().await;
    timeout(ANSWER_LIMIT, call.wait_answer()).await.ok()
}

struct Leg {
    socket: UdpSocket,
    remote: SocketAddr,
    random: StdRng,
    plan: Plan,
    counter: u32,
    /// Packets that the next one overtakes.
    held: VecDeque<Vec<u8>>,
}

impl Leg {
    /// Talks and listens until one side hangs up.
    async fn run(&mut self, call: &mut Call, record: &mut Record) -> End {
        let mut clock = interval(Duration::from_millis(20));
        // After a stall of this program, not all missed frames at once.
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut datagram = [0; 2_048];
        loop {
            tokio::select! {
                event = call.next_event() => match event {
                    Some(CallEvent::Bye { .. }) | None => return End::ByBridge,
                    Some(CallEvent::Refer { .. }) if matches!(self.plan.leave, Leave::OnRefer) => {
                        return hang_up(call).await;
                    }
                    Some(_) => {}
                },
                Ok((length, _)) = self.socket.recv_from(&mut datagram) => {
                    record.heard.extend(parse(&datagram[..length]));
                }
                _ = clock.tick() => {
                    self.say(record.index).await;
                    if self.is_time(record) {
                        return hang_up(call).await;
                    }
                }
            }
        }
    }

    /// What is in the socket when the call is over was heard.
    async fn linger(&self, record: &mut Record) {
        let mut datagram = [0; 2_048];
        while let Ok(length) = self.socket.try_recv(&mut datagram) {
            record.heard.extend(parse(&datagram[..length]));
        }
    }

    fn is_time(&self, record: &Record) -> bool {
        let passed = |since: Option<Instant>, time: Duration| {
            since.is_some_and(|since| since.elapsed() >= time)
        };
        if passed(record.answered_at, PATIENCE) {
            return true;
        }
        match self.plan.leave {
            Leave::After(time) => passed(record.answered_at, time),
            Leave::AfterWorker(time) => passed(record.first_worker_at(), time),
            Leave::AfterHold(time) => passed(record.held_at(), time),
            Leave::Cancel(_) => true,
            Leave::OnRefer | Leave::Never => false,
        }
    }

    /// The next frame, as the caller's network brings it.
    async fn say(&mut self, index: u16) {
        let stamp = Stamp {
            caller: index,
            counter: self.counter,
            sent_ms: now_ms(),
        };
        let mut packet = vec![0x80, if self.counter == 0 { 0x80 } else { 0 }];
        packet.extend((self.counter as u16).to_be_bytes());
        let timestamp = self.counter.wrapping_mul(FRAME as u32);
        packet.extend(timestamp.to_be_bytes());
        packet.extend((0x0C00_0000 | u32::from(index)).to_be_bytes());
        packet.extend(stamp.write());
        self.counter += 1;
        // The first one sets the bridge's clock for this caller.
        let chance = if self.counter == 1 {
            1.0
        } else {
            self.random.random::<f64>()
        };
        if chance < self.plan.loss {
            return;
        }
        if chance < self.plan.loss + self.plan.reorder {
            self.held.push_back(packet);
            return;
        }
        // A bridge that is gone answers with ICMP, which is no concern here.
        let _ = self.socket.send_to(&packet, self.remote).await;
        while let Some(late) = self.held.pop_front() {
            let _ = self.socket.send_to(&late, self.remote).await;
        }
    }
}

/// BYE. One that crosses the other side's is no failure.
async fn hang_up(call: &Call) -> End {
    match call.hangup().await {
        Ok(()) => End::HungUp,
        Err(_) if call.is_over() => End::HungUp,
        Err(error) => End::Unanswered(error.to_string()),
    }
}

fn parse(datagram: &[u8]) -> Option<Heard> {
    let (header, payload) = datagram.split_at_checked(HEADER)?;
    // RTCP to the RTP port (RFC 5761) and events are no sound.
    if header[0] >> 6 != 2 || header[1] & 0x7F != 0 {
        return None;
    }
    let kind = match Stamp::read(payload) {
        Some(stamp) => Kind::Worker(stamp),
        None if crate::harness::sound::is_silence(payload) => Kind::Silence,
        None => Kind::Sound(payload.into()),
    };
    Some(Heard {
        at: Instant::now(),
        at_ms: now_ms(),
        kind,
    })
}
