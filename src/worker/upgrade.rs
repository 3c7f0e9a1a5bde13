//! Our side of the handshake that opens a WebSocket (RFC 6455, 4.1): the
//! request written, the worker's answer read and judged. The library's own
//! judge wants `Connection: Upgrade` to the letter, where the RFC wants the
//! token in a list, and servers behind proxies answer `keep-alive, Upgrade`.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_request;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::http::Request;

use super::request::{HEAD_MAX_BYTES, HEADERS_MAX, has_token, head_end, value};

/// Why there is no WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoUpgrade {
    /// Another status than 101.
    Status(u16),
    /// What is wrong with the answer.
    Answer(&'static str),
    /// The connection failed or ended.
    Connection(String),
}

impl From<io::Error> for NoUpgrade {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

/// Asks for the upgrade; gives what the worker has sent behind its answer.
pub(super) async fn upgrade<S>(stream: &mut S, request: Request<()>) -> Result<Vec<u8>, NoUpgrade>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let unwritable = |_| NoUpgrade::Answer("our own request cannot be written");
    let (text, key) = generate_request(request).map_err(unwritable)?;
    stream.write_all(&text).await?;
    stream.flush().await?;
    let (head, rest) = read_head(stream).await?;
    judge(&head, &key)?;
    Ok(rest)
}

/// Reads up to the empty line: the head, and what came behind it.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Vec<u8>, Vec<u8>), NoUpgrade> {
    let mut bytes = Vec::with_capacity(1_024);
    loop {
        let seen = bytes.len();
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(NoUpgrade::Connection(
                "it was closed without an answer".into(),
            ));
        }
        if let Some(end) = head_end(&bytes, seen) {
            let rest = bytes.split_off(end);
            return Ok((bytes, rest));
        }
        if bytes.len() > HEAD_MAX_BYTES {
            return Err(NoUpgrade::Answer("its head is too large"));
        }
    }
}

/// Judges the answer to a request with this key.
fn judge(head: &[u8], key: &str) -> Result<(), NoUpgrade> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    let parsed = parser.parse_response(&mut response, head);
    if !matches!(parsed, Ok(httparse::Status::Complete(_))) {
        return Err(NoUpgrade::Answer("it is no HTTP response"));
    }
    match response.code {
        Some(101) => {}
        status => return Err(NoUpgrade::Status(status.unwrap_or_default())),
    }
    let headers = &*response.headers;
    if response.version != Some(1) {
        return Err(NoUpgrade::Answer("it is not HTTP/1.1"));
    }
    if !has_token(headers, "upgrade", "websocket") {
        return Err(NoUpgrade::Answer("it has no Upgrade: websocket"));
    }
    if !has_token(headers, "connection", "upgrade") {
        return Err(NoUpgrade::Answer("it has no Connection: Upgrade"));
    }
    if value(headers, "sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err(NoUpgrade::Answer(
            "its Sec-WebSocket-Accept is not that of our key",
        ));
    }
    // Neither was asked for (RFC 6455, 4.1, 5 and 6): frames would be of another form.
    let extra = ["sec-websocket-extensions", "sec-websocket-protocol"];
    let has = |name: &&str| value(headers, name).is_some_and(|value| !value.is_empty());
    if extra.iter().any(has) {
        return Err(NoUpgrade::Answer(
            "it chooses an extension or subprotocol that was not offered",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn judged(status: &str, headers: &[&str]) -> Result<(), NoUpgrade> {
        let head = format!("{status}\r\n{}\r\n\r\n", headers.join("\r\n"));
        judge(head.as_bytes(), KEY)
    }

    #[test]
    fn the_answers_of_servers_and_proxies_are_taken() {
        let accept = "sec-websocket-accept:s3pPLMBiTxaQ9kYGzzhZRbK+xOo=  ";
        for headers in [
            ["Upgrade: websocket", "Connection: Upgrade", ACCEPT],
            [
                "Upgrade: WebSocket",
                "Connection: keep-alive, Upgrade",
                ACCEPT,
            ],
            ["UPGRADE:websocket", "connection:upgrade,keep-alive", accept],
            [
                "Upgrade : websocket ",
                "Connection: Keep-Alive\r\nConnection: upgrade",
                ACCEPT,
            ],
            [
                "Upgrade: h2c, websocket",
                "Connection: Upgrade ,close",
                "X: y\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            ],
        ] {
            assert_eq!(
                judged("HTTP/1.1 101 Switching Protocols", &headers),
                Ok(()),
                "{headers:?}"
            );
        }
        let headers = ["Upgrade: websocket", "Connection: Upgrade", ACCEPT];
        assert_eq!(judged("HTTP/1.1 101", &headers), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let good = ["Upgrade: websocket", "Connection: Upgrade", ACCEPT];
        for status in [200, 302, 401, 404, 503] {
            assert_eq!(
                judged(&format!("HTTP/1.1 {status} x"), &good),
                Err(NoUpgrade::Status(status))
            );
        }
        let without = |index: usize| {
            let mut headers = good.to_vec();
            headers.remove(index);
            judged("HTTP/1.1 101 x", &headers)
        };
        for index in 0..3 {
            assert!(
                matches!(without(index), Err(NoUpgrade::Answer(_))),
                "{index}"
            );
        }
        for bad in [
            ["Upgrade: websockets", "Connection: Upgrade", ACCEPT],
            ["Upgrade: websocket", "Connection: keep-alive", ACCEPT],
            [
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Accept: x",
            ],
            [
                "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate",
                "Connection: Upgrade",
                ACCEPT,
            ],
        ] {
            let said = judged("HTTP/1.1 101 x", &bad);
            assert!(matches!(said, Err(NoUpgrade::Answer(_))), "{bad:?}");
        }
        assert!(matches!(
            judged("HTTP/1.0 101 x", &good),
            Err(NoUpgrade::Answer(_))
        ));
        assert!(matches!(judged("hello", &good), Err(NoUpgrade::Answer(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = judge(&bytes, KEY);
        }
    }
}
