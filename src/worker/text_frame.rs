//! One text message as a frame of a WebSocket (RFC 6455, 5.2).

use rand::RngExt;
use tokio_tungstenite::tungstenite::protocol::Role;

/// FIN and the opcode of text.
const TEXT_FRAME: u8 = 0x81;
const MASKED: u8 = 0x80;

/// Appends one text frame; a client's is masked.
pub(super) fn put_frame(frame: &mut Vec<u8>, text: &[u8], role: Role) {
    let mask = if role == Role::Client { MASKED } else { 0 };
    frame.push(TEXT_FRAME);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ ..=125), _) => frame.push(mask | length),
        (_, Ok(length)) => {
            frame.push(mask | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    if role == Role::Server {
        return frame.extend_from_slice(text);
    }
    let key: [u8; 4] = rand::rng().random();
    frame.extend_from_slice(&key);
    let masked = text
        .iter()
        .zip(key.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    frame.extend(masked);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::WebSocket;

    proptest! {
        /// The library reads back what the direct writer writes, in either role.
        #[test]
        fn frames_are_those_of_the_rfc(text in ".{0,300}", repeat in 1_usize..400, server: bool) {
            let text = text.repeat(repeat);
            let (ours, theirs) = if server { (Role::Server, Role::Client) } else { (Role::Client, Role::Server) };
            let mut frame = Vec::new();
            put_frame(&mut frame, text.as_bytes(), ours);
            let mut reader = WebSocket::from_raw_socket(std::io::Cursor::new(frame), theirs, None);
            let message = reader.read().unwrap();
            prop_assert_eq!(message.into_text().unwrap().as_str().to_owned(), text);
        }
    }
}
