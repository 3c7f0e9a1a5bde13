//! What a request carries beside what pjsua writes into it: `pjsua_msg_data`.

use super::ffi;
use super::headers::push_header;
use super::plain::zeroed;
use super::text::PjStrings;

/// Memory that a pool begins with, and grows by.
const POOL_BYTES: usize = 1_024;

/// Asks pjsua for something with these headers, by name and value; `None` where there is no memory for them. `from` is a URI that From
/// has in place of the account's own. All must have been judged: it is written as it is.
pub fn with_headers<'h, T>(
    from: Option<&str>,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ask: impl FnOnce(*const ffi::pjsua_msg_data) -> T,
) -> Option<T> {
    // SAFETY: pjsua is there while its commands are carried out; null where there is no memory.
    let pool = unsafe { ffi::pjsua_pool_create(c"headers".as_ptr(), POOL_BYTES, POOL_BYTES) };
    if pool.is_null() {
        return None;
    }
    let mut message: ffi::pjsua_msg_data = zeroed();
    // SAFETY: plain C data that pjsua fills, and that is not moved afterwards.
    unsafe { ffi::pjsua_msg_data_init(&raw mut message) };
    let mut lent = PjStrings::default();
    if let Some(from) = from {
        message.local_uri = lent.lend(from);
    }
    for (name, value) in headers {
        let list = &raw mut message.hdr_list;
        // SAFETY: pjsua made an empty list of it; the pool is released below.
        unsafe { push_header(list, pool, name, value) };
    }
    let answer = ask(&raw const message);
    // SAFETY: made above; pjsua keeps copies of what lives in it.
    unsafe { ffi::pj_pool_release(pool) };
    Some(answer)
}
