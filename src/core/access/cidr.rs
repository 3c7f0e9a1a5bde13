//! Networks in CIDR notation (RFC 4632, RFC 4291).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash.
    #[error("must be an IP address, or a network such as 192.0.2.0/24")]
    Address,
    /// The part after it.
    #[error("has a prefix that is no number from 0 to {0}")]
    Prefix(u8),
    /// Bits behind the prefix: one of the two numbers is a mistake.
    #[error("has bits set behind its prefix: the network is written with zeros there")]
    HostBits,
}

impl Cidr {
    /// The network of this one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix: bits_of(address),
        }
    }

    /// Whether an address lies in it. One of IPv4 in IPv6 clothes counts as
    /// the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits_of(address) == bits_of(self.address)
            && masked(address, self.prefix) == number(self.address)
    }

    /// The address, where it is the network of one.
    #[must_use]
    pub fn as_host(&self) -> Option<IpAddr> {
        (self.prefix == bits_of(self.address)).then_some(self.address)
    }

    /// Whether it holds every address there is.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.prefix == 0
    }
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address as a number whose first bit is the address' first bit.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn masked(address: IpAddr, prefix: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    number(address) & mask
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let Some(prefix) = prefix else {
            return Ok(Self::host(address));
        };
        let bits = bits_of(address);
        let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|p| is_number && *p <= bits);
        let prefix = prefix.ok_or(CidrError::Prefix(bits))?;
        if masked(address, prefix) != number(address) {
            return Err(CidrError::HostBits);
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == bits_of(self.address) {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Reads networks with commas or white space between.
///
/// # Errors
/// What is wrong with the first that is none.
pub fn parse_list(text: &str) -> Result<Vec<Cidr>, CidrError> {
    text.split([',', ' ', '\t', '\n'])
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contains(network: &str, address: &str) -> bool {
        let network: Cidr = network.parse().expect("network");
        network.contains(address.parse().expect("address"))
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        assert!(contains("192.0.2.0/24", "192.0.2.255"));
        assert!(!contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("192.0.2.7", "192.0.2.7"));
        assert!(!contains("192.0.2.7", "192.0.2.6"));
        assert!(contains("192.0.2.0/24", "::ffff:192.0.2.9"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"), "of one family");
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(contains("::/0", "2001:db8::1") && !contains("::/0", "192.0.2.1"));
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fc00::1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let parse = |text: &str| text.parse::<Cidr>();
        for text in [
            "",
            "x",
            "1.2.3",
            "1.2.3/8",
            "sip.example.org",
            "1.2.3.4:5060",
        ] {
            assert_eq!(parse(text), Err(CidrError::Address), "{text}");
        }
        for text in ["1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "1.2.3.4/-1"] {
            assert_eq!(parse(text), Err(CidrError::Prefix(32)), "{text}");
        }
        assert_eq!(parse("::1/129"), Err(CidrError::Prefix(128)));
        assert_eq!(parse("192.0.2.1/24"), Err(CidrError::HostBits));
    }

    #[test]
    fn lists_are_read_with_commas_or_spaces() {
        let shown = |text: &str| -> Vec<String> {
            let list = parse_list(text).expect("a list");
            list.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            shown("10.0.0.0/8, ::1  192.0.2.1"),
            ["10.0.0.0/8", "::1", "192.0.2.1"]
        );
        assert!(shown(" ").is_empty());
        assert!(parse_list("10.0.0.0/8,x").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<Cidr>();
            let _ = parse_list(&text);
        }

        #[test]
        fn what_is_shown_reads_as_the_same(bits in any::<u32>(), prefix in 0_u8..=32) {
            let address = IpAddr::from(bits.to_be_bytes());
            let base = IpAddr::from(((masked(address, prefix) >> 96) as u32).to_be_bytes());
            let network: Cidr = format!("{base}/{prefix}").parse().expect("network");
            prop_assert!(network.contains(address));
            prop_assert_eq!(network.to_string().parse::<Cidr>(), Ok(network));
        }
    }
}
