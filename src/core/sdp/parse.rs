//! Text to [`Description`], line by line. Lenient in what real trunks do wrong
//! (a missing `s=`, blank lines, blanks at ends, LF alone), strict in what is
//! used. Work and memory are linear in the text.

use super::attributes;
use super::description::{Address, Description};
use super::draft::Draft;
use super::{BODY_MAX_BYTES, MEDIA_MAX};

/// Why a text is no description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseProblem {
    /// Nothing but blanks.
    #[error("the session description is empty")]
    Empty,
    /// Longer than [`BODY_MAX_BYTES`].
    #[error("the session description is too long")]
    TooLong,
    /// It does not begin with `v=0`.
    #[error("the session description does not begin with v=0")]
    Version,
    /// A line is no `x=…`.
    #[error("line {0} of the session description cannot be read")]
    Line(usize),
    /// An `m=` line cannot be read.
    #[error("the m= line {0} of the session description cannot be read")]
    Media(usize),
    /// More `m=` lines than [`MEDIA_MAX`].
    #[error("the session description has more than {MEDIA_MAX} m= lines")]
    TooManyMedia,
}

/// What holds for every media line that does not say otherwise.
#[derive(Default)]
pub struct Session<'a> {
    description: Description,
    pub address: Option<Address>,
    pub direction: Option<crate::core::media_link::Direction>,
    pub ice_ufrag: Option<&'a str>,
    pub ice_password: Option<&'a str>,
}

/// Reads a description.
///
/// # Errors
/// What of it cannot be read, with the number of the line, from 1.
pub fn parse(text: &[u8]) -> Result<Description, ParseProblem> {
    if text.len() > BODY_MAX_BYTES {
        return Err(ParseProblem::TooLong);
    }
    let mut lines = lines(text);
    match lines.next() {
        None => return Err(ParseProblem::Empty),
        Some((_, line)) if line == b"v=0" => {}
        Some(_) => return Err(ParseProblem::Version),
    }
    let mut session = Session::default();
    let mut current: Option<Draft<'_>> = None;
    for (number, line) in lines {
        let (kind, value) = split(line).ok_or(ParseProblem::Line(number))?;
        if kind == b'm' {
            close(&mut session, current.take());
            if session.description.media.len() >= MEDIA_MAX {
                return Err(ParseProblem::TooManyMedia);
            }
            let draft = value.and_then(Draft::new);
            current = Some(draft.ok_or(ParseProblem::Media(number))?);
            continue;
        }
        // What is not text has no use here.
        let Some(value) = value else { continue };
        match (kind, &mut current) {
            (b'c', Some(draft)) => draft.connection(value),
            (b'a', Some(draft)) => draft.attribute(value),
            (_, Some(_)) => {}
            (b'c', None) => session.address = Some(attributes::connection(value)),
            (b'a', None) => session_attribute(&mut session, value),
            (b'o', None) => origin(&mut session.description, value),
            (_, None) => {}
        }
    }
    close(&mut session, current.take());
    Ok(session.description)
}

fn close(session: &mut Session<'_>, draft: Option<Draft<'_>>) {
    if let Some(draft) = draft {
        let media = draft.finish(session);
        session.description.media.push(media);
    }
}

/// The lines that are not blank, without blanks at their ends, by their number.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | 0);
    text.split(|byte| *byte == b'\n')
        .flat_map(|line| {
            // A lone CR ends a line too.
            let mut rest = line;
            while let Some((b'\r', before)) = rest.split_last() {
                rest = before;
            }
            rest.split(|byte| *byte == b'\r')
        })
        .zip(1..)
        .map(move |(line, number)| {
            let start = line.iter().position(|byte| !is_blank(byte));
            let end = line.iter().rposition(|byte| !is_blank(byte));
            let line = match (start, end) {
                (Some(start), Some(end)) => &line[start..=end],
                _ => &[],
            };
            (number, line)
        })
        .filter(|(_, line)| !line.is_empty())
}

/// Type and value of a line; no value where it is not text.
fn split(line: &[u8]) -> Option<(u8, Option<&str>)> {
    match line {
        [kind, b'=', value @ ..] if kind.is_ascii_lowercase() => {
            let value = std::str::from_utf8(value).ok();
            Some((*kind, value.map(str::trim)))
        }
        _ => None,
    }
}

fn session_attribute<'a>(session: &mut Session<'a>, attribute: &'a str) {
    let (name, value) = attributes::split(attribute);
    match name {
        "ice-ufrag" => session.ice_ufrag = session.ice_ufrag.or(Some(value)),
        "ice-pwd" => session.ice_password = session.ice_password.or(Some(value)),
        "ice-lite" => session.description.ice_lite = true,
        _ => session.direction = session.direction.or(attributes::direction(name)),
    }
}

/// `o=user id version …`: numbers of any length, of which 32 bits are kept.
fn origin(description: &mut Description, value: &str) {
    let mut numbers = value.split_ascii_whitespace().skip(1).map(low_32_bits);
    description.id = numbers.next().unwrap_or(0);
    description.version = numbers.next().unwrap_or(0);
}

fn low_32_bits(digits: &str) -> u32 {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    digits.bytes().fold(0_u32, |number, digit| {
        number
            .wrapping_mul(10)
            .wrapping_add(u32::from(digit - b'0'))
    })
}
