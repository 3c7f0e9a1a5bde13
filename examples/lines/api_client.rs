//! One HTTP connection to the bridge's API, kept open: just enough of HTTP/1.1
//! for answers with a Content-Length.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Patience with one answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// An open connection.
pub struct Client {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            address,
            buffer: Vec::new(),
        })
    }

    /// Asks; the answer is status and body.
    ///
    /// # Errors
    /// When the connection breaks, or no answer comes.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>), Box<dyn Error>> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        timeout(ANSWER_MAX, async {
            self.stream.write_all(request.as_bytes()).await?;
            self.answer().await
        })
        .await?
    }

    async fn answer(&mut self) -> Result<(u16, Vec<u8>), Box<dyn Error>> {
        loop {
            if let Some((head, length)) = head_of(&self.buffer)
                && self.buffer.len() >= head + length
            {
                let status = std::str::from_utf8(&self.buffer[9..12])?.parse()?;
                let body = self.buffer[head..head + length].to_vec();
                self.buffer.drain(..head + length);
                return Ok((status, body));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the bridge closed the connection".into());
            }
        }
    }
}

/// Length of the head, and of the body that it announces.
fn head_of(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.split("content-length:").nth(1)?;
    let length = length.lines().next()?.trim().parse().ok()?;
    Some((end, length))
}
