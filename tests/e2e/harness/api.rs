//! A client of the bridge's HTTP API: any method, header and body.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::local;
use super::tls::Trust;
use super::{Bridge, SOON, within};

/// Where an API is, and what every request carries.
#[derive(Clone)]
pub struct Api {
    port: u16,
    token: Option<String>,
    trust: Option<Trust>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The body, when the status is the one wanted.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.json()
    }

    /// The problem, whose status, type and content type must be right.
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(
            problem["type"],
            format!("urn:sipbridge:problem:{kind}"),
            "{}",
            self.body
        );
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|it| !it.is_empty()));
        }
        problem
    }

    /// The fields that a 422 names, in its order.
    pub fn faulty(&self) -> Vec<String> {
        let problem = self.problem(422, "invalid");
        let errors = problem["errors"].as_array().expect("a list").iter();
        errors
            .map(|error| {
                assert!(error["reason"].as_str().is_some_and(|it| !it.is_empty()));
                error["field"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}

impl Api {
    /// Of a bridge without a token.
    pub fn of(bridge: &Bridge) -> Self {
        Self {
            port: bridge.api_port,
            token: None,
            trust: None,
        }
    }

    /// The same over HTTPS.
    pub fn over_tls(&self, trust: &Trust) -> Self {
        Self {
            trust: Some(trust.clone()),
            ..self.clone()
        }
    }

    /// The same with a token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Where it is, on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "", "").await
    }

    /// POST without a body.
    pub async fn post_empty(&self, path: &str) -> Answer {
        self.send("POST", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let json = "Content-Type: application/json\r\n";
        self.send(method, path, json, &body.to_string()).await
    }

    /// Any request; `headers` end with CRLF each.
    pub async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let token = self.token.as_ref();
        let token = token.map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let host = match headers.contains("Host:") {
            true => String::new(),
            false => format!("Host: 127.0.0.1:{}\r\n", self.port),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}{token}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.raw(&format!("{head}{body}")).await
    }

    /// A request whose answer may take its time.
    pub async fn slow(&self, method: &str, path: &str) -> Answer {
        let mut stream = self.connect().await;
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_within(&mut stream, Duration::from_secs(25)).await
    }

    /// Bytes as they are; reads until the server closes.
    pub async fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        let Some(trust) = &self.trust else {
            stream.write_all(request.as_bytes()).await.unwrap();
            return read(&mut stream).await;
        };
        let mut stream = trust.shake_hands(stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read(&mut stream).await
    }

    /// A connection that the test writes to by itself.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(local(self.port)).await.unwrap()
    }
}

/// Reads an answer to the end of the connection.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Answer {
    read_within(stream, SOON).await
}

async fn read_within(stream: &mut (impl AsyncRead + Unpin), limit: Duration) -> Answer {
    let mut bytes = Vec::new();
    // A server that refuses a body may reset the connection after its answer.
    let _ = within(limit, "an HTTP answer", stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status,
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}
