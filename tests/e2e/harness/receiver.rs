//! A receiver of callbacks: a small HTTP/1.1 server that remembers every
//! request and answers as a test says, path by path.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How a request is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Further header lines, each with its line end.
    pub headers: String,
    pub body: String,
    pub delay: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: String::new(),
            body: String::new(),
            delay: Duration::ZERO,
        }
    }

    pub fn json(value: Value) -> Self {
        Self {
            body: value.to_string(),
            ..Self::status(200)
        }
    }

    pub fn header(self, line: &str) -> Self {
        let headers = format!("{}{line}\r\n", self.headers);
        Self { headers, ..self }
    }

    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// What came.
#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The query, decoded.
    pub fn query(&self) -> HashMap<String, String> {
        let url = url::Url::parse(&format!("http://h{}", self.target)).unwrap();
        url.query_pairs().into_owned().collect()
    }

    /// `event`, whichever way the request was sent.
    pub fn event(&self) -> String {
        match self.method.as_str() {
            "POST" => self.json()["event"].as_str().unwrap().to_owned(),
            _ => self.query()["event"].clone(),
        }
    }

    /// The call that it is about.
    pub fn sid(&self) -> String {
        match self.method.as_str() {
            "POST" => self.json()["sid"].as_str().unwrap().to_owned(),
            _ => self.query()["sid"].clone(),
        }
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    /// Answers in turn; the last one stays.
    script: Mutex<HashMap<String, VecDeque<Reply>>>,
}

/// See the module. Gone when dropped, connections too.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::start_at(0, None).await
    }

    /// On a port that a test knows, with TLS where it says so.
    pub async fn start_at(port: u16, tls: Option<TlsAcceptor>) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared::default());
        Self {
            port: listener.local_addr().unwrap().port(),
            task: tokio::spawn(accept(listener, shared.clone(), tls)),
            shared,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on requests for a path are answered so, in turn; the last
    /// answer stays. A path without a script gets 200.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        let mut script = self.shared.script.lock().unwrap();
        script.insert(path.to_owned(), replies);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Those for a path.
    pub fn requests_for(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.path() == path);
        requests
    }

    /// Waits for so many requests for a path.
    pub async fn receives(&self, path: &str, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let requests = self.requests_for(path);
            if requests.len() >= count {
                return requests;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {count} requests for {path}: {requests:#?}",
                requests.len()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    // Dropped with this task, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let mut bytes = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut bytes).await {
        let reply = {
            let mut script = shared.script.lock().unwrap();
            let replies = script.get_mut(request.path());
            match replies {
                Some(replies) if replies.len() > 1 => replies.pop_front(),
                Some(replies) => replies.front().cloned(),
                None => None,
            }
        };
        let reply = reply.unwrap_or_else(|| Reply::status(200));
        shared.requests.lock().unwrap().push(request);
        tokio::time::sleep(reply.delay).await;
        let text = format!(
            "HTTP/1.1 {} X\r\n{}Content-Length: {}\r\n\r\n{}",
            reply.status,
            reply.headers,
            reply.body.len(),
            reply.body
        );
        if stream.write_all(text.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Option<Request> {
    loop {
        if let Some((request, length)) = parse(bytes) {
            bytes.drain(..length);
            return Some(request);
        }
        let mut chunk = [0; 4_096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// A whole request and its length.
fn parse(bytes: &[u8]) -> Option<(Request, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_length) = head.parse(bytes).unwrap() else {
        return None;
    };
    let headers: HashMap<String, String> = head
        .headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        })
        .collect();
    let length = headers.get("content-length");
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let body = bytes.get(head_length..head_length + length)?;
    let request = Request {
        at: Instant::now(),
        method: head.method?.to_owned(),
        target: head.path?.to_owned(),
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    Some((request, head_length + length))
}

/// What Twilio's libraries expect in `X-Twilio-Signature` of a request without
/// a form, computed by Python: not with the code that is tested.
pub fn python_signature(token: &str, url: &str) -> String {
    python(
        "import sys,hmac,hashlib,base64\n\
         print(base64.b64encode(hmac.new(sys.argv[1].encode(),sys.argv[2].encode(),hashlib.sha1).digest()).decode())",
        &[token, url],
    )
}

/// SHA-256 in hex, by Python.
pub fn python_sha256(text: &str) -> String {
    let script = "import sys,hashlib\nprint(hashlib.sha256(sys.argv[1].encode()).hexdigest())";
    python(script, &[text])
}

fn python(script: &str, args: &[&str]) -> String {
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .args(args)
        .output()
        .expect("python3");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A POST that is signed as it should be.
pub fn assert_signed(request: &Request, token: &str, base: &str) {
    let url = format!("{base}{}", request.target);
    let expected = python_signature(token, &url);
    assert_eq!(
        request.header("x-twilio-signature"),
        Some(expected.as_str()),
        "{url}"
    );
    if request.method == "POST" {
        assert_eq!(request.query()["bodySHA256"], python_sha256(&request.body));
    }
}
