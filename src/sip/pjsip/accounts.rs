//! Lines as pjsua accounts. Run by the control thread.

use std::ffi::c_uint;

use super::ffi;
use super::shared::{Line, Shared};
use super::text::{self, Lent};
use crate::core::ids::LineId;
use crate::sip::engine::{Account, EngineConfig, EngineEvent, Registration, Transport};
use crate::sip::matching::line_token;
use crate::sip::uri::escape_user;

/// pjsua rewrites a Contact by registering the new one together with the
/// removal of the old, without a gap.
const CONTACT_REWRITE_NO_UNREG_ALWAYS: i32 = 2 | 4;

/// Adds a line, in place of one with the same id; tells why where it cannot.
pub fn add(shared: &Shared, config: &EngineConfig, account: &Account) -> Option<i32> {
    let replaced = take(shared, &account.line);
    match create(config, account) {
        Ok(id) => shared.change_lines(|lines| {
            lines.table.insert(
                account,
                Line {
                    account: id,
                    domain: account.domain.clone(),
                },
            );
            lines.by_account.insert(id, account.line.clone());
        }),
        Err(reason) => {
            let refused = EngineEvent::LineRefused {
                line: account.line.clone(),
                reason,
            };
            if !shared.announce(refused) {
                tracing::warn!(line = %account.line, "engine event queue is full, a refused line was not reported");
            }
        }
    }
    replaced
}

/// Takes a line out of what INVITEs are matched with; its account stays.
pub fn take(shared: &Shared, line: &LineId) -> Option<i32> {
    shared.change_lines(|lines| lines.table.remove(line).map(|line| line.account))
}

/// Deletes an account that no call uses any more; pjsua unregisters it.
pub fn delete(shared: &Shared, account: i32) {
    // SAFETY: pjsua checks the id.
    unsafe { ffi::pjsua_acc_del(account) };
    shared.change_lines(|lines| lines.by_account.remove(&account));
}

/// Sends REGISTER, with expiry 0 when `renew` is false.
pub fn register(shared: &Shared, line: &LineId, renew: bool) {
    let account = shared.with_lines(|lines| lines.table.data(line).map(|line| line.account));
    let Some(account) = account else {
        return;
    };
    let renew_flag = if renew { ffi::TRUE } else { ffi::FALSE };
    // SAFETY: pjsua checks the id.
    let status = unsafe { ffi::pjsua_acc_set_registration(account, renew_flag) };
    if status == ffi::PJ_SUCCESS {
        return;
    }
    let state = if renew {
        Registration::Failed {
            status: 503,
            text: text::status_text(status),
        }
    } else {
        // There was no registration to take back.
        Registration::Unregistered
    };
    if !shared.announce(EngineEvent::Registration {
        line: line.clone(),
        state,
    }) {
        tracing::warn!(%line, "engine event queue is full, a registration state was dropped");
    }
}

fn create(config: &EngineConfig, account: &Account) -> Result<i32, String> {
    if account.domain.is_empty() || account.domain.contains([' ', '<', '>', '"', ';', '@']) {
        return Err("its domain is no host name".into());
    }
    let mut lent = Lent::default();
    // SAFETY: plain C data; pjsua's defaults make its list heads point into
    // the box, which is not moved afterwards. Strings live until the account
    // is added, which copies them.
    let mut settings: Box<ffi::pjsua_acc_config> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: as above.
    unsafe { ffi::pjsua_acc_config_default(&raw mut *settings) };
    identity(&mut settings, &mut lent, account);
    registration(&mut settings, config, account);
    media(&mut settings, &mut lent, config);
    let mut id = -1;
    // SAFETY: see above; the id is an out-parameter.
    let status = unsafe { ffi::pjsua_acc_add(&raw const *settings, ffi::FALSE, &raw mut id) };
    if status == ffi::PJ_SUCCESS {
        Ok(id)
    } else {
        Err(text::status_text(status))
    }
}

fn identity(settings: &mut ffi::pjsua_acc_config, lent: &mut Lent, account: &Account) {
    let user = escape_user(&account.username);
    let domain = &account.domain;
    let transport = match account.transport {
        Transport::Udp => String::new(),
        other => format!(";transport={other}"),
    };
    settings.id = lent.lend(&format!("<sip:{user}@{domain}>"));
    if account.register {
        settings.reg_uri = lent.lend(&format!("sip:{domain}{transport}"));
    }
    // The outbound server gets everything, without a Route header that a
    // registrar might not like.
    let server = account.server.as_deref().unwrap_or(domain);
    settings.proxy_cnt = 1;
    settings.proxy[0] = lent.lend(&format!("<sip:{server}{transport};lr;hide>"));
    settings.reg_use_proxy = 2;
    settings.contact_uri_params = lent.lend(&format!(";line={}", line_token(&account.line)));
    if let Some(password) = &account.password {
        settings.cred_count = 1;
        let credentials = &mut settings.cred_info[0];
        credentials.realm = lent.lend("*");
        credentials.scheme = lent.lend("digest");
        credentials.username = lent.lend(&account.username);
        credentials.data_type = 0;
        credentials.data = lent.lend(password.expose());
    }
}

fn registration(settings: &mut ffi::pjsua_acc_config, config: &EngineConfig, account: &Account) {
    settings.register_on_acc_add = ffi::FALSE;
    settings.reg_timeout = c_uint::try_from(account.expires.as_secs().max(1)).unwrap_or(300);
    // Retries are the caller's business: it spreads them.
    settings.reg_retry_interval = 0;
    settings.reg_first_retry_interval = 0;
    settings.drop_calls_on_reg_fail = ffi::FALSE;
    settings.unreg_timeout = 2_000;
    // A public address that was given is not second-guessed.
    settings.allow_contact_rewrite = if config.public_address.is_some() {
        0
    } else {
        2
    };
    settings.contact_rewrite_method = CONTACT_REWRITE_NO_UNREG_ALWAYS;
    settings.use_rfc5626 = 0;
    settings.mwi_enabled = ffi::FALSE;
    settings.publish_enabled = ffi::FALSE;
}

fn media(settings: &mut ffi::pjsua_acc_config, lent: &mut Lent, config: &EngineConfig) {
    let (first, last) = config.rtp_ports;
    let rtp = &mut settings.rtp_cfg;
    rtp.port = c_uint::from(first);
    // RTP takes the even port, RTCP the one above.
    rtp.port_range = c_uint::from(last.saturating_sub(first).max(2) - 1);
    // Each account keeps a counter of its own; a random start keeps hundreds
    // of them from trying the same ports one after the other.
    rtp.randomize_port = ffi::TRUE;
    rtp.qos_type = ffi::PJ_QOS_TYPE_VOICE;
    if !config.bind.is_unspecified() {
        rtp.bound_addr = lent.lend(&config.bind.to_string());
    }
    if let Some(public) = config.public_address {
        rtp.public_addr = lent.lend(&public.to_string());
    }
    if config.bind.is_ipv6() {
        settings.ipv6_sip_use = ffi::PJSUA_IPV6_ENABLED;
        settings.ipv6_media_use = ffi::PJSUA_IPV6_ENABLED;
    }
    // SRTP by SDES where the caller offers it; plain RTP passes untouched.
    settings.use_srtp = ffi::PJMEDIA_SRTP_OPTIONAL;
    settings.srtp_secure_signaling = 0;
    settings.srtp_opt.keying_count = 1;
    settings.srtp_opt.keying[0] = ffi::PJMEDIA_SRTP_KEYING_SDES;
}
