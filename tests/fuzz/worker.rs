//! A worker that the bridge dials: it sends back all audio, and now and then
//! says what a target wants said.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::peers::local;

/// Attached workers, the latest last.
type Attached = Arc<Mutex<Vec<Handle>>>;

/// One attached worker.
#[derive(Clone)]
pub struct Handle {
    pub stream_sid: String,
    pub outbox: mpsc::UnboundedSender<Message>,
}

pub struct Server {
    address: SocketAddr,
    attached: Attached,
    accepting: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let attached = Attached::default();
        Self {
            address: listener.local_addr().unwrap(),
            accepting: tokio::spawn(accept(listener, attached.clone())),
            attached,
        }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/media", self.address)
    }

    /// The worker of the latest call that is still there.
    pub fn latest(&self) -> Option<Handle> {
        let mut attached = self.attached.lock().unwrap();
        attached.retain(|it| !it.outbox.is_closed());
        attached.last().cloned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, attached: Attached) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, attached.clone()));
    }
}

async fn serve(stream: TcpStream, attached: Attached) {
    let _ = stream.set_nodelay(true);
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let (outbox, mut said) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            message = socket.next() => {
                let text = match message {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    _ => return,
                };
                let Ok(message) = serde_json::from_str::<Value>(&text) else { return };
                let stream_sid = message["streamSid"].as_str().unwrap_or_default().to_owned();
                match message["event"].as_str() {
                    Some("start") => {
                        let outbox = outbox.clone();
                        attached.lock().unwrap().push(Handle { stream_sid, outbox });
                    }
                    Some("media") => {
                        let payload = &message["media"]["payload"];
                        let echo = json!({"event": "media", "streamSid": stream_sid, "media": {"payload": payload}});
                        if socket.send(Message::text(echo.to_string())).await.is_err() {
                            return;
                        }
                    }
                    _ => {}
                }
            }
            message = said.recv() => {
                let Some(message) = message else { return };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}
