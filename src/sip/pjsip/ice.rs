//! Whether ICE has an address to offer.

use std::net::{IpAddr, UdpSocket};

/// Whether ICE would find an address to offer: pjnath leaves loopback out, and
/// without any candidate it refuses every call.
pub fn has_ice_candidate(bind: IpAddr) -> bool {
    if bind.is_loopback() {
        return false;
    }
    if !bind.is_unspecified() {
        return true;
    }
    // Connecting a UDP socket sends nothing; it only asks for the route. The
    // address is reserved for documentation (RFC 5737).
    UdpSocket::bind((bind, 0))
        .and_then(|socket| {
            socket.connect(("192.0.2.1", 9))?;
            socket.local_addr()
        })
        .is_ok_and(|address| !address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_alone_is_no_ice_candidate() {
        assert!(!has_ice_candidate(IpAddr::from([127, 0, 0, 1])));
        assert!(has_ice_candidate(IpAddr::from([10, 0, 0, 1])));
    }
}
