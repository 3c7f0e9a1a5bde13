//! Copies to real sockets, with audio that is put into their taps by hand.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::bridge::audio_metrics::AudioMetrics;
use crate::bridge::call::call_terms::ForeignWorkers;
use crate::bridge::call::voice_fetch::{VoiceHttp, Waited};
use crate::bridge::call::voice_stream::StreamDialers;
use crate::bridge::leg::copied_audio::CopyTaps;
use crate::bridge::leg::leg_media::LegGains;
use crate::core::call_object::CallDirection;
use crate::core::g711::Gain;
use crate::core::ids::{AccountSid, CallId};
use crate::core::media_session::clock::MediaTime;
use crate::core::outward::{Outward, WrittenBy};
use crate::core::private::Private;
use crate::core::twiml::document::Webhook;
use crate::core::twiml::{Document, VoiceUrl, parse};
use crate::core::voice::webhook::FormFields;
use crate::core::voice::{FetchFailure, Instructions, VoiceCall, VoiceCommand, VoicePolicy};
use crate::sip::rtp_channel::rtp_channel;

const SOON: Duration = Duration::from_secs(20);

/// Keeps what webhooks are told, and answers nothing.
#[derive(Default)]
struct Told(Mutex<Vec<FormFields>>);

impl Told {
    /// `StreamEvent` and `StreamError` of each.
    fn events(&self) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter()
            .map(|fields| {
                let error = fields.get("StreamError").map(|error| format!(": {error}"));
                fields.get("StreamEvent").unwrap().to_owned() + &error.unwrap_or_default()
            })
            .collect()
    }
}

fn nothing<T>() -> Pin<Box<dyn Future<Output = Result<T, FetchFailure>> + Send>> {
    Box::pin(async { Err(FetchFailure::Status(404)) })
}

impl VoiceHttp for Told {
    fn fetch(&self, _: Webhook, _: FormFields) -> Waited<Result<Document, FetchFailure>> {
        nothing()
    }

    fn notify(&self, _: Webhook, fields: FormFields) {
        self.0.lock().unwrap().push(fields);
    }

    fn can_speak(&self) -> bool {
        false
    }

    fn speech(&self, _: Private, _: Option<String>) -> Waited<Result<Vec<u8>, FetchFailure>> {
        nothing()
    }

    fn sound(&self, _: VoiceUrl, _: WrittenBy) -> Waited<Result<Vec<u8>, FetchFailure>> {
        nothing()
    }
}

/// What the core asks for where a document has this `<Stream>` in `<Start>`.
fn asked(attributes: &str) -> (CommandId, Box<MediaStream>) {
    let text = format!(
        "<Response><Start><Stream {attributes} statusCallback='https://bot.example/told'/></Start><Pause/></Response>"
    );
    let document = parse(text.as_bytes(), None, WrittenBy::Operator).unwrap();
    let mut call = VoiceCall::new(VoicePolicy {
        is_answered: true,
        ..VoicePolicy::default()
    });
    let now = std::time::Instant::now();
    assert!(call.handle_instructions(now, Instructions::Document(document)));
    match call.poll_command() {
        Some(VoiceCommand::StartCopy { id, stream }) => (id, stream),
        other => panic!("{other:?}"),
    }
}

/// One copy, and all around it.
struct Stage {
    told: Arc<Told>,
    taps: CopyTaps,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<bool>,
    sid: StreamId,
}

impl Stage {
    /// A copy that dials this port.
    fn begin(port: u16, attributes: &str) -> Self {
        let told = Arc::new(Told::default());
        let (copy, dialer) = new_copy(port, attributes, &told);
        let (audio, taps) = CopiedAudio::new(copy.stream.track, MediaTime::default());
        let sid = copy.sid.clone();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(CopyTask::new(copy, audio, stopped).live(dialer));
        Self {
            told,
            taps,
            stop: Some(stop),
            task,
            sid,
        }
    }

    /// 20 ms of both tracks, told apart by their bytes.
    fn pass(&mut self, frame: u64) {
        let at = MediaTime {
            samples: 160 * frame,
        };
        if let Some(tap) = &mut self.taps.inbound {
            tap.handle_frame(at, &[1; 160]);
        }
        if let Some(tap) = &mut self.taps.outbound {
            tap.handle_frame(at, &[2; 160]);
        }
    }

    /// Whether the copy ended by itself.
    async fn ended(self) -> (bool, Vec<String>) {
        let by_itself = timeout(SOON, self.task).await.expect("it ends").unwrap();
        (by_itself, self.told.events())
    }
}

/// A copy to this port, and what dials it.
fn new_copy(port: u16, attributes: &str, told: &Arc<Told>) -> (NewCopy, Dialer) {
    let url = format!("ws://127.0.0.1:{port}/copy");
    let (id, stream) = asked(&format!("url='{url}' {attributes}"));
    let foreign = ForeignWorkers::new(Arc::new(Outward::default()), None);
    let dialers = StreamDialers::new(foreign);
    let gauges = Arc::new(AudioMetrics::default());
    let tools = VoiceTools::new(told.clone(), dialers, gauges);
    let dialer = tools.dialers.dialer(&stream, None).unwrap();
    let copy = NewCopy {
        id,
        sid: StreamId::random(),
        stream,
        parameters: BTreeMap::from([("order".to_owned(), "7".to_owned())]).into(),
        facts: facts(),
        tools,
    };
    (copy, dialer)
}

fn facts() -> VoiceFacts {
    VoiceFacts {
        call: CallId::random(),
        account: AccountSid::random(),
        parent: None,
        direction: CallDirection::Inbound,
        from: Private::new("+33612345678"),
        to: Private::new("+33972360682"),
        forwarded_from: None,
        caller_name: None,
        answered_by: None,
        from_country: None,
        to_country: None,
        sip_headers: Vec::new(),
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accepted(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    tokio_tungstenite::accept_async(stream).await.unwrap()
}

/// The next message; `None` when the socket is closed.
async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Value> {
    loop {
        match timeout(SOON, socket.next()).await.unwrap()? {
            Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn a_copy_carries_both_tracks_and_digits_up_to_its_stop() {
    let (listener, port) = listener().await;
    let mut stage = Stage::begin(port, "track='both_tracks' name='ears'");
    // Before the socket is there.
    stage.pass(0);
    let mut socket = accepted(&listener).await;
    let connected = next(&mut socket).await.unwrap();
    assert_eq!(connected["event"], "connected");
    let start = next(&mut socket).await.unwrap();
    assert_eq!(start["streamSid"], stage.sid.as_str());
    assert_eq!(start["start"]["customParameters"]["order"], "7");
    assert_eq!(start["start"]["tracks"][1], "outbound");
    let inbound = stage.taps.inbound.as_mut().unwrap();
    inbound.handle_digit(MediaTime { samples: 160 }, '5');
    stage.pass(1);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let message = next(&mut socket).await.unwrap();
        let (media, number) = (&message["media"], &message["sequenceNumber"]);
        seen.push(match message["event"].as_str().unwrap() {
            "media" => format!(
                "{number} {} {} {}",
                media["track"], media["chunk"], media["timestamp"]
            ),
            _ => format!("{number} {}", message["dtmf"]["digit"]),
        });
    }
    let seen: Vec<_> = seen.iter().map(|text| text.replace('"', "")).collect();
    assert_eq!(
        seen,
        [
            "2 inbound 1 0",
            "3 outbound 1 0",
            "4 5",
            "5 inbound 2 20",
            "6 outbound 2 20"
        ]
    );
    // What was heard up to the stop goes before it.
    stage.pass(2);
    drop(stage.stop.take());
    for event in ["media", "media", "stop"] {
        assert_eq!(next(&mut socket).await.unwrap()["event"], event);
    }
    assert_eq!(next(&mut socket).await, None);
    let (by_itself, told) = stage.ended().await;
    assert!(!by_itself);
    assert_eq!(told, ["stream-started", "stream-stopped"]);
}

#[tokio::test]
async fn a_copy_that_nobody_accepts_fails_and_one_that_is_stopped_before_says_nothing() {
    let (listener, port) = listener().await;
    // It is accepted by the kernel, and never answered.
    let mut stage = Stage::begin(port, "");
    let waiting = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    drop(stage.stop.take());
    assert_eq!(stage.ended().await, (false, Vec::new()));
    drop((waiting, listener));
    let (by_itself, told) = Stage::begin(port, "").ended().await;
    assert!(by_itself);
    assert_eq!(told, [format!("stream-error: {NOT_OPENED}")]);
}

#[tokio::test]
async fn a_copy_that_does_not_read_is_dropped() {
    let (listener, port) = listener().await;
    let mut stage = Stage::begin(port, "track='both_tracks'");
    let deaf = accepted(&listener).await;
    let mut frame = 0;
    while !stage.task.is_finished() {
        assert!(frame < 200_000, "nothing bounds it");
        for _ in 0..100 {
            stage.pass(frame);
            frame += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (by_itself, told) = stage.ended().await;
    assert!(by_itself);
    let wanted = [
        "stream-started".to_owned(),
        format!("stream-error: {DOES_NOT_READ}"),
    ];
    assert_eq!(told, wanted);
    drop(deaf);
}

#[tokio::test]
async fn what_a_copy_is_told_is_forgotten_and_its_close_ends_it() {
    let (listener, port) = listener().await;
    let mut stage = Stage::begin(port, "");
    let socket = accepted(&listener).await;
    let (mut talks, mut listens) = socket.split();
    // More than is read in a second: the rest waits in its own socket.
    let flood = tokio::spawn(async move {
        for _ in 0..40 {
            let text = "x".repeat(50_000);
            talks.send(Message::text(text)).await.unwrap();
        }
        talks.send(Message::binary(vec![0; 100])).await.unwrap();
        talks.close().await.unwrap();
    });
    let mut events = 0;
    let mut frame = 0;
    while !stage.task.is_finished() {
        stage.pass(frame);
        frame += 1;
        if let Ok(Some(Ok(Message::Text(_)))) =
            timeout(Duration::from_millis(20), listens.next()).await
        {
            events += 1;
        }
    }
    flood.await.unwrap();
    assert!(events > 20, "the audio came all the while: {events}");
    assert!(frame > 50, "2 MB are not read in a second: {frame}");
    let (by_itself, told) = stage.ended().await;
    assert!(by_itself);
    assert_eq!(told, ["stream-started", "stream-stopped"]);
}

#[tokio::test]
async fn a_copy_whose_socket_drops_is_broken() {
    let (listener, port) = listener().await;
    let stage = Stage::begin(port, "");
    drop(accepted(&listener).await);
    let (by_itself, told) = stage.ended().await;
    assert!(by_itself);
    let wanted = [
        "stream-started".to_owned(),
        format!("stream-error: {SOCKET_LOST}"),
    ];
    assert_eq!(told, wanted);
}

#[tokio::test]
async fn a_call_has_four_copies_and_those_that_come_and_go_in_a_moment_are_bounded() {
    let (listener, port) = listener().await;
    let (_engine, rtp) = rtp_channel();
    let gains = LegGains {
        rx: Gain::default(),
        tx: Gain::default(),
    };
    let media = LegMedia::new(&gains, &rtp).unwrap();
    let told = Arc::new(Told::default());
    let mut copies = VoiceCopies::default();
    let begin = |copies: &mut VoiceCopies| {
        let (copy, dialer) = new_copy(port, "track='both_tracks'", &told);
        let id = copy.id;
        (copies.start(copy, dialer, &media), id)
    };
    // No task has had its turn yet.
    let begun = (0..50).filter(|_| {
        let (is_begun, id) = begin(&mut copies);
        copies.forget(id, &media);
        is_begun
    });
    assert_eq!(begun.count(), TASKS_MAX);
    while Arc::strong_count(&copies.alive) > 1 {
        tokio::task::yield_now().await;
    }
    let begun: Vec<_> = (0..6).map(|_| begin(&mut copies).0).collect();
    assert_eq!(begun, [true, true, true, true, false, false]);
    // They break; each says so, and gives its place back.
    drop(listener);
    for _ in 0..COPIES_MAX {
        let id = timeout(SOON, copies.next()).await.unwrap();
        copies.forget(id, &media);
    }
    assert!(copies.places.iter().all(Option::is_none));
    assert_eq!(
        told.events(),
        vec![format!("stream-error: {NOT_OPENED}"); 4]
    );
    assert!(begin(&mut copies).0);
}
