//! The values of attributes and of `c=` lines. Each reader is total: what it
//! does not understand is `None`, never an error, for no call depends on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::description::{
    Address, Candidate, CandidateKind, Crypto, Encoding, Key, OpusParameters, Rtcp, SdpToken, Suite,
};
use crate::core::media_link::Direction;

/// Base64 of SRTP keys: some phones leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest key parameter that is looked at, in bytes.
const KEY_MAX_BYTES: usize = 128;
/// Bounds of an ICE password (RFC 8839 section 5.4), the upper one ours.
const ICE_PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 22..=64;

/// Name and value of an attribute.
pub fn split(attribute: &str) -> (&str, &str) {
    let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
    (name.trim(), value.trim())
}

/// `sendrecv` and its kin.
pub fn direction(name: &str) -> Option<Direction> {
    Some(match name {
        "sendrecv" => Direction::SendRecv,
        "sendonly" => Direction::SendOnly,
        "recvonly" => Direction::RecvOnly,
        "inactive" => Direction::Inactive,
        _ => return None,
    })
}

/// The value of a `c=` line: `IN IP4 192.0.2.1`, a TTL behind it is ignored.
pub fn connection(value: &str) -> Address {
    let mut words = value.split_ascii_whitespace();
    let (net, family, address) = (words.next(), words.next(), words.next());
    let (Some(net), Some(family), Some(address)) = (net, family, address) else {
        return Address::Missing;
    };
    if !net.eq_ignore_ascii_case("IN") {
        return Address::Missing;
    }
    let address = address.split('/').next().unwrap_or_default();
    address_of(family, address)
}

fn address_of(family: &str, address: &str) -> Address {
    let v4 = address.parse::<Ipv4Addr>();
    let v6 = address.parse::<Ipv6Addr>();
    if family.eq_ignore_ascii_case("IP4") && v6.is_err() {
        v4.map_or(Address::Name, |ip| Address::Ip(IpAddr::V4(ip)))
    } else if family.eq_ignore_ascii_case("IP6") && v4.is_err() {
        v6.map_or(Address::Name, |ip| Address::Ip(IpAddr::V6(ip)))
    } else {
        Address::Missing
    }
}

/// An RTP payload type, with leading zeros or without.
pub fn payload_type(word: &str) -> Option<u8> {
    number::<u8>(word).filter(|payload_type| *payload_type < 128)
}

/// A number of decimal digits and nothing else.
pub fn number<T: std::str::FromStr>(word: &str) -> Option<T> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| word.parse().ok()).flatten()
}

/// Payload type and rest of an `rtpmap` or `fmtp`.
pub fn of_payload_type(value: &str) -> Option<(u8, &str)> {
    let (first, rest) = value.split_once([' ', '\t'])?;
    Some((payload_type(first)?, rest.trim()))
}

/// What a payload type stands for, by its `rtpmap`, or its number alone.
pub fn encoding(payload_type: u8, rtpmap: Option<&str>, fmtp: Option<&str>) -> Option<Encoding> {
    let Some(rtpmap) = rtpmap else {
        return match payload_type {
            0 => Some(Encoding::Pcmu),
            8 => Some(Encoding::Pcma),
            _ => None,
        };
    };
    let mut parts = rtpmap.split('/').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let clock_hz: u32 = number(parts.next()?)?;
    let channels = parts.next().unwrap_or("1");
    match (name.as_str(), clock_hz, channels, payload_type) {
        ("pcmu", 8_000, "1", 0) => Some(Encoding::Pcmu),
        ("pcma", 8_000, "1", 8) => Some(Encoding::Pcma),
        ("opus", 48_000, _, 96..) => Some(Encoding::Opus(opus(fmtp.unwrap_or_default()))),
        ("telephone-event", 8_000 | 48_000, "1", 96..) => Some(Encoding::TelephoneEvent {
            clock_hz,
            last_event: fmtp.and_then(last_event),
        }),
        _ => None,
    }
}

/// The end of a range of events from 0: `0-15`, `0-11,16`.
fn last_event(fmtp: &str) -> Option<u8> {
    let range = fmtp.split([',', ';', ' ']).next()?;
    number(range.trim().strip_prefix("0-")?)
}

fn opus(fmtp: &str) -> OpusParameters {
    let mut parameters = OpusParameters::default();
    for pair in fmtp.split(';') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = number::<u32>(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "maxplaybackrate" => {
                parameters.maxplaybackrate_hz =
                    value.filter(|rate| (8_000..=48_000).contains(rate));
            }
            "maxaveragebitrate" => {
                parameters.maxaveragebitrate_bps =
                    value.filter(|rate| (6_000..=510_000).contains(rate));
            }
            "stereo" => parameters.stereo = value.map(|on| on != 0),
            "useinbandfec" => parameters.useinbandfec = value.map(|on| on != 0),
            _ => {}
        }
    }
    parameters
}

/// A packet length in milliseconds; fractions are cut.
pub fn packet_ms(value: &str) -> Option<u16> {
    let whole = value.split('.').next()?;
    number(whole.trim()).filter(|length| (1..=240).contains(length))
}

/// `a=rtcp:53020 IN IP6 2001:db8::1`, the address where there is one.
pub fn rtcp(value: &str) -> Option<Rtcp> {
    let (port, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    let port = number(port).filter(|port| *port != 0)?;
    let ip = match connection(rest) {
        Address::Ip(ip) if !ip.is_unspecified() && !ip.is_multicast() => Some(ip),
        _ => None,
    };
    Some(Rtcp { port, ip })
}

/// `a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:…|2^20`. A key with an MKI, or
/// with session parameters that change what is on the wire, is not spoken.
pub fn crypto(value: &str) -> Option<Crypto> {
    let mut words = value.split_ascii_whitespace();
    let tag = words.next()?;
    let suite = words.next()?;
    let (method, parameters) = words.next()?.split_once(':')?;
    let harmless = |word: &str| {
        let name = word.get(..4).unwrap_or_default();
        name.eq_ignore_ascii_case("WSH=")
    };
    let is_key = method.eq_ignore_ascii_case("inline") && parameters.len() <= KEY_MAX_BYTES;
    if !is_key || parameters.contains(';') || !words.all(harmless) {
        return None;
    }
    let suite = Suite::ALL
        .into_iter()
        .find(|own| own.as_str().eq_ignore_ascii_case(suite))?;
    let mut parts = parameters.split('|');
    let key = BASE64
        .decode(parts.next()?)
        .ok()
        .map(zeroize::Zeroizing::new)?;
    let has_mki = parts.any(|part| part.contains(':'));
    let fits = key.len() == suite.key_bytes() && tag.len() <= 9 && !has_mki;
    fits.then(|| number(tag).filter(|tag| *tag != 0))
        .flatten()
        .map(|tag| Crypto {
            tag,
            suite,
            key: Key::new(BASE64.encode(&*key)),
        })
}

/// An ICE password.
pub fn ice_password(value: &str) -> Option<Key> {
    let is_safe = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte));
    (is_safe && ICE_PASSWORD_BYTES.contains(&value.len())).then(|| Key::new(value.to_owned()))
}

/// A candidate over UDP with a numeric address; host names (mDNS) are left out.
pub fn candidate(value: &str) -> Option<Candidate> {
    let mut words = value.split_ascii_whitespace();
    let foundation = SdpToken::new(words.next()?)?;
    let component = number(words.next()?).filter(|component| matches!(component, 1 | 2))?;
    let over_udp = words.next()?.eq_ignore_ascii_case("udp");
    let priority = number(words.next()?)?;
    let ip: IpAddr = words.next()?.parse().ok()?;
    let port = number(words.next()?).filter(|port| *port != 0)?;
    let typ = words.next()?.eq_ignore_ascii_case("typ");
    let kind = words.next()?;
    let kind = CandidateKind::ALL
        .into_iter()
        .find(|own| own.as_str().eq_ignore_ascii_case(kind))?;
    let usable = over_udp && typ && !ip.is_unspecified() && !ip.is_multicast();
    let (mut raddr, mut rport) = (None, None);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        match name {
            "raddr" => raddr = value.parse::<IpAddr>().ok(),
            "rport" => rport = number::<u16>(value),
            _ => {}
        }
    }
    usable.then_some(Candidate {
        foundation,
        component,
        priority,
        ip,
        port,
        kind,
        related: raddr.zip(rport),
    })
}
