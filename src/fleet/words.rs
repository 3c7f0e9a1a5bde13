//! A failed registration in plain words, for the person who must mend it.

/// What a failed REGISTER means. `text` is the reason phrase of the answer, or
/// what the SIP stack said where there was none.
#[must_use]
pub fn failure(status: u16, text: &str, server: &str) -> String {
    let low = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| low.contains(word));
    if says(&["certificate", "tls", "ssl"]) {
        return format!("no TLS connection to {server} ({text})");
    }
    if says(&[
        "dns",
        "resolve",
        "name server",
        "pjlib_util_e",
        "gethostbyname",
    ]) {
        return format!("the name {server} cannot be looked up ({text})");
    }
    match status {
        401 | 403 | 407 => {
            format!("the server refused the user name or password ({status} {text})")
        }
        404 => format!("the server does not know this user name ({status} {text})"),
        408 => format!("no answer from {server}"),
        423 => format!("the server wants longer registrations ({status} {text})"),
        429 | 480 | 486 | 500 | 504 => format!("{server} is busy or broken ({status} {text})"),
        502 | 503 => format!("{server} cannot be reached or is out of service ({status} {text})"),
        _ => format!("{server} refused with {status} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_is_told_so_that_somebody_can_mend_it() {
        let of = |status, text| failure(status, text, "sip.example.com");
        assert_eq!(
            of(403, "Forbidden"),
            "the server refused the user name or password (403 Forbidden)"
        );
        assert_eq!(of(408, "Request Timeout"), "no answer from sip.example.com");
        assert_eq!(
            of(503, "Connection refused"),
            "sip.example.com cannot be reached or is out of service (503 Connection refused)"
        );
        let dns = "DNS \"Name Error\" (PJLIB_UTIL_EDNS_NXDOMAIN)";
        assert!(of(502, dns).starts_with("the name sip.example.com cannot be looked up"));
        assert!(of(503, "SSL certificate verification error").starts_with("no TLS connection"));
        assert_eq!(of(488, "No"), "sip.example.com refused with 488 No");
    }
}
