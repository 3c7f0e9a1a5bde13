//! Socket addresses of C to Rust and back.

use std::ffi::c_uint;
use std::mem::transmute;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::ffi;
use super::plain::zeroed;

// Linux values; pjlib uses the system's own.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A socket address of C; `None` for another family, an unspecified address
/// or port 0.
pub fn socket_address(address: &ffi::pj_sockaddr) -> Option<SocketAddr> {
    let (ip, port) = match family(address) {
        AF_INET => {
            // SAFETY: plain integers, of which each bit pattern is a value; the
            // family says that this member is the one that is filled.
            let v4 = unsafe { address.ipv4 };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            (IpAddr::V4(ip), v4.sin_port)
        }
        AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.ipv6 };
            // SAFETY: an IPv6 address of C is 16 bytes in network order, without padding.
            let octets = unsafe { transmute::<ffi::pj_in6_addr, [u8; 16]>(v6.sin6_addr) };
            (IpAddr::V6(Ipv6Addr::from(octets)), v6.sin6_port)
        }
        _ => return None,
    };
    let port = u16::from_be(port);
    (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip, port))
}

/// The same where C says no more than where an address lies, which may be as
/// short as its family is.
///
/// # Safety
/// `address` must be null or point to the sockaddr of its own family, in full.
pub unsafe fn socket_address_at(address: *const ffi::pj_sockaddr) -> Option<SocketAddr> {
    if address.is_null() {
        return None;
    }
    let mut whole: ffi::pj_sockaddr = zeroed();
    // SAFETY: the caller's promise; the family is the first field of every member.
    match unsafe { address.cast::<ffi::pj_addr_hdr>().read() }.sa_family {
        // SAFETY: the caller's promise; the family says that as much is there.
        AF_INET => whole.ipv4 = unsafe { address.cast::<ffi::pj_sockaddr_in>().read() },
        // SAFETY: as above.
        AF_INET6 => whole.ipv6 = unsafe { address.cast::<ffi::pj_sockaddr_in6>().read() },
        _ => return None,
    }
    socket_address(&whole)
}

/// Writes an address over another one, in its family where IPv4 can be mapped
/// into it.
pub fn set_socket_address(address: &mut ffi::pj_sockaddr, to: SocketAddr) {
    let was_v6 = family(address) == AF_INET6;
    let ip = match to.ip() {
        IpAddr::V4(v4) if was_v6 => IpAddr::V6(v4.to_ipv6_mapped()),
        ip => ip,
    };
    *address = zeroed();
    match ip {
        IpAddr::V4(ip) => {
            address.ipv4.sin_family = AF_INET;
            address.ipv4.sin_port = to.port().to_be();
            address.ipv4.sin_addr.s_addr = u32::from(ip).to_be();
        }
        IpAddr::V6(ip) => {
            address.ipv6.sin6_family = AF_INET6;
            address.ipv6.sin6_port = to.port().to_be();
            // SAFETY: an IPv6 address of C is 16 bytes in network order, without padding.
            address.ipv6.sin6_addr =
                unsafe { transmute::<[u8; 16], ffi::pj_in6_addr>(ip.octets()) };
        }
    }
}

/// Bytes of an address, by its family.
pub fn socket_address_len(address: &ffi::pj_sockaddr) -> c_uint {
    let bytes = if family(address) == AF_INET6 {
        size_of::<ffi::pj_sockaddr_in6>()
    } else {
        size_of::<ffi::pj_sockaddr_in>()
    };
    c_uint::try_from(bytes).unwrap_or(0)
}

/// The port of an address, also of one that is unspecified.
pub fn port(address: &ffi::pj_sockaddr) -> u16 {
    // SAFETY: plain integers; the port lies at the same place in both families.
    u16::from_be(unsafe { address.ipv4 }.sin_port)
}

fn family(address: &ffi::pj_sockaddr) -> u16 {
    // SAFETY: the family is the first field of every member of the union, and a
    // plain integer.
    unsafe { address.addr }.sa_family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_address_of_c_is_read_in_network_order() {
        let mut address: ffi::pj_sockaddr = zeroed();
        assert_eq!(socket_address(&address), None);
        address.ipv4.sin_family = 2;
        address.ipv4.sin_port = 5060_u16.to_be();
        address.ipv4.sin_addr.s_addr = u32::from(Ipv4Addr::new(10, 0, 0, 7)).to_be();
        let expected = Some(SocketAddr::from(([10, 0, 0, 7], 5060)));
        assert_eq!(socket_address(&address), expected);
        assert_eq!(port(&address), 5060);
        // SAFETY: a whole pj_sockaddr that lives in this test.
        assert_eq!(unsafe { socket_address_at(&raw const address) }, expected);
        // SAFETY: null is allowed.
        assert_eq!(unsafe { socket_address_at(std::ptr::null()) }, None);
    }

    #[test]
    fn an_address_is_written_in_the_family_that_was_there() {
        let mut address: ffi::pj_sockaddr = zeroed();
        let v6: SocketAddr = "[2001:db8::7]:5062".parse().unwrap();
        set_socket_address(&mut address, v6);
        assert_eq!(socket_address(&address), Some(v6));
        assert_eq!(socket_address_len(&address), 28);
        set_socket_address(&mut address, "192.0.2.1:5064".parse().unwrap());
        let mapped = "[::ffff:192.0.2.1]:5064".parse().unwrap();
        assert_eq!(socket_address(&address), Some(mapped));
        let mut address: ffi::pj_sockaddr = zeroed();
        set_socket_address(&mut address, "192.0.2.1:5064".parse().unwrap());
        assert_eq!(socket_address_len(&address), 16);
    }
}
