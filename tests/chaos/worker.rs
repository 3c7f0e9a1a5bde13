//! The worker as a process of its own, to be killed with -9: this same
//! program, started with `worker ORDERS`. Takes jobs, dials, echoes what is
//! fresh, checks every message's numbering, and writes what it does to its
//! standard output, one JSON object a line, unbuffered.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Error;

use crate::common::worker_client::dial;
use crate::common::worker_jobs::{Job, Jobs};
use crate::common::worker_stream::{FromBridge, Start, WorkerStream};
use crate::stamp::{FRAME, Stamp, now_ms};

/// What a worker process is told to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    pub redis: String,
    pub queue: String,
    /// Calls that it serves at once.
    pub at_once: usize,
    /// Echoes frames that are no older; what was said before it came is not
    /// echoed, or the echo would stay late.
    pub fresh_ms: u64,
    /// Takes jobs and never dials.
    pub mute: bool,
    /// Dials this port of 127.0.0.1 instead of the job's.
    pub via: Option<u16>,
    /// Closes normally after so long.
    pub talk_ms: Option<u64>,
    /// Asks for a transfer after so long.
    pub transfer_after_ms: Option<u64>,
}

impl Orders {
    /// Echoes; any number of calls.
    pub fn echo(redis: &str, queue: &str) -> Self {
        Self {
            redis: redis.to_owned(),
            queue: queue.to_owned(),
            at_once: 100,
            fresh_ms: 200,
            mute: false,
            via: None,
            talk_ms: None,
            transfer_after_ms: None,
        }
    }
}

type Stream = WorkerStream<MaybeTlsStream<TcpStream>>;

/// Writes one line of the worker's account; `at` is when.
fn note(mut line: Value) {
    line["at"] = now_ms().into();
    let text = format!("{line}\n");
    // Nobody reads any more: the test is over, and so is this process soon.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Serves until it is killed.
pub async fn run(orders: Orders) {
    let orders = Arc::new(orders);
    let room = Arc::new(Semaphore::new(orders.at_once));
    loop {
        let Ok(mut jobs) = Jobs::connect(&orders.redis, &orders.queue).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        note(json!({ "what": "ready" }));
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let Ok(job) = jobs.next().await else {
                break;
            };
            tokio::spawn(serve(Arc::clone(&orders), job, permit));
        }
    }
}

async fn serve(orders: Arc<Orders>, job: Job, _permit: OwnedSemaphorePermit) {
    let resumed = job.json["resumed"].as_bool();
    note(
        json!({ "what": "took", "call": job.call_id, "attempt": job.attempt, "resumed": resumed }),
    );
    if orders.mute {
        return;
    }
    match dial(&through(&job.audio_stream_url, orders.via)).await {
        Ok(stream) => {
            note(json!({ "what": "attached", "call": job.call_id, "attempt": job.attempt }));
            let mut checks = Checks::default();
            let over = talk(&orders, &job, stream, &mut checks).await;
            let (caller, heard) = (checks.caller, checks.heard);
            note(json!({
                "what": "over", "call": job.call_id, "how": over, "caller": caller, "heard": heard,
            }));
        }
        Err(error) => {
            let status = match &error {
                Error::Http(response) => response.status().as_u16(),
                _ => 0,
            };
            let why = error.to_string();
            note(json!({ "what": "refused", "call": job.call_id, "status": status, "why": why }));
        }
    }
}

/// The address with another port, that of a proxy.
fn through(url: &str, via: Option<u16>) -> String {
    let parts = url.split_once("://").zip(via);
    let Some(((scheme, rest), port)) = parts else {
        return url.to_owned();
    };
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    format!("{scheme}://127.0.0.1:{port}{path}")
}

/// Serves one call; how it ended.
async fn talk(orders: &Orders, job: &Job, mut stream: Stream, checks: &mut Checks) -> &'static str {
    let after = |limit: Option<u64>| {
        let far = Duration::from_secs(86_400);
        tokio::time::sleep(limit.map_or(far, Duration::from_millis))
    };
    let (close, transfer) = (after(orders.talk_ms), after(orders.transfer_after_ms));
    tokio::pin!(close, transfer);
    let mut transferred = false;
    loop {
        let message = tokio::select! {
            () = &mut close => {
                let closed = stream.close().await;
                return if closed.is_ok() { "closed" } else { "broke" };
            }
            () = &mut transfer, if !transferred => {
                transferred = true;
                let fields = json!({ "transfer": { "destination": "+33100000000" } });
                let _ = stream.event("transfer", fields).await;
                continue;
            }
            message = stream.next() => message,
        };
        match message {
            Ok(Some(FromBridge::Media {
                chunk,
                timestamp_ms,
                audio,
            })) => {
                checks.media(&job.call_id, chunk, timestamp_ms, &audio);
                let fresh = Stamp::read(&audio)
                    .is_some_and(|stamp| now_ms().saturating_sub(stamp.sent_ms) <= orders.fresh_ms);
                if fresh && stream.media(&audio).await.is_err() {
                    return "broke";
                }
            }
            Ok(Some(FromBridge::Start(start))) => checks.start(job, &start),
            Ok(Some(FromBridge::Stop)) => return "stop",
            Ok(Some(_)) => {}
            Ok(None) => return "closed by bridge",
            Err(_) => return "broke",
        }
    }
}

/// The numbering of one stream, as `sipbridge::guide::media_streams` has it.
#[derive(Default)]
struct Checks {
    started: bool,
    chunk: u64,
    next_ms: Option<u64>,
    /// Caller's counter minus the frame's place in the stream: never changes,
    /// or a lost packet has shifted what came after it.
    offset: Option<i64>,
    caller: Option<u16>,
    /// Stamped frames so far.
    heard: u32,
    faults: u32,
}

impl Checks {
    fn start(&mut self, job: &Job, start: &Start) {
        let parameter = start.custom_parameters.get("resumed").map(String::as_str);
        let line = json!({
            "what": "start", "call": job.call_id, "stream": start.stream_sid,
            "resumed": parameter == Some("true"),
        });
        note(line);
        if start.call_sid != job.call_id {
            self.fault(&job.call_id, "start of another call");
        }
        if (parameter == Some("true")) != job.json["resumed"].as_bool().unwrap_or(false) {
            self.fault(&job.call_id, "start and job disagree on resumed");
        }
        if std::mem::replace(&mut self.started, true) {
            self.fault(&job.call_id, "a second start");
        }
    }

    fn media(&mut self, call: &str, chunk: u64, timestamp_ms: u64, audio: &[u8]) {
        if !self.started {
            self.fault(call, "media before start");
        }
        if chunk != self.chunk + 1 {
            self.fault(call, &format!("chunk {chunk} after {}", self.chunk));
        }
        self.chunk = chunk;
        let expected = self.next_ms.replace(timestamp_ms + 20);
        if expected.is_some_and(|expected| expected != timestamp_ms) {
            self.fault(call, &format!("timestamp {timestamp_ms}, not {expected:?}"));
        }
        if audio.len() != FRAME {
            self.fault(call, &format!("{} bytes in a message", audio.len()));
        }
        let Some(stamp) = Stamp::read(audio) else {
            return;
        };
        self.heard += 1;
        if self.caller.replace(stamp.caller).is_none() {
            note(json!({ "what": "hears", "call": call, "caller": stamp.caller }));
        } else if self.caller != Some(stamp.caller) {
            self.fault(call, "another caller's audio");
        }
        let place = i64::try_from(timestamp_ms / 20).unwrap_or(i64::MAX);
        let offset = i64::from(stamp.counter) - place;
        let known = self.offset.replace(offset);
        if known.is_some_and(|known| known != offset) {
            let shift = offset - known.unwrap_or_default();
            self.fault(call, &format!("frame {} shifted by {shift}", stamp.counter));
        }
    }

    /// Says so; of a stream that is all wrong, the first few times.
    fn fault(&mut self, call: &str, why: &str) {
        self.faults += 1;
        if self.faults <= 5 {
            note(json!({ "what": "fault", "call": call, "why": why }));
        }
    }
}
