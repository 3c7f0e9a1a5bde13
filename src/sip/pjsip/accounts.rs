//! Lines as pjsua accounts. Run by the control thread.

use std::collections::HashSet;
use std::ffi::c_uint;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::calls;
use super::ffi;
use super::plain::{boxed, zeroed};
use super::registering;
use super::shared::{Binding, EngineLine, Lines, Shared, shared};
use super::text::{self, PjStrings};
use crate::core::access::Cidr;
use crate::core::ids::LineId;
use crate::core::registration_wish::Wish;
use crate::dns::{Target, Watched};
use crate::sip::engine::{Account, EngineConfig, EngineEvent, Transport};
use crate::sip::uri::escape_user;

/// pjsua rewrites a Contact by registering the new one together with the
/// removal of the old, without a gap.
const CONTACT_REWRITE_NO_UNREG_ALWAYS: i32 = 2 | 4;

/// How long a removed account waits for the answer to its last REGISTER:
/// longer than SIP itself does (64 * T1, RFC 3261 timer F).
const UNREGISTER_MAX: Duration = Duration::from_secs(40);
/// How long pjsua may wait for the answer to the BYE of a call that is over
/// for us (64 * T1, RFC 3261 timer F). It reads the account until then.
const LAST_BYE_MAX: Duration = Duration::from_secs(33);
/// Between two un-REGISTERs when the engine ends: 100 a second.
const UNREGISTER_EVERY: Duration = Duration::from_millis(10);
/// pjlib's "too many objects": no account is free.
const PJ_ETOOMANY: ffi::pj_status_t = 70_010;

/// pjlib's "not enough memory".
const PJ_ENOMEM: ffi::pj_status_t = 70_007;

/// An account whose line is gone. Calls and an answer to REGISTER may still
/// need it.
pub struct ClosingAccount {
    line: LineId,
    account: i32,
    binding: Binding,
    since: Instant,
    /// When it last had a call, or may have had one.
    called_at: Instant,
    /// The line's new account announces the same Contact: where both addresses
    /// lead to one registrar, the un-REGISTER may have taken that away.
    renews: bool,
}

/// Adds a line, in place of one with the same id. Calls of the line go on.
/// Accounts that nobody asks for any more are in `closing`.
///
/// # Errors
/// Says why the line cannot be added; the one of the same id is gone then.
pub fn add(
    shared: &Shared,
    config: &EngineConfig,
    account: &Account,
    closing: &mut Vec<ClosingAccount>,
) -> Result<(), String> {
    let binding = Binding::of(account);
    let held = shared.with_lines(|lines| {
        let line = lines.table.data(&account.line)?;
        Some((line.account, line.binding.can_become(&binding)))
    });
    let made = match held {
        // A last REGISTER of the old account could reach the registrar after
        // the first one of a new account, and take away what both announce.
        Some((id, true)) => {
            // pjsua may forget a REGISTER that is under way.
            shared.wishes.forget(id);
            modify(id, config, account)
        }
        _ => {
            closing.extend(retire(shared, &account.line));
            create(config, account).or_else(|status| {
                let full = status == PJ_ETOOMANY && make_room(shared, closing);
                let again = full.then(|| create(config, account));
                again.unwrap_or(Err(status))
            })
        }
    };
    if made.is_ok() && account.register {
        renew_after_farewells(shared, &account.line, &binding, closing);
    }
    if let (Ok(id), false) = (&made, matches!(held, Some((_, true)))) {
        let located = server(config, account);
        let token = shared.with_lines(|lines| lines.table.token(&account.line));
        shared.policies.enrol(*id, account, token, located);
    }
    let known = shared.access.permit(networks_of(account));
    let id = made.map_err(|status| {
        closing.extend(retire(shared, &account.line));
        text::status_text(status)
    })?;
    shared.change_lines(|lines| {
        let line = EngineLine {
            account: id,
            domain: account.domain.clone(),
            secure: account.transport == Transport::Tls,
            binding,
            server: server(config, account),
            _known: known,
        };
        lines.table.insert(account, line);
        lines.by_account.insert(id, account.line.clone());
        lines.domains.insert(id, account.domain.clone());
    });
    Ok(())
}

/// Networks from which the server of a line calls, as far as they are known
/// without a look-up.
fn networks_of(account: &Account) -> Vec<Cidr> {
    let target = Target::parse(server_of(account), account.transport).ok();
    let numeric = target.and_then(|target| target.numeric());
    let numeric = numeric.map(|address| Cidr::host(address.ip()));
    let given = account.allow_from.iter().copied();
    given.chain(numeric).collect()
}

fn server_of(account: &Account) -> &str {
    account.server.as_deref().unwrap_or(&account.domain)
}

/// Has the server of a line located from now on.
fn server(config: &EngineConfig, account: &Account) -> Option<Watched> {
    let target = Target::parse(server_of(account), account.transport).ok()?;
    Some(config.servers.watch(&target))
}

/// Farewells of the line that were not answered yet, or even sent, may take away
/// the Contact of its new account where they have the same.
fn renew_after_farewells(
    shared: &Shared,
    line: &LineId,
    binding: &Binding,
    closing: &mut [ClosingAccount],
) {
    let has_said_farewell =
        |account| shared.with_lines(|lines| !lines.by_account.contains_key(&account));
    for old in closing.iter_mut().filter(|old| old.line == *line) {
        old.renews |= old.binding.has_contact_of(binding) && !has_said_farewell(old.account);
    }
}

/// Tells that a line cannot be added, and counts it.
pub fn refuse(shared: &Shared, line: LineId, reason: String, retry_in: Duration) {
    let refusals = &shared.counters.lines_refused;
    refusals.fetch_add(1, Ordering::Relaxed);
    let event = EngineEvent::LineRefused {
        line,
        reason,
        retry_in,
    };
    report(shared, event);
}

/// Unregisters a line and takes it out of what INVITEs are matched with.
pub fn retire(shared: &Shared, line: &LineId) -> Option<ClosingAccount> {
    let held = |lines: &Lines| {
        let line = lines.table.data(line)?;
        Some((line.account, line.binding.clone()))
    };
    let (account, binding) = shared.with_lines(held)?;
    let sent = registering::request(shared, account, Wish::Unregister);
    shared.change_lines(|lines| {
        lines.table.remove(line);
        if sent.is_err() {
            lines.by_account.remove(&account);
        }
    });
    let line = line.clone();
    Some(ClosingAccount {
        line,
        account,
        binding,
        since: Instant::now(),
        called_at: Instant::now(),
        renews: false,
    })
}

/// Deletes a retired account that nobody needs any more; `false` while
/// somebody does. `busy` are the lines that have calls.
pub fn delete_unneeded(
    shared: &Shared,
    closing: &mut ClosingAccount,
    busy: &HashSet<LineId>,
) -> bool {
    let answered = shared.with_lines(|lines| !lines.by_account.contains_key(&closing.account));
    let waited = answered || closing.since.elapsed() > UNREGISTER_MAX;
    if waited && std::mem::take(&mut closing.renews) {
        register(shared, &closing.line, Wish::Register);
    }
    if busy.contains(&closing.line) {
        closing.called_at = Instant::now();
    }
    waited && closing.called_at.elapsed() >= LAST_BYE_MAX && delete(shared, closing)
}

/// Deletes the retired account that has waited longest for an answer, and that
/// pjsua has no call of; whether there was one.
fn make_room(shared: &Shared, closing: &mut Vec<ClosingAccount>) -> bool {
    let mut calls = [-1; ffi::SIPBRIDGE_MAX_CALLS as usize];
    let mut count = ffi::SIPBRIDGE_MAX_CALLS;
    // SAFETY: pjsua writes at most as many ids as there is room for.
    let listed = unsafe { ffi::pjsua_enum_calls(calls.as_mut_ptr(), &raw mut count) };
    if listed != ffi::PJ_SUCCESS {
        return false;
    }
    let calls = calls.iter().take(usize::try_from(count).unwrap_or(0));
    let accounts = calls.filter_map(|call| Some(calls::info(*call)?.acc_id));
    let busy: HashSet<i32> = accounts.collect();
    let found = closing
        .iter()
        .position(|closing| !busy.contains(&closing.account));
    found.is_some_and(|index| delete(shared, &closing.remove(index)))
}

fn delete(shared: &Shared, closing: &ClosingAccount) -> bool {
    // SAFETY: pjsua checks the id.
    unsafe { ffi::pjsua_acc_del(closing.account) };
    shared.policies.forget(closing.account);
    shared.wishes.forget(closing.account);
    shared.change_lines(|lines| {
        lines.by_account.remove(&closing.account);
        lines.domains.remove(&closing.account);
    });
    true
}

/// Sends REGISTER, with expiry 0 to unregister, or keeps it until the one that is
/// under way is answered.
pub fn register(shared: &Shared, line: &LineId, wish: Wish) {
    let Some(account) = account_of(shared, line) else {
        return;
    };
    if let Err(status) = registering::request(shared, account, wish) {
        let (line, state) = (line.clone(), registering::unsent(wish, status));
        report(shared, EngineEvent::Registration { line, state });
    }
}

fn account_of(shared: &Shared, line: &LineId) -> Option<i32> {
    shared.with_lines(|lines| lines.table.data(line).map(|line| line.account))
}

/// Unregisters every line that is left, no faster than a registrar is asked
/// otherwise, and waits for the answers; both until `deadline`. Returns how many
/// were not asked.
pub fn unregister_all(shared: &Shared, deadline: Instant) -> usize {
    let accounts = |lines: &Lines| lines.table.iter().map(|(_, line)| line.account).collect();
    let accounts: Vec<i32> = shared.with_lines(accounts);
    let mut left = accounts.into_iter().filter(|id| is_registered(shared, *id));
    while Instant::now() < deadline {
        let Some(account) = left.next() else {
            break;
        };
        // Refused: there is nothing to take back.
        let _ = registering::request(shared, account, Wish::Unregister);
        std::thread::sleep(UNREGISTER_EVERY);
    }
    while Instant::now() < deadline && shared.wishes.open() > 0 {
        registering::go_on_all(shared);
        std::thread::sleep(UNREGISTER_EVERY);
    }
    left.count()
}

/// Whether pjsua holds a registration of an account, or one is under way.
fn is_registered(shared: &Shared, account: i32) -> bool {
    if shared.wishes.is_open(account) {
        return true;
    }
    let mut info: ffi::pjsua_acc_info = zeroed();
    // SAFETY: plain C data that pjsua fills; it checks the id.
    let status = unsafe { ffi::pjsua_acc_get_info(account, &raw mut info) };
    status == ffi::PJ_SUCCESS
        && info.has_registration != ffi::FALSE
        && info.expires > 0
        && info.expires != c_uint::MAX
}

fn report(shared: &Shared, event: EngineEvent) {
    if !shared.announce(event) && shared.has_listener() {
        tracing::warn!("engine event queue is full, the state of a line was not reported");
    }
}

/// Whether a line can be made an account at all.
pub fn check(account: &Account) -> Result<(), String> {
    if account.domain.is_empty() || account.domain.contains([' ', '<', '>', '"', ';', '@']) {
        return Err("its domain is no host name".into());
    }
    Ok(())
}

type Settings = Box<ffi::pjsua_acc_config>;

fn create(config: &EngineConfig, account: &Account) -> Result<i32, ffi::pj_status_t> {
    with_settings(config, account, |settings| {
        let mut id = -1;
        // SAFETY: the settings are whole; the id is an out-parameter.
        match unsafe { ffi::pjsua_acc_add(&raw const **settings, ffi::FALSE, &raw mut id) } {
            ffi::PJ_SUCCESS => Ok(id),
            status => Err(status),
        }
    })
}

/// Gives an account another password. The registration is forgotten without a
/// word to the registrar if that is a change; the next REGISTER renews it.
fn modify(id: i32, config: &EngineConfig, account: &Account) -> Result<i32, ffi::pj_status_t> {
    with_settings(config, account, |settings| {
        settings.disable_reg_on_modify = ffi::TRUE;
        // SAFETY: pjsua checks the id; the settings are whole.
        match unsafe { ffi::pjsua_acc_modify(id, &raw const **settings) } {
            ffi::PJ_SUCCESS => Ok(id),
            status => Err(status),
        }
    })
}

/// Has pjsua end the registration of an account without a word to the registrar, and
/// the packets that keep the way through a NAT open. The account stays as it is, and may
/// register again. Costs a few hundred bytes of the account's memory.
///
/// # Errors
/// With pjsip's status; the registration is kept then.
pub fn forget_registration(account: i32) -> Result<(), ffi::pj_status_t> {
    let name = c"forget".as_ptr();
    // SAFETY: pjsua is there while its control thread runs; null where there is no
    // memory.
    let pool = unsafe { ffi::pjsua_pool_create(name, 4_096, 1_024) };
    if pool.is_null() {
        return Err(PJ_ENOMEM);
    }
    let mut settings: Settings = boxed();
    // SAFETY: pjsua checks the id, and fills the settings with copies in the pool.
    // Nobody else changes an account. Lists in it point into the box, which is not moved.
    let status = unsafe { ffi::pjsua_acc_get_config(account, pool, &raw mut *settings) };
    let ended = match status {
        ffi::PJ_SUCCESS => end_registration(account, &mut settings),
        status => Err(status),
    };
    for credentials in settings.cred_info.iter().take(settings.cred_count as usize) {
        // SAFETY: the password in the pool, of which nobody else knows.
        unsafe { text::wipe(&credentials.data) };
    }
    // SAFETY: made above, and what lives in it is not used any more.
    unsafe { ffi::pj_pool_release(pool) };
    ended
}

/// pjsua ends a registration when what it registers by is changed: here to what amounts
/// to the same, and back.
fn end_registration(
    account: i32,
    settings: &mut ffi::pjsua_acc_config,
) -> Result<(), ffi::pj_status_t> {
    let (proxy, keep_alive) = (settings.reg_use_proxy, settings.ka_interval);
    settings.disable_reg_on_modify = ffi::TRUE;
    // Whether REGISTER uses pjsua's own outbound servers: there are none.
    settings.reg_use_proxy = proxy ^ 1;
    settings.ka_interval = 0;
    // SAFETY: pjsua checks the id; the settings are whole.
    let ended = unsafe { ffi::pjsua_acc_modify(account, &raw const *settings) };
    settings.reg_use_proxy = proxy;
    settings.ka_interval = keep_alive;
    // SAFETY: as above.
    let restored = unsafe { ffi::pjsua_acc_modify(account, &raw const *settings) };
    let failed = [ended, restored]
        .into_iter()
        .find(|status| *status != ffi::PJ_SUCCESS);
    failed.map_or(Ok(()), Err)
}

fn with_settings<T>(
    config: &EngineConfig,
    account: &Account,
    then: impl FnOnce(&mut Settings) -> T,
) -> T {
    let mut lent = PjStrings::default();
    let mut settings: Settings = boxed();
    // SAFETY: plain C data; pjsua makes lists in it that point into the box, which is
    // not moved afterwards. Strings live until the account is added or modified, which
    // copies them.
    unsafe { ffi::pjsua_acc_config_default(&raw mut *settings) };
    identity(&mut settings, &mut lent, account);
    registration(&mut settings, config, account);
    media(&mut settings, &mut lent, config);
    then(&mut settings)
}

fn identity(settings: &mut ffi::pjsua_acc_config, lent: &mut PjStrings, account: &Account) {
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
    let server = server_of(account);
    settings.proxy_cnt = 1;
    settings.proxy[0] = lent.lend(&format!("<sip:{server}{transport};lr;hide>"));
    settings.reg_use_proxy = 2;
    let line = shared().with_lines(|lines| lines.table.token(&account.line));
    if let Some(contact) = &account.contact {
        settings.force_contact = lent.lend(&format!("<sip:{user}@{contact};line={line}>"));
    }
    settings.contact_uri_params = lent.lend(&format!(";line={line}"));
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
    settings.allow_contact_rewrite = if config.public_address.is_some() || account.contact.is_some()
    {
        0
    } else {
        2
    };
    settings.contact_rewrite_method = CONTACT_REWRITE_NO_UNREG_ALWAYS;
    settings.use_rfc5626 = 0;
    settings.mwi_enabled = ffi::FALSE;
    settings.publish_enabled = ffi::FALSE;
}

fn media(settings: &mut ffi::pjsua_acc_config, lent: &mut PjStrings, config: &EngineConfig) {
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
