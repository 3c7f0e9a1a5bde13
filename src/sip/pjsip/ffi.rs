//! The generated bindings (build.rs, vendor/bindgen.h), with layout tests.
#![expect(
    dead_code,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated from C headers"
)]

include!(concat!(env!("OUT_DIR"), "/pjproject.rs"));

/// C's success.
pub const PJ_SUCCESS: pj_status_t = 0;
/// C's true.
pub const TRUE: pj_bool_t = 1;
/// C's false.
pub const FALSE: pj_bool_t = 0;
