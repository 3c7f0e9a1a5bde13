//! Start and end of pjsua: configuration, transports, codecs, teardown. Run by
//! the control thread, which is pjlib's main thread.

use std::ffi::c_uint;
use std::sync::{Mutex, PoisonError};

use super::addresses;
use super::callbacks;
use super::connections;
use super::engine::PjsipError;
use super::failover;
use super::ffi;
use super::ice::has_ice_candidate;
use super::plain::{boxed, zeroed};
use super::resolver;
use super::shared::{LEGS_MAX, shared};
use super::text::{self, PjStrings};
use super::{bodies, contacts, credentials, header_filter, invite_filter, log, strangers, threads};
use crate::core::sdp::Served;
use crate::sip::engine::{EngineConfig, Transport};
use crate::sip::tls_roots::{self, TlsRoots};

/// pjsua forgets a hung-up call only when its BYE is answered, up to 32 s
/// later; so many calls more than we take have room.
const CALLS_SPARE: c_uint = 64;

/// Our codecs in the order we prefer them; all others are switched off.
const CODECS: [&str; 3] = ["PCMU/8000", "PCMA/8000", "opus/48000"];

/// Local ports of the open transports: more of them may be opened later.
#[derive(Default)]
pub struct OpenPorts(Mutex<Vec<(Transport, u16)>>);

impl OpenPorts {
    /// That of a transport, where it is open.
    pub fn get(&self, transport: Transport) -> Option<u16> {
        let ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ports.iter().find(|(open, _)| *open == transport);
        found.map(|(_, port)| *port)
    }

    fn add(&self, transport: Transport, port: u16) {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.push((transport, port));
    }
}

/// Starts the stack. On failure everything is taken down again.
pub fn start(config: &EngineConfig, ports: &OpenPorts) -> Result<(), PjsipError> {
    log::take_over();
    // SAFETY: no precondition; once per run, which the engine ensures.
    check("pjsua_create", unsafe { ffi::pjsua_create() })?;
    threads::begin_epoch();
    match start_created(config, ports) {
        Ok(()) => Ok(()),
        Err(problem) => {
            destroy(false);
            Err(problem)
        }
    }
}

fn start_created(config: &EngineConfig, ports: &OpenPorts) -> Result<(), PjsipError> {
    let mut lent = PjStrings::default();
    init(config, &mut lent)?;
    check("registering the INVITE filter", invite_filter::register())?;
    check("registering the bodies", bodies::register())?;
    check("registering failover", failover::register())?;
    check("setting the resolver", resolver::install(shared()))?;
    check("registering the filter", strangers::register())?;
    invite_filter::announce_allowed();
    check("registering the header filter", header_filter::register())?;
    check("registering the contacts", contacts::register())?;
    check("registering the credentials", credentials::register())?;
    set_codecs(&mut lent);
    for &(transport, port) in &config.listen {
        ports.add(transport, open_transport(config, transport, port)?);
    }
    // SAFETY: pjsua is initialised.
    check("pjsua_start", unsafe { ffi::pjsua_start() })?;
    // SAFETY: pjsua is started. Without this a server without a sound card
    // answers calls that stay silent.
    unsafe { ffi::pjsua_set_no_snd_dev() };
    callbacks::schedule_beat();
    Ok(())
}

/// Ends the stack. Order: pjsua hangs up, unregisters what is registered still,
/// stops and joins its threads, destroys transports, frees memory. When it
/// returns no callback runs and none will; the caller frees what is Rust's after
/// that. RTP sinks were closed by the ends of their legs. `quietly` sends nothing
/// more: what is registered still stays so until it expires.
pub fn destroy(quietly: bool) {
    let flags = if quietly {
        ffi::PJSUA_DESTROY_NO_TX_MSG
    } else {
        0
    };
    threads::end_epoch();
    // SAFETY: called once per pjsua_create, by the same thread.
    unsafe { ffi::pjsua_destroy2(flags) };
}

fn init(config: &EngineConfig, lent: &mut PjStrings) -> Result<(), PjsipError> {
    let mut ua: Box<ffi::pjsua_config> = boxed();
    let mut logging: Box<ffi::pjsua_logging_config> = boxed();
    let mut media: Box<ffi::pjsua_media_config> = boxed();
    // SAFETY: plain C data that pjsua fills with its defaults, and that is not moved
    // before pjsua_init has copied it.
    unsafe { ffi::pjsua_config_default(&raw mut *ua) };
    // SAFETY: as above.
    unsafe { ffi::pjsua_logging_config_default(&raw mut *logging) };
    // SAFETY: as above.
    unsafe { ffi::pjsua_media_config_default(&raw mut *media) };
    // A request that is not answered is no reason to end a call: media and
    // session timers tell whether the other side is there.
    // SAFETY: pjsip's settings may be changed before it has threads.
    unsafe { ffi::pjsip_sip_cfg_var.endpt.keep_inv_after_tsx_timeout = ffi::TRUE };
    set_ua(&mut ua, config, lent);
    set_logging(&mut logging);
    set_media(&mut media, config, lent);
    // SAFETY: the settings are whole, and copied; their strings live in `lent` until
    // then.
    let status = unsafe { ffi::pjsua_init(&raw const *ua, &raw const *logging, &raw const *media) };
    check("pjsua_init", status)
}

fn set_ua(ua: &mut ffi::pjsua_config, config: &EngineConfig, lent: &mut PjStrings) {
    let library_max = c_uint::try_from(LEGS_MAX)
        .unwrap_or(0)
        .min(ffi::SIPBRIDGE_MAX_CALLS);
    ua.max_calls = (config.max_calls + CALLS_SPARE).min(library_max);
    ua.thread_cnt = 1;
    ua.user_agent = lent.lend(&config.user_agent);
    ua.enable_unsolicited_mwi = ffi::FALSE;
    let stun = config.stun_server.as_ref();
    let stun = stun.and_then(|stun| resolver::numeric(&config.servers, stun, config.bind));
    if let Some(stun) = stun {
        ua.stun_srv_cnt = 1;
        ua.stun_srv[0] = lent.lend(&stun);
        // A STUN server that is away must not take the lines down.
        ua.stun_ignore_failure = ffi::TRUE;
    }
    callbacks::install(&mut ua.cb);
}

fn set_logging(logging: &mut ffi::pjsua_logging_config) {
    logging.msg_logging = ffi::FALSE;
    logging.level = log::enabled_level();
    logging.console_level = logging.level;
    logging.decor = ffi::PJ_LOG_HAS_SENDER;
    logging.cb = Some(log::write);
}

fn set_media(media: &mut ffi::pjsua_media_config, config: &EngineConfig, lent: &mut PjStrings) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    media.clock_rate = 8_000;
    media.snd_clock_rate = 8_000;
    media.has_ioqueue = ffi::TRUE;
    media.thread_cnt = c_uint::try_from((cores / 4).max(1)).unwrap_or(1);
    media.max_media_ports = config.max_calls + CALLS_SPARE;
    media.no_vad = ffi::TRUE;
    media.ec_tail_len = 0;
    // The stream above the adapter plays nothing: its buffer can be small. Less
    // than a packet would count as not given, which is 500 ms.
    media.jb_max = 40;
    media.jb_init = 0;
    media.no_rtcp_sdes_bye = ffi::TRUE;
    let ice = config.ice && has_ice_candidate(config.bind);
    if config.ice && !ice {
        tracing::info!(bind = %config.bind, "ICE is off: there is only a loopback address to offer");
    }
    media.enable_ice = if ice { ffi::TRUE } else { ffi::FALSE };
    shared().bodies.serve(Served {
        ipv4: config.bind.is_ipv4(),
        ipv6: config.bind.is_ipv6(),
        ice,
    });
    let turn = config.turn_server.as_ref().and_then(|turn| {
        let address = resolver::numeric(&config.servers, &turn.0, config.bind)?;
        Some((address, &turn.1, &turn.2))
    });
    if let Some((server, user, password)) = turn {
        media.enable_turn = ffi::TRUE;
        media.turn_server = lent.lend(&server);
        media.turn_auth_cred.type_ = ffi::PJ_STUN_AUTH_CRED_STATIC;
        // Writing a Copy member of a C union.
        media.turn_auth_cred.data.static_cred =
            ffi::pj_stun_auth_cred__bindgen_ty_1__bindgen_ty_1 {
                realm: lent.lend("*"),
                username: lent.lend(user),
                data_type: ffi::PJ_STUN_PASSWD_PLAIN,
                data: lent.lend(password.expose()),
                nonce: lent.lend(""),
            };
    }
}

fn set_codecs(lent: &mut PjStrings) {
    let mut infos: Vec<ffi::pjsua_codec_info> = (0..32).map(|_| zeroed()).collect();
    let mut count = 32;
    // SAFETY: pjsua is initialised; it fills at most `count` entries.
    if unsafe { ffi::pjsua_enum_codecs(infos.as_mut_ptr(), &raw mut count) } != ffi::PJ_SUCCESS {
        return;
    }
    infos.truncate(usize::try_from(count).unwrap_or(0));
    // SAFETY: the names of codecs lie in a table of pjsua's, which lives as long as it.
    let id = |info: &ffi::pjsua_codec_info| unsafe { text::to_string(&info.codec_id) };
    let known: Vec<String> = infos.iter().map(id).collect();
    for id in known {
        let rank = CODECS.iter().position(|ours| id.starts_with(ours));
        let priority = rank.map_or(0, |rank| 250 - u8::try_from(rank).unwrap_or(0) * 10);
        let name = lent.lend(&id);
        // SAFETY: the name lives during the call.
        unsafe { ffi::pjsua_codec_set_priority(&raw const name, priority) };
    }
}

/// Opens a transport that a line needs, on a port that the system chooses.
pub fn open_if_missing(
    config: &EngineConfig,
    transport: Transport,
    ports: &OpenPorts,
) -> Result<(), PjsipError> {
    if ports.get(transport).is_some() {
        return Ok(());
    }
    let port = open_transport(config, transport, 0)?;
    tracing::info!(%transport, port, "SIP transport opened for a line that needs it");
    ports.add(transport, port);
    Ok(())
}

fn open_transport(
    config: &EngineConfig,
    transport: Transport,
    port: u16,
) -> Result<u16, PjsipError> {
    let mut lent = PjStrings::default();
    let v6 = config.bind.is_ipv6();
    let kind = match (transport, v6) {
        (Transport::Udp, false) => ffi::PJSIP_TRANSPORT_UDP,
        (Transport::Tcp, false) => ffi::PJSIP_TRANSPORT_TCP,
        (Transport::Tls, false) => ffi::PJSIP_TRANSPORT_TLS,
        (Transport::Udp, true) => ffi::PJSIP_TRANSPORT_UDP6,
        (Transport::Tcp, true) => ffi::PJSIP_TRANSPORT_TCP6,
        (Transport::Tls, true) => ffi::PJSIP_TRANSPORT_TLS6,
    };
    let mut settings: Box<ffi::pjsua_transport_config> = boxed();
    // SAFETY: plain C data that pjsua fills with its defaults.
    unsafe { ffi::pjsua_transport_config_default(&raw mut *settings) };
    settings.port = c_uint::from(port);
    if !config.bind.is_unspecified() {
        settings.bound_addr = lent.lend(&config.bind.to_string());
    }
    if let Some(public) = config.public_address {
        settings.public_addr = lent.lend(&public.to_string());
    }
    if transport == Transport::Tls {
        set_tls(&mut settings.tls_setting, config, &mut lent)?;
    }
    if transport == Transport::Tcp {
        connections::set_keep_alive(&mut settings.sockopt_params);
    }
    let mut id = -1;
    // SAFETY: the settings are whole, their strings live during the call; the id is an
    // out-parameter.
    let status = unsafe { ffi::pjsua_transport_create(kind, &raw const *settings, &raw mut id) };
    if status != ffi::PJ_SUCCESS {
        return Err(PjsipError::Transport {
            transport,
            bind: config.bind,
            port,
            reason: text::status_text(status),
        });
    }
    let mut info: ffi::pjsua_transport_info = zeroed();
    // SAFETY: pjsua checks the id, and fills the block.
    let status = unsafe { ffi::pjsua_transport_get_info(id, &raw mut info) };
    check("pjsua_transport_get_info", status)?;
    Ok(match addresses::port(&info.local_addr) {
        0 => port,
        bound => bound,
    })
}

fn set_tls(
    tls: &mut ffi::pjsip_tls_setting,
    config: &EngineConfig,
    lent: &mut PjStrings,
) -> Result<(), PjsipError> {
    match tls_roots::find(config.tls_ca_file.as_deref(), config.tls_insecure)? {
        TlsRoots::File(file) => {
            tls.ca_list_file = lent.lend(&file);
            tls.verify_server = ffi::TRUE;
        }
        TlsRoots::Unverified => {
            tls.verify_server = ffi::FALSE;
            tracing::warn!(
                "SIP servers are not verified, as --tls-insecure asks: whoever is on the way can read and place calls"
            );
        }
    }
    connections::set_keep_alive(&mut tls.sockopt_params);
    if let Some((certificate, key)) = &config.tls_identity {
        tls.cert_file = lent.lend(certificate);
        tls.privkey_file = lent.lend(key);
    }
    Ok(())
}

/// Turns C's status into our error.
fn check(step: &'static str, status: ffi::pj_status_t) -> Result<(), PjsipError> {
    if status == ffi::PJ_SUCCESS {
        return Ok(());
    }
    Err(PjsipError::Stack {
        step,
        reason: text::status_text(status),
    })
}

/// Whether the library was built for addresses of this kind.
///
/// # Errors
/// When it knows IPv4 alone, and this is none.
pub const fn check_bind(bind: std::net::IpAddr) -> Result<(), PjsipError> {
    if bind.is_ipv6() && ffi::SIPBRIDGE_HAS_IPV6 == 0 {
        return Err(PjsipError::NoIpv6(bind));
    }
    Ok(())
}

/// Whether the library's limits suffice for what is asked.
pub fn check_limits(config: &EngineConfig) -> Result<(), PjsipError> {
    check_bind(config.bind)?;
    if config.max_calls > ffi::SIPBRIDGE_MAX_CALLS {
        return Err(PjsipError::Limits {
            what: "calls (PJSUA_MAX_CALLS)",
            asked: config.max_calls,
            limit: ffi::SIPBRIDGE_MAX_CALLS,
        });
    }
    Ok(())
}
