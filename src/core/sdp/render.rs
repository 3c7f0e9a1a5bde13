//! A minimal text of a description, as the SIP library gets it: every line in
//! a fixed order, numbers in their shortest form, one `c=` for each medium.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::description::{
    Address, Audio, Candidate, Declined, Description, Encoding, Format, Ice, Media, OpusParameters,
    Rtcp,
};
use crate::core::media_link::Direction;

/// Writes a description.
#[must_use]
pub fn render(description: &Description) -> String {
    let mut text = String::with_capacity(512);
    // Writing to a String does not fail.
    let _ = write(&mut text, description);
    text
}

type Written = std::fmt::Result;

fn write(text: &mut String, description: &Description) -> Written {
    let (id, version) = (description.id, description.version);
    write!(
        text,
        "v=0\r\no=- {id} {version} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
    )?;
    if description.ice_lite {
        text.push_str("a=ice-lite\r\n");
    }
    for media in &description.media {
        match media {
            Media::Audio(audio) => write_audio(text, audio)?,
            Media::Declined(declined) => write_declined(text, declined)?,
        }
    }
    Ok(())
}

fn write_declined(text: &mut String, declined: &Declined) -> Written {
    let (kind, transport) = (declined.kind.as_str(), declined.transport.as_str());
    let format = declined.format.as_str();
    write!(text, "m={kind} 0 {transport} {format}\r\n")?;
    write_connection(text, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn write_audio(text: &mut String, audio: &Audio) -> Written {
    write!(text, "m=audio {} {}", audio.port, audio.transport.as_str())?;
    for format in &audio.formats {
        write!(text, " {}", format.payload_type)?;
    }
    if audio.formats.is_empty() {
        write!(text, " {}", audio.first_format.as_str())?;
    }
    text.push_str("\r\n");
    let ip = match audio.address {
        Address::Ip(ip) => ip,
        Address::Name | Address::Missing => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    write_connection(text, ip)?;
    for format in &audio.formats {
        write_format(text, format)?;
    }
    if let Some(length) = audio.ptime_ms {
        write!(text, "a=ptime:{length}\r\n")?;
    }
    if let Some(length) = audio.maxptime_ms {
        write!(text, "a=maxptime:{length}\r\n")?;
    }
    if let Some(rtcp) = audio.rtcp {
        write_rtcp(text, rtcp)?;
    }
    if audio.rtcp_mux {
        text.push_str("a=rtcp-mux\r\n");
    }
    for crypto in &audio.cryptos {
        let (tag, suite) = (crypto.tag, crypto.suite.as_str());
        write!(
            text,
            "a=crypto:{tag} {suite} inline:{}\r\n",
            crypto.key.expose()
        )?;
    }
    if let Some(ice) = &audio.ice {
        write_ice(text, ice)?;
    }
    let direction = match audio.direction {
        Direction::SendRecv => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::Inactive => "inactive",
    };
    write!(text, "a={direction}\r\n")
}

const fn family(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IP4",
        IpAddr::V6(_) => "IP6",
    }
}

fn write_connection(text: &mut String, ip: IpAddr) -> Written {
    write!(text, "c=IN {} {ip}\r\n", family(ip))
}

fn write_rtcp(text: &mut String, rtcp: Rtcp) -> Written {
    write!(text, "a=rtcp:{}", rtcp.port)?;
    if let Some(ip) = rtcp.ip {
        write!(text, " IN {} {ip}", family(ip))?;
    }
    text.push_str("\r\n");
    Ok(())
}

fn write_format(text: &mut String, format: &Format) -> Written {
    let payload_type = format.payload_type;
    let name = match format.encoding {
        Encoding::Pcmu => "PCMU/8000",
        Encoding::Pcma => "PCMA/8000",
        Encoding::Opus(_) => "opus/48000/2",
        Encoding::TelephoneEvent { clock_hz, .. } => {
            write!(
                text,
                "a=rtpmap:{payload_type} telephone-event/{clock_hz}\r\n"
            )?;
            return write_events(text, format);
        }
    };
    write!(text, "a=rtpmap:{payload_type} {name}\r\n")?;
    match format.encoding {
        Encoding::Opus(parameters) => write_opus(text, payload_type, parameters),
        _ => Ok(()),
    }
}

fn write_events(text: &mut String, format: &Format) -> Written {
    match format.encoding {
        Encoding::TelephoneEvent {
            last_event: Some(last),
            ..
        } => write!(text, "a=fmtp:{} 0-{last}\r\n", format.payload_type),
        _ => Ok(()),
    }
}

fn write_opus(text: &mut String, payload_type: u8, parameters: OpusParameters) -> Written {
    let values = [
        ("maxplaybackrate", parameters.maxplaybackrate_hz),
        ("maxaveragebitrate", parameters.maxaveragebitrate_bps),
        ("stereo", parameters.stereo.map(u32::from)),
        ("useinbandfec", parameters.useinbandfec.map(u32::from)),
    ];
    let mut before = format!("a=fmtp:{payload_type} ");
    for (name, value) in values {
        if let Some(value) = value {
            write!(text, "{before}{name}={value}")?;
            before = ";".to_owned();
        }
    }
    if before == ";" {
        text.push_str("\r\n");
    }
    Ok(())
}

fn write_ice(text: &mut String, ice: &Ice) -> Written {
    write!(text, "a=ice-ufrag:{}\r\n", ice.ufrag.as_str())?;
    write!(text, "a=ice-pwd:{}\r\n", ice.password.expose())?;
    for candidate in &ice.candidates {
        write_candidate(text, candidate)?;
    }
    Ok(())
}

fn write_candidate(text: &mut String, candidate: &Candidate) -> Written {
    write!(
        text,
        "a=candidate:{} {} UDP {} {} {} typ {}",
        candidate.foundation.as_str(),
        candidate.component,
        candidate.priority,
        candidate.ip,
        candidate.port,
        candidate.kind.as_str()
    )?;
    if let Some((ip, port)) = candidate.related {
        write!(text, " raddr {ip} rport {port}")?;
    }
    text.push_str("\r\n");
    Ok(())
}
