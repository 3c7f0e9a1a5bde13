//! Mutation: what a hostile or broken sender makes of a good message. Every
//! choice comes from the seeded random numbers, so that a seed repeats it.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::words::{HEADERS, NUMBERS, ODD_BYTES, SDP_FORMATS, SDP_LINES};

/// Longest input: a datagram holds no more.
const LONGEST: usize = 65_000;

/// A SIP message with one to four faults in it.
pub fn sip(random: &mut StdRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut message = seed.to_vec();
    for _ in 0..random.random_range(1..=4) {
        message = match random.random_range(0..10) {
            0..5 => in_headers(random, &message, other),
            5..8 => in_body(random, &message),
            _ => bytes(random, &message),
        };
        message.truncate(LONGEST);
    }
    message
}

/// A session description with one to five faults in it.
pub fn sdp(random: &mut StdRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut body = seed.to_vec();
    for _ in 0..random.random_range(1..=5) {
        body = match random.random_range(0..12) {
            0..10 => in_sdp_lines(random, &body, other),
            _ => bytes(random, &body),
        };
        body.truncate(LONGEST);
    }
    body
}

/// Faults that know nothing of the format.
pub fn bytes(random: &mut StdRng, input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    let at = below(random, out.len() + 1);
    match random.random_range(0..8) {
        0 if at < out.len() => out[at] ^= 1 << random.random_range(0..8),
        1 if at < out.len() => out[at] = *pick(random, ODD_BYTES),
        2 => out.insert(at, *pick(random, ODD_BYTES)),
        3 => out.truncate(at),
        4 => {
            let end = (at + below(random, 40)).min(out.len());
            out.drain(at..end);
        }
        5 => {
            let end = (at + 1 + below(random, 60)).min(out.len());
            let part = out[at..end].to_vec();
            let times = 1 + below(random, 40);
            out.splice(at..at, part.repeat(times));
        }
        6 => number(random, &mut out),
        _ => {
            let noise: Vec<u8> = (0..random.random_range(1..20))
                .map(|_| random.random())
                .collect();
            out.splice(at..at, noise);
        }
    }
    out
}

/// Puts an edge of a number range where a number is.
fn number(random: &mut StdRng, out: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..out.len())
        .filter(|&at| out[at].is_ascii_digit() && (at == 0 || !out[at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = *pick(random, &starts);
    let digits = out[start..].iter().take_while(|it| it.is_ascii_digit());
    let end = start + digits.count();
    out.splice(start..end, pick(random, NUMBERS).bytes());
}

/// Makes one token or value very long.
fn long_token(random: &mut StdRng, out: &mut Vec<u8>) {
    let at = below(random, out.len() + 1);
    let length = *pick(
        random,
        &[64, 255, 256, 257, 1_023, 1_024, 4_000, 9_000, 40_000],
    );
    let byte = *pick(random, b"aA0%;:.,-=\"");
    out.splice(at..at, vec![byte; length]);
}

fn in_headers(random: &mut StdRng, message: &[u8], other: &[u8]) -> Vec<u8> {
    let (mut lines, body) = split(message);
    let at = below(random, lines.len());
    let to = below(random, lines.len());
    match random.random_range(0..14) {
        0 => lines.swap(at, to),
        1 => lines.insert(to, lines[at].clone()),
        2 if lines.len() > 1 => drop(lines.remove(at)),
        3 => lines.insert(to, pick(random, HEADERS).as_bytes().to_vec()),
        4 => number(random, &mut lines[at]),
        5 => long_token(random, &mut lines[at]),
        6 => {
            let strange = split(other).0;
            lines[at].clone_from(pick(random, &strange));
        }
        7 => {
            let times = *pick(random, &[2, 5, 33, 65, 200]);
            let copies = vec![lines[at].clone(); times];
            lines.splice(to..to, copies);
        }
        8 => lines[at] = bytes(random, &lines[at]),
        9 => {
            // A folded line.
            let cut = below(random, lines[at].len() + 1);
            let folds = [b"\r\n ".as_slice(), b"\r\n\t", b"\n ", b"\r ", b"\t", b" "];
            let fold = *pick(random, &folds);
            lines[at].splice(cut..cut, fold.iter().copied());
        }
        10 => {
            let length = format!("Content-Length: {}", pick(random, NUMBERS));
            lines.retain(|line| !line.starts_with(b"Content-Length"));
            lines.push(length.into_bytes());
        }
        11 => {
            let (start, end) = (at.min(to), at.max(to));
            lines[start..end].reverse();
        }
        12 => {
            // A parameter of another header.
            let params = [
                "tag=",
                "lr",
                "branch=z9hG4bK",
                "rport=99999",
                "maddr=[::1]",
                "received=x",
                "ttl=-1",
                "expires=4294967296",
                "q=9.9",
                "transport=tls",
                "ob",
                "method=\"",
                "isfocus",
            ];
            lines[at].push(b';');
            lines[at].extend(pick(random, &params).bytes());
        }
        _ => lines[at].iter_mut().for_each(|byte| {
            *byte = match byte.is_ascii_uppercase() {
                true => byte.to_ascii_lowercase(),
                false => byte.to_ascii_uppercase(),
            }
        }),
    }
    joined(&lines, &body)
}

fn in_body(random: &mut StdRng, message: &[u8]) -> Vec<u8> {
    let (mut lines, mut body) = split(message);
    match random.random_range(0..8) {
        0..5 if !body.is_empty() => body = in_sdp_lines(random, &body, &body.clone()),
        5 => {
            let inner = multipart(random, &body, 0);
            lines.retain(|line| !line.starts_with(b"Content-Type"));
            lines.push(inner.0);
            body = inner.1;
        }
        6 => body.truncate(body.len() / 2),
        _ => body = bytes(random, &body),
    }
    joined(&lines, &body)
}

/// A body in a multipart body, one to some levels deep, now and then broken.
pub fn multipart(random: &mut StdRng, body: &[u8], depth: usize) -> (Vec<u8>, Vec<u8>) {
    let kinds = ["mixed", "alternative", "related", "MIXED", "x", ""];
    let boundary = pick(
        random,
        &[
            "b",
            "--",
            "",
            "\"b\"",
            "b b",
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        ],
    );
    let (kind, inner) = match depth < 30 && random.random_range(0..3) == 0 {
        true => multipart(random, body, depth + 1),
        false => (b"Content-Type: application/sdp".to_vec(), body.to_vec()),
    };
    let mut out = Vec::new();
    for _ in 0..*pick(random, &[0, 1, 1, 2, 2, 3, 60]) {
        if out.len() > 20_000 {
            break;
        }
        out.extend(format!("--{}\r\n", boundary.trim_matches('"')).bytes());
        out.extend(&kind);
        out.extend(*pick(
            random,
            &[b"\r\n\r\n".as_slice(), b"\r\n", b"\n\n", b""],
        ));
        out.extend(&inner);
        out.extend(*pick(random, &[b"\r\n".as_slice(), b"", b"\n"]));
    }
    if random.random_range(0..4) > 0 {
        out.extend(format!("--{}--\r\n", boundary.trim_matches('"')).bytes());
    }
    let kind = format!(
        "Content-Type: multipart/{};boundary={boundary}",
        pick(random, &kinds)
    );
    (kind.into_bytes(), out)
}

fn in_sdp_lines(random: &mut StdRng, body: &[u8], other: &[u8]) -> Vec<u8> {
    let mut lines = sdp_lines(body);
    let (at, to) = (below(random, lines.len()), below(random, lines.len()));
    let mut end: &[u8] = b"\r\n";
    match random.random_range(0..16) {
        0 => lines.swap(at, to),
        1 => lines.insert(to, lines[at].clone()),
        2 if lines.len() > 1 => drop(lines.remove(at)),
        3..6 => lines.insert(to, pick(random, SDP_LINES).as_bytes().to_vec()),
        6 => number(random, &mut lines[at]),
        7 => long_token(random, &mut lines[at]),
        8 => lines[at].clone_from(pick(random, &sdp_lines(other))),
        9..11 => formats(random, &mut lines),
        11 => {
            // The whole of a medium again and again.
            let media: Vec<usize> = starting(&lines, b"m=");
            if let Some(&first) = media.first() {
                let copies = *pick(random, &[1, 5, 6, 7, 16, 17, 40]);
                let section = lines[first..].to_vec();
                for _ in 0..copies.min(4_000 / section.len()) {
                    lines.extend(section.iter().cloned());
                }
            }
        }
        12 => lines.retain(|line| !line.starts_with(b"c=")),
        13 => {
            end = *pick(
                random,
                &[b"\n".as_slice(), b"\r", b"\r\n\r\n", b"\0", b" \r\n"],
            )
        }
        14 => lines[at] = bytes(random, &lines[at]),
        _ => {
            let media = starting(&lines, b"m=");
            if !media.is_empty() {
                let at = *pick(random, &media);
                let text = String::from_utf8_lossy(&lines[at]).into_owned();
                let mut words: Vec<&str> = text.split(' ').collect();
                if words.len() > 1 {
                    words[1] = *pick(
                        random,
                        &["0", "9", "00", "65535", "65536", "-1", "1/2", "0/0", ""],
                    );
                }
                lines[at] = words.join(" ").into_bytes();
            }
        }
    }
    let mut out = lines.join(end);
    out.extend(end);
    out
}

/// Other formats in a medium.
fn formats(random: &mut StdRng, lines: &mut [Vec<u8>]) {
    let media = starting(lines, b"m=");
    if media.is_empty() {
        return;
    }
    let at = *pick(random, &media);
    let text = String::from_utf8_lossy(&lines[at]).into_owned();
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for _ in 0..*pick(random, &[1, 1, 2, 5, 31, 32, 33, 70]) {
        let place = random.random_range(words.len().min(3)..=words.len());
        words.insert(place, (*pick(random, SDP_FORMATS)).to_owned());
    }
    if random.random_range(0..3) == 0 {
        words.truncate(random.random_range(0..=words.len()));
    }
    lines[at] = words.join(" ").into_bytes();
}

fn starting(lines: &[Vec<u8>], sign: &[u8]) -> Vec<usize> {
    let numbered = lines.iter().enumerate();
    let found = numbered.filter(|(_, line)| line.starts_with(sign));
    found.map(|(at, _)| at).collect()
}

/// Never empty.
fn sdp_lines(body: &[u8]) -> Vec<Vec<u8>> {
    let lines = body.split(|byte| *byte == b'\n');
    let mut lines: Vec<Vec<u8>> = lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
        .collect();
    if lines.len() > 1 && lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines
}

/// Start line and headers, never empty, and the body.
fn split(message: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let end = message.windows(4).position(|it| it == b"\r\n\r\n");
    let (head, body) = match end {
        Some(end) => (&message[..end], &message[end + 4..]),
        None => (message, &message[message.len()..]),
    };
    (sdp_lines(head), body.to_vec())
}

fn joined(lines: &[Vec<u8>], body: &[u8]) -> Vec<u8> {
    let mut out = lines.join(b"\r\n".as_slice());
    out.extend(b"\r\n\r\n");
    out.extend(body);
    out
}

/// A number below, or 0.
fn below(random: &mut StdRng, limit: usize) -> usize {
    random.random_range(0..limit.max(1))
}

/// One of some.
pub fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}
