//! Commands on legs, and what pjsua knows of them. Run by the control thread,
//! but for what says otherwise.

use std::ffi::c_uint;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::ffi;
use super::hangups;
use super::headers::retry_after_value;
use super::msg_data::with_headers;
use super::plain::{boxed, zeroed};
use super::shared::Shared;
use super::text::{self, PjStrings};
use crate::core::ids::LegId;
use crate::core::media_link::{Codec, Direction, MediaFormat, MediaLink, RtpSink};
use crate::core::private::Private;
use crate::sip::engine::{EndedBy, LegEnd, LegEvent};
use crate::sip::uri::escape_user;

/// pjsua's view of a call; `None` when it is gone. Any registered thread.
pub fn info(call: i32) -> Option<Box<ffi::pjsua_call_info>> {
    let mut info: Box<ffi::pjsua_call_info> = boxed();
    // SAFETY: pjsua checks the id, and fills the block for a live call.
    let status = unsafe { ffi::pjsua_call_get_info(call, &raw mut *info) };
    (status == ffi::PJ_SUCCESS).then_some(info)
}

fn call_of(leg: LegId) -> i32 {
    i32::try_from(leg.index).unwrap_or(-1)
}

/// One audio stream and nothing else. Its strings are empty.
pub fn audio_only() -> ffi::pjsua_call_setting {
    let mut setting: ffi::pjsua_call_setting = zeroed();
    // SAFETY: plain C data that pjsua fills with its defaults.
    unsafe { ffi::pjsua_call_setting_default(&raw mut setting) };
    setting.aud_cnt = 1;
    setting.vid_cnt = 0;
    #[cfg(pj_call_text)]
    {
        setting.txt_cnt = 0;
    }
    setting
}

/// Sends 180, 183 or 200.
pub fn answer(shared: &Shared, leg: LegId, status: u16) {
    if !shared.slots.is_alive(leg) {
        return;
    }
    let caller = shared.slots.caller(leg).filter(|caller| caller.is_known);
    if let (200..300, Some(caller)) = (status, caller) {
        let held = shared.access.note_unacknowledged(caller);
        shared.slots.note_unacknowledged(leg, Some(held));
    }
    let setting = audio_only();
    // SAFETY: the settings live during the call, which copies them.
    let sent = unsafe {
        ffi::pjsua_call_answer2(
            call_of(leg),
            &raw const setting,
            c_uint::from(status),
            ptr::null(),
            ptr::null(),
        )
    };
    if sent != ffi::PJ_SUCCESS && shared.slots.is_alive(leg) {
        let reason = format!(
            "answering with {status} failed: {}",
            text::status_text(sent)
        );
        finish(
            shared,
            leg,
            500,
            LegEnd {
                by: EndedBy::Failure,
                status: 500,
                reason,
            },
            None,
        );
    }
}

/// Ends a leg at our wish.
pub fn hang_up(shared: &Shared, leg: LegId, status: u16, retry_after: Option<Duration>) {
    let end = LegEnd {
        by: EndedBy::Local,
        status,
        reason: String::new(),
    };
    finish(shared, leg, status, end, retry_after);
}

/// Ends a call that has no leg.
pub fn end_without_leg(shared: &Shared, call: i32, status: u32) {
    // SAFETY: no message is given.
    unsafe { hangups::hang_up(shared, call, status, ptr::null()) };
}

/// Ends a leg that cannot go on. Some of the reasons are in the hands of the
/// other side, who may call again and again: none is an error by itself, and not
/// each is told. What is a fault of ours was told as one where it happened.
pub fn abort(shared: &Shared, leg: LegId, why: &'static str) {
    if shared.slots.is_alive(leg) {
        if let Some(calls) = shared.tell_seldom(why) {
            tracing::warn!(%leg, calls, why, "a call is ended by the bridge");
        }
        let end = LegEnd {
            by: EndedBy::Failure,
            status: 500,
            reason: why.into(),
        };
        finish(shared, leg, 500, end, None);
    }
}

/// BYE to an established call, else a final status to its INVITE, or a CANCEL
/// where the INVITE is ours. pjsua calls
/// on_call_state from within, which ends the leg; where it does not, it is
/// ended here, so that no driver waits for ever.
fn finish(shared: &Shared, leg: LegId, status: u16, end: LegEnd, retry_after: Option<Duration>) {
    if !shared.slots.is_alive(leg) {
        return;
    }
    shared.slots.note_ending(leg, end.clone());
    let (call, status) = (call_of(leg), c_uint::from(status));
    let hang_up = |message: *const ffi::pjsua_msg_data| {
        // SAFETY: null, or a message that lives during the call, which copies it.
        unsafe { hangups::hang_up(shared, call, status, message) };
    };
    let after = retry_after.map(retry_after_value);
    let headers = after.iter().map(|after| ("Retry-After", after.as_str()));
    // A call is ended also where there is no memory to say more.
    if after.is_none() || with_headers(None, headers, hang_up).is_none() {
        hang_up(ptr::null());
    }
    shared.slots.end(leg, Some(end));
}

/// Blind transfer by REFER.
pub fn transfer(shared: &Shared, leg: LegId, destination: &Private) {
    let Some(line) = shared.slots.line(leg) else {
        return;
    };
    let account = info(call_of(leg)).map_or(-1, |info| info.acc_id);
    let domain = shared.with_lines(|lines| lines.domains.get(&account).cloned());
    let mut lent = PjStrings::default();
    let uri = lent.lend(&target(
        destination.expose(),
        domain.as_deref().unwrap_or_default(),
    ));
    shared.slots.begin_transfer(leg);
    // SAFETY: the URI lives during the call and is copied by pjsua.
    let sent = unsafe { ffi::pjsua_call_xfer(call_of(leg), &raw const uri, ptr::null()) };
    if sent != ffi::PJ_SUCCESS {
        tracing::warn!(%leg, %line, reason = text::status_text(sent), "a transfer could not be sent");
        end_transfer(shared, leg, 500);
    }
}

/// Asks the other side by a re-INVITE to send nothing, or to send again.
pub fn hold(shared: &Shared, leg: LegId, on: bool) {
    if !shared.slots.is_alive(leg) {
        return;
    }
    shared.slots.begin_hold(leg);
    let call = call_of(leg);
    let sent = if on {
        // SAFETY: pjsua checks the id and the state of the call; no message data.
        unsafe { ffi::pjsua_call_set_hold(call, ptr::null()) }
    } else {
        // SAFETY: as above.
        unsafe { ffi::pjsua_call_reinvite(call, ffi::PJSUA_CALL_UNHOLD, ptr::null()) }
    };
    if sent != ffi::PJ_SUCCESS {
        tracing::warn!(%leg, on, reason = text::status_text(sent), "a re-INVITE could not be sent");
        end_hold(shared, leg, 500);
    }
}

/// Tells the answer to a re-INVITE for hold or resume, once.
pub fn end_hold(shared: &Shared, leg: LegId, status: u16) {
    if shared.slots.end_hold(leg) {
        shared.emit(leg, LegEvent::Held { status });
    }
}

/// Tells a transfer's last status, once.
pub fn end_transfer(shared: &Shared, leg: LegId, status: u16) {
    if shared.slots.end_transfer(leg) {
        shared.emit(leg, LegEvent::Transfer { status, last: true });
    }
}

/// The URI to transfer to or to call: a URI as it is, a number at the line's
/// domain.
pub fn target(destination: &str, domain: &str) -> String {
    let is_uri = ["sip:", "sips:", "tel:"].iter().any(|scheme| {
        destination
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    if is_uri {
        format!("<{}>", destination.replace(['<', '>', '\r', '\n'], ""))
    } else {
        format!("<sip:{}@{domain}>", escape_user(destination.trim()))
    }
}

/// Tells a leg's driver what was negotiated. Called from pjsua's callback.
pub fn tell_media(shared: &Shared, leg: LegId, call: i32) {
    let Some(info) = info(call) else {
        return;
    };
    let count = usize::try_from(info.media_cnt).unwrap_or(0);
    let audio = info.media.iter().take(count).find(|media| {
        media.type_ == ffi::PJMEDIA_TYPE_AUDIO && media.status != ffi::PJSUA_CALL_MEDIA_NONE
    });
    let known = shared.slots.format(leg, None);
    let held = |direction| {
        known.map(|format| MediaFormat {
            direction,
            ..format
        })
    };
    let format = match audio {
        Some(audio) if audio.status == ffi::PJSUA_CALL_MEDIA_ERROR => None,
        Some(audio) => {
            let direction = direction(audio.dir);
            // A stream on hold may have no socket behind it: what was stays.
            stream_format(call, audio.index, direction)
                .or_else(|| held(direction))
                .or_else(|| (direction == Direction::Inactive).then_some(SILENT))
        }
        // Audio taken out by a re-INVITE (port 0) is a hold: it may come back.
        None => held(Direction::Inactive),
    };
    let Some(format) = format else {
        return shared.abort(leg, "its audio could not be set up");
    };
    shared.slots.format(leg, Some(format));
    if let Some(gate) = shared.slots.gate(leg) {
        let sink: Arc<dyn RtpSink> = gate;
        shared.emit(leg, LegEvent::Media(MediaLink { format, sink }));
    }
}

/// What is told of a call that begins on hold (third party call control, RFC
/// 3725): no packet passes until a re-INVITE brings the true format.
const SILENT: MediaFormat = MediaFormat {
    codec: Codec::Pcmu,
    send_payload_type: 0,
    receive_payload_type: 0,
    send_event_type: None,
    receive_event_type: None,
    ssrc: 0,
    direction: Direction::Inactive,
};

fn stream_format(call: i32, media: c_uint, direction: Direction) -> Option<MediaFormat> {
    let mut info: Box<ffi::pjsua_stream_info> = boxed();
    // SAFETY: pjsua checks call and index, and fills the block.
    let status = unsafe { ffi::pjsua_call_get_stream_info(call, media, &raw mut *info) };
    if status != ffi::PJ_SUCCESS || info.type_ != ffi::PJMEDIA_TYPE_AUDIO {
        return None;
    }
    // SAFETY: the type says that this member of the union is filled.
    let audio = unsafe { &info.info.aud };
    // SAFETY: the name lies in pjsua's description of the stream, or is static.
    let name = unsafe { text::to_string(&audio.fmt.encoding_name) };
    let codec = match name.to_ascii_uppercase().as_str() {
        "PCMU" => Codec::Pcmu,
        "PCMA" => Codec::Pcma,
        "OPUS" => Codec::Opus,
        _ => return None,
    };
    Some(MediaFormat {
        codec,
        send_payload_type: u8::try_from(audio.tx_pt).ok()?,
        receive_payload_type: u8::try_from(audio.rx_pt).ok()?,
        send_event_type: u8::try_from(audio.tx_event_pt).ok(),
        receive_event_type: u8::try_from(audio.rx_event_pt).ok(),
        ssrc: audio.ssrc,
        direction,
    })
}

fn direction(bits: ffi::pjmedia_dir) -> Direction {
    let sends = bits & ffi::PJMEDIA_DIR_ENCODING != 0;
    let receives = bits & ffi::PJMEDIA_DIR_DECODING != 0;
    match (sends, receives) {
        (true, true) => Direction::SendRecv,
        (true, false) => Direction::SendOnly,
        (false, true) => Direction::RecvOnly,
        (false, false) => Direction::Inactive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_goes_to_a_uri_as_it_is_and_to_a_number_at_the_domain() {
        assert_eq!(target("+33 1", "d.example"), "<sip:+33%201@d.example>");
        assert_eq!(target("SIP:a@b;x=1", "d"), "<SIP:a@b;x=1>");
        assert_eq!(target("tel:+331>\r\n", "d"), "<tel:+331>");
        assert_eq!(target("é", "d"), "<sip:%C3%A9@d>");
    }

    #[test]
    fn directions_are_seen_from_our_side() {
        assert_eq!(
            direction(ffi::PJMEDIA_DIR_ENCODING_DECODING),
            Direction::SendRecv
        );
        assert_eq!(direction(ffi::PJMEDIA_DIR_ENCODING), Direction::SendOnly);
        assert_eq!(direction(ffi::PJMEDIA_DIR_DECODING), Direction::RecvOnly);
        assert_eq!(direction(ffi::PJMEDIA_DIR_NONE), Direction::Inactive);
    }
}
