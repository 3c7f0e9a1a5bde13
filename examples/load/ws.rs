//! The least of WebSocket (RFC 6455) that an echoing worker needs, by hand:
//! the generator shares the machine with the bridge and must cost little.
//! Leaves out fragmented messages, extensions and wss.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Opcode of a text frame.
pub const TEXT: u8 = 1;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of a pong.
pub const PONG: u8 = 10;
const HEAD_LIMIT_BYTES: usize = 16 * 1024;

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads an HTTP head; returns it and what came behind it.
async fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(2_048);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).map_err(|_| bad("HTTP head is not UTF-8"))?;
            return Ok((head, rest));
        }
        if bytes.len() > HEAD_LIMIT_BYTES {
            return Err(bad("HTTP head too long"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given
            .trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim())
    })
}

/// Plays the server in the opening handshake; returns what came behind it.
pub async fn accept(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (head, rest) = read_head(stream).await?;
    let key = header(&head, "Sec-WebSocket-Key").ok_or_else(|| bad("no Sec-WebSocket-Key"))?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(rest)
}

/// Plays the client; returns the stream and what came behind the handshake.
pub async fn dial(address: &str) -> io::Result<(TcpStream, Vec<u8>)> {
    let url = url::Url::parse(address).map_err(|_| bad("not a URL"))?;
    let (Some(host), "ws") = (url.host_str(), url.scheme()) else {
        return Err(bad("only ws:// addresses can be dialled"));
    };
    let host = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
    let mut stream = TcpStream::connect(&host).await?;
    let query = url
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    let request = format!(
        "GET {}{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: c2lwYnJpZGdlIGxvYWQhIQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        url.path()
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = read_head(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 101") {
        return Err(bad(head.lines().next().unwrap_or_default()));
    }
    Ok((stream, rest))
}

/// Appends one frame. A client's frames carry a mask of zeros: the reader
/// pays for the unmasking all the same.
pub fn write_frame(out: &mut Vec<u8>, opcode: u8, client: bool, payload: &[u8]) {
    let mask = if client { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(mask | length as u8),
        length @ 126..=0xFFFF => {
            out.push(mask | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(mask | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if client {
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
}

/// A frame at the start of a buffer.
pub struct Frame {
    pub opcode: u8,
    /// Where the payload starts and where the frame ends.
    pub payload: std::ops::Range<usize>,
}

/// Finds the first whole frame from `start` on and unmasks it in place.
pub fn read_frame(buffer: &mut [u8], start: usize) -> Option<Frame> {
    let bytes = buffer.get(start..)?;
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, mut head) = match second & 0x7F {
        126 => (
            u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        mask = bytes.get(head..head + 4)?.try_into().ok()?;
        head += 4;
    }
    let from = start + head;
    let payload = from..from.checked_add(usize::try_from(length).ok()?)?;
    let bytes = buffer.get_mut(payload.clone())?;
    if mask != [0; 4] {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[i & 3];
        }
    }
    Some(Frame {
        opcode: first & 0x0F,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for client in [false, true] {
                let payload = vec![7; length];
                let mut bytes = vec![0xAA];
                write_frame(&mut bytes, TEXT, client, &payload);
                let whole = bytes.len();
                assert!(read_frame(&mut bytes[..whole - 1], 1).is_none() || length == 0);
                let frame = read_frame(&mut bytes, 1).unwrap();
                assert_eq!((frame.opcode, frame.payload.end), (TEXT, whole));
                assert_eq!(bytes[frame.payload], payload);
            }
        }
    }
}
