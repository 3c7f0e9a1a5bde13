//! Finds pjproject, generates its bindings and links it.
//!
//! Looked for in this order, the first one wins:
//! 1. `SIPBRIDGE_PJPROJECT`: an install prefix (`lib/pkgconfig/libpjproject.pc` in it);
//! 2. `vendor/pjproject/install`, once `vendor/pjproject.sh` has finished it;
//! 3. the system's `libpjproject` by pkg-config.
//!
//! Prefix builds are linked statically, the system's as pkg-config says.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const MIN_VERSION: &str = "2.15";
const WHAT_TO_RUN: &str = "run vendor/pjproject.sh (fetches and builds it), or set SIPBRIDGE_PJPROJECT to an install prefix of pjproject 2.15 or later";

/// Names of the C interface that src/sip/pjsip uses. `.*` only where C itself
/// numbers a family.
const FUNCTIONS: &[&str] = &[
    "pj_get_version",
    "pj_grp_lock_acquire",
    "pj_grp_lock_add_handler",
    "pj_grp_lock_add_ref",
    "pj_grp_lock_dec_ref",
    "pj_grp_lock_release",
    "pj_log_set_decor",
    "pj_log_set_level",
    "pj_log_set_log_func",
    "pj_pool_alloc",
    "pj_pool_release",
    "pj_strerror",
    "pj_thread_is_registered",
    "pj_thread_register",
    "pjmedia_sdp_media_remove_all_attr",
    "pjsip_endpt_create_ack",
    "pjsip_endpt_create_response",
    "pjsip_endpt_get_capability",
    "pjsip_endpt_register_module",
    "pjsip_endpt_respond_stateless",
    "pjsip_endpt_set_ext_resolver",
    "pjsip_evsub_instance",
    "pjsip_generic_string_hdr_create",
    "pjsip_get_status_text",
    "pjsip_msg_body_create",
    "pjsip_msg_find_hdr",
    "pjsip_multipart_get_raw",
    "pjsip_tdata_get_dlg",
    "pjsip_transport_send",
    "pjsip_tsx_create_key",
    "pjsip_tsx_get_dlg",
    "pjsip_tsx_layer_find_tsx2",
    "pjsip_tsx_retransmit_no_state",
    "pjsip_tsx_send_msg",
    "pjsip_tx_data_dec_ref",
    "pjsip_tx_data_invalidate_msg",
    "pjsip_transport_shutdown2",
    "pjsip_ua_find_dialog",
    "pjsua_acc_add",
    "pjsua_acc_config_default",
    "pjsua_acc_del",
    "pjsua_acc_get_config",
    "pjsua_acc_get_info",
    "pjsua_acc_modify",
    "pjsua_acc_set_registration",
    "pjsua_call_answer2",
    "pjsua_call_get_count",
    "pjsua_call_get_info",
    "pjsua_call_get_max_count",
    "pjsua_call_get_stream_info",
    "pjsua_call_get_user_data",
    "pjsua_call_hangup",
    "pjsua_call_make_call",
    "pjsua_call_reinvite",
    "pjsua_call_set_hold",
    "pjsua_call_setting_default",
    "pjsua_call_xfer",
    "pjsua_codec_set_priority",
    "pjsua_config_default",
    "pjsua_create",
    "pjsua_destroy2",
    "pjsua_enum_calls",
    "pjsua_enum_codecs",
    "pjsua_get_pjsip_endpt",
    "pjsua_get_state",
    "pjsua_init",
    "pjsua_logging_config_default",
    "pjsua_media_config_default",
    "pjsua_msg_data_init",
    "pjsua_pool_create",
    "pjsua_schedule_timer2(_dbg)?",
    "pjsua_set_no_snd_dev",
    "pjsua_start",
    "pjsua_transport_close",
    "pjsua_transport_config_default",
    "pjsua_transport_create",
    "pjsua_transport_get_info",
];
const TYPES: &[&str] = &[
    "pj_log_decoration",
    "pj_thread_desc",
    "pjmedia_transport_op",
    "pjmedia_tp_cb_param",
    "pjmedia_transport_attach_param",
    "pjsip_contact_hdr",
    "pjsip_ctype_hdr",
    "pjsip_ext_resolver",
    "pjsip_generic_string_hdr",
    "pjsip_module",
    "pjsip_module_priority",
    "pjsip_name_addr",
    "pjsip_retry_after_hdr",
    "pjsip_sip_uri",
    "pjsip_server_addresses",
    "pjsip_transport_flags_e",
    "pjsip_uri",
    "pjsip_uri_vptr",
    "pjsip_via_hdr",
    "pjsua_on_rejected_incoming_call_param",
    "pjsua_on_stream_precreate_param",
    "pjsua_reg_info",
    "pjsip_inv_state",
    "pjsip_hdr_e",
    "pjsip_generic_array_hdr",
    "pjsip_uri_context_e",
    "pjmedia_srtp_keying_method",
    "pjmedia_dir",
    "pjsua_call_flag",
    "pjsua_destroy_flag",
    "pjsip_www_authenticate_hdr",
    "pjsip_expires_hdr",
    "pjsip_dialog",
];
const VALUES: &[&str] = &[
    "PJSIP_AUTH_PARSES_ANY_SCHEME",
    "SIPBRIDGE_HAS_.*",
    "SIPBRIDGE_MAX_.*",
    "pjsip_rx_packet_filter",
    "pjsip_sip_cfg_var",
];

/// Where pjproject was found, and how to compile and link against it.
struct Found {
    include_flags: Vec<String>,
    version: String,
    place: String,
}

fn main() -> ExitCode {
    for path in [
        "build.rs",
        "vendor/bindgen.h",
        "vendor/pjproject/install/.built",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in ["SIPBRIDGE_PJPROJECT", "PKG_CONFIG_PATH", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    match find().and_then(|found| generate(&found)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("pjproject: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn find() -> Result<Found, String> {
    if let Some(prefix) = env::var_os("SIPBRIDGE_PJPROJECT") {
        return from_prefix(Path::new(&prefix));
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let vendored = root.join("vendor/pjproject/install");
    if vendored.join(".built").exists() {
        return from_prefix(&vendored);
    }
    from_system()
}

/// Reads `lib/pkgconfig/libpjproject.pc` of an install prefix and links its
/// archives statically. pjsua2 is C++ and left out, libstdc++ with it.
fn from_prefix(prefix: &Path) -> Result<Found, String> {
    let pc = prefix.join("lib/pkgconfig/libpjproject.pc");
    let text = std::fs::read_to_string(&pc)
        .map_err(|error| format!("{}: {error}; {WHAT_TO_RUN}", pc.display()))?;
    println!("cargo:rerun-if-changed={}", pc.display());
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let version = field("Version");
    check_version(&version, &pc.display().to_string())?;
    link_sanitizers(prefix);
    println!(
        "cargo:rustc-link-search=native={}",
        prefix.join("lib").display()
    );
    for name in field("Libs")
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("-l"))
    {
        if !name.starts_with("pjsua2") && name != "stdc++" {
            println!("cargo:rustc-link-lib=static={name}");
        }
    }
    for name in field("Libs.private")
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("-l"))
    {
        println!("cargo:rustc-link-lib={name}");
    }
    let mut include_flags = vec![format!("-I{}", prefix.join("include").display())];
    include_flags.extend(defines(&field("Cflags")));
    Ok(Found {
        include_flags,
        version,
        place: prefix.display().to_string(),
    })
}

/// A build of `vendor/pjproject.sh --sanitize` names the run times that it
/// needs. They must be loaded before all other libraries.
fn link_sanitizers(prefix: &Path) {
    let names = std::fs::read_to_string(prefix.join(".sanitizers")).unwrap_or_default();
    for name in names.split_whitespace() {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
}

fn from_system() -> Result<Found, String> {
    let library = pkg_config::Config::new()
        .atleast_version(MIN_VERSION)
        .probe("libpjproject")
        .map_err(|error| {
            format!(
                "no pjproject {MIN_VERSION} or later found ({}); {WHAT_TO_RUN}",
                first_line(&error.to_string())
            )
        })?;
    let mut include_flags: Vec<String> = library
        .include_paths
        .iter()
        .map(|path| format!("-I{}", path.display()))
        .collect();
    include_flags.extend(library.defines.iter().map(|(name, value)| match value {
        Some(value) => format!("-D{name}={value}"),
        None => format!("-D{name}"),
    }));
    Ok(Found {
        include_flags,
        version: library.version,
        place: "pkg-config".into(),
    })
}

/// The `-D` flags of a `Cflags` field; structs differ without them.
fn defines(cflags: &str) -> impl Iterator<Item = String> {
    cflags
        .split_whitespace()
        .filter(|word| word.starts_with("-D"))
        .map(str::to_owned)
}

fn first_line(text: &str) -> &str {
    text.lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
}

fn check_version(version: &str, place: &str) -> Result<(), String> {
    let parse = |text: &str| {
        let mut parts = text.split('.').map(|part| {
            part.trim_end_matches(|c: char| !c.is_ascii_digit())
                .parse::<u32>()
                .unwrap_or(0)
        });
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    if parse(version) < parse(MIN_VERSION) {
        return Err(format!(
            "{place} has version {version:?}, {MIN_VERSION} or later is needed; {WHAT_TO_RUN}"
        ));
    }
    Ok(())
}

fn generate(found: &Found) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header("vendor/bindgen.h")
        .clang_args(&found.include_flags)
        // As vendor/pjproject.sh builds it: asserts are error codes.
        .clang_arg("-DNDEBUG")
        .allowlist_recursively(true)
        .layout_tests(true)
        .generate_comments(false)
        .derive_debug(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::None);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in VALUES {
        builder = builder.allowlist_var(name);
    }
    let bindings = builder.generate().map_err(|error| {
        format!(
            "bindgen failed on {} ({}): {error}",
            found.place, found.version
        )
    })?;
    // What differs between versions and builds: PJ_TIMER_DEBUG renames a
    // function, real-time text came with 2.16; vendor/pjproject.patch lets a
    // challenge of another scheme stand beside Digest.
    let text = bindings.to_string();
    for (name, sign) in [
        ("pj_timer_debug", "pjsua_schedule_timer2_dbg"),
        ("pj_call_text", "txt_cnt"),
        ("pj_auth_any_scheme", "PJSIP_AUTH_PARSES_ANY_SCHEME"),
        // Of vendor/pjproject.patch.
        ("pj_rx_filter", "pjsip_rx_packet_filter"),
    ] {
        println!("cargo:rustc-check-cfg=cfg({name})");
        if text.contains(sign) {
            println!("cargo:rustc-cfg={name}");
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("pjproject.rs");
    bindings
        .write_to_file(&out)
        .map_err(|error| format!("{}: {error}", out.display()))?;
    println!("cargo:version={}", found.version);
    Ok(())
}
