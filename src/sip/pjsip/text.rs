//! C strings to Rust and back. What comes from C is bounded and made valid
//! UTF-8; what goes to C is kept alive by an arena.

use std::ffi::{CStr, c_char, c_long};

use zeroize::{Zeroize, Zeroizing};

use super::ffi;

/// Longest text taken from one C string.
const TEXT_MAX_BYTES: usize = 1_024;

/// Strings lent to C for the time of a call. They are wiped when dropped:
/// passwords are among them.
#[derive(Default)]
pub struct PjStrings(Vec<Zeroizing<Vec<u8>>>);

impl PjStrings {
    /// Copies `text` with a NUL behind it; what follows a NUL inside is cut off.
    /// Valid as long as this arena.
    pub fn lend(&mut self, text: &str) -> ffi::pj_str_t {
        let clean = text.split('\0').next().unwrap_or_default();
        let mut bytes = Zeroizing::new(Vec::with_capacity(clean.len() + 1));
        bytes.extend_from_slice(clean.as_bytes());
        bytes.push(0);
        let lent = ffi::pj_str_t {
            ptr: bytes.as_mut_ptr().cast::<c_char>(),
            slen: c_long::try_from(clean.len()).unwrap_or(0),
        };
        self.0.push(bytes);
        lent
    }
}

/// A text that lives for ever, for C to read.
pub fn static_str(text: &'static str) -> ffi::pj_str_t {
    ffi::pj_str_t {
        ptr: text.as_ptr().cast_mut().cast(),
        slen: c_long::try_from(text.len()).unwrap_or(0),
    }
}

/// The text of a C string, at most `TEXT_MAX_BYTES` of it.
///
/// # Safety
/// `text` must be empty or point to `slen` readable bytes.
pub unsafe fn to_string(text: &ffi::pj_str_t) -> String {
    let length = usize::try_from(text.slen).unwrap_or(0).min(TEXT_MAX_BYTES);
    if text.ptr.is_null() || length == 0 {
        return String::new();
    }
    // SAFETY: the caller says that slen bytes are readable; length is no more.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr.cast::<u8>(), length) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// Overwrites a text of C with zeros.
///
/// # Safety
/// `text` must be empty or point to `slen` writable bytes that nobody else uses.
pub unsafe fn wipe(text: &ffi::pj_str_t) {
    let length = usize::try_from(text.slen).unwrap_or(0);
    if text.ptr.is_null() || length == 0 {
        return;
    }
    // SAFETY: the caller says that slen bytes are writable, and nobody else's.
    let bytes = unsafe { std::slice::from_raw_parts_mut(text.ptr.cast::<u8>(), length) };
    bytes.zeroize();
}

/// What pjsip says about a status code.
pub fn status_text(status: ffi::pj_status_t) -> String {
    let mut buffer = [0_u8; 160];
    // SAFETY: pj_strerror writes at most the given size and terminates it; the
    // table it reads is static.
    unsafe { ffi::pj_strerror(status, buffer.as_mut_ptr().cast(), buffer.len()) };
    CStr::from_bytes_until_nul(&buffer).map_or_else(
        |_| format!("status {status}"),
        |text| text.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_text_comes_back_and_stops_at_a_nul() {
        let mut lent = PjStrings::default();
        let one = lent.lend("sip:a@b");
        let two = lent.lend("x\0y");
        // SAFETY: the arena that holds its bytes is alive.
        assert_eq!(unsafe { to_string(&one) }, "sip:a@b");
        // SAFETY: as above.
        assert_eq!(unsafe { to_string(&two) }, "x");
    }
}
