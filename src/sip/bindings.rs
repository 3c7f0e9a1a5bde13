//! What the 200 to a REGISTER lists (RFC 3261 section 10.3): every Contact of the
//! address, those of other bridges that hold the same line among them. All bridges
//! that share a key put the same token into a line's Contacts
//! ([`contact_key`](crate::core::access::contact_key)), so that the token tells a
//! line's Contacts from others, and host and port tell ours from a sibling's.
//!
//! Leaves out reading the message, which the engine does, and what a sibling's
//! Contact means, which is the cluster's business.

/// Where a Contact leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactAddress {
    host: String,
    port: u16,
}

impl ContactAddress {
    /// Host and port as a SIP URI or Via has them; a port of 0 stands for the usual
    /// one of the transport.
    #[must_use]
    pub fn new(host: &str, port: u16, is_tls: bool) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let literal: Option<std::net::IpAddr> = bare.parse().ok();
        let host = literal.map_or_else(
            || host.to_ascii_lowercase(),
            |address| address.to_canonical().to_string(),
        );
        let port = match (port, is_tls) {
            (0, true) => 5061,
            (0, false) => 5060,
            (port, _) => port,
        };
        Self { host, port }
    }
}

/// A Contact with the line's token, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedContact {
    /// Where it leads.
    pub address: ContactAddress,
    /// Its `expires` parameter, in seconds.
    pub expires: Option<u32>,
}

/// What a REGISTER asked for, and how it came to the registrar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedBinding {
    /// The Contact that it announced.
    pub announced: ContactAddress,
    /// Where the registrar saw it come from, by `received` and `rport` of Via.
    pub seen: Option<ContactAddress>,
    /// The expiry that it asked for, in seconds.
    pub expires: Option<u32>,
}

/// What a list says of the REGISTER that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnBinding {
    /// Which of the listed Contacts is ours.
    pub index: usize,
    /// Whether another bridge's Contact of the line is listed, too.
    pub siblings_listed: bool,
}

impl AskedBinding {
    /// Finds our Contact among those that are listed with the line's token; `None`
    /// where there are none.
    ///
    /// A registrar may rewrite Contacts. Ours is the one that was announced, else the
    /// one with the address that the registrar saw, else the only one. Where that
    /// leaves several, it is the one that has longest to live without having more than
    /// we asked for, since it was renewed just now; else the one that ends first:
    /// too early a refresh does no harm.
    #[must_use]
    pub fn find(&self, listed: &[ListedContact]) -> Option<OwnBinding> {
        let at = |address: &ContactAddress| {
            let same = |(_, contact): &(usize, &ListedContact)| contact.address == *address;
            first_to_end(listed.iter().enumerate().filter(same))
        };
        let index = at(&self.announced)
            .or_else(|| at(self.seen.as_ref()?))
            .or_else(|| self.renewed(listed))
            .or_else(|| first_to_end(listed.iter().enumerate()))?;
        let ours = &listed.get(index)?.address;
        let is_own = |address: &ContactAddress| {
            address == ours || *address == self.announced || Some(address) == self.seen.as_ref()
        };
        let siblings_listed = listed
            .iter()
            .any(|contact| contact.expires != Some(0) && !is_own(&contact.address));
        Some(OwnBinding {
            index,
            siblings_listed,
        })
    }

    fn renewed(&self, listed: &[ListedContact]) -> Option<usize> {
        let asked = self.expires?;
        let lives = |(index, contact): (usize, &ListedContact)| {
            let expires = contact.expires.filter(|expires| *expires <= asked)?;
            Some((expires, index))
        };
        let renewed = listed.iter().enumerate().filter_map(lives).max();
        renewed.map(|(_, index)| index)
    }
}

/// The one of these that ends first; one that does not say when does so last.
fn first_to_end<'a>(contacts: impl Iterator<Item = (usize, &'a ListedContact)>) -> Option<usize> {
    contacts
        .min_by_key(|(_, contact)| contact.expires.unwrap_or(u32::MAX))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> ContactAddress {
        ContactAddress::new(host, port, false)
    }

    fn listed(contacts: &[(&str, u16, u32)]) -> Vec<ListedContact> {
        let one = |(host, port, expires): &(&str, u16, u32)| ListedContact {
            address: at(host, *port),
            expires: Some(*expires),
        };
        contacts.iter().map(one).collect()
    }

    fn asked() -> AskedBinding {
        AskedBinding {
            announced: at("10.0.0.1", 5060),
            seen: Some(at("203.0.113.1", 31_000)),
            expires: Some(300),
        }
    }

    fn find(contacts: &[(&str, u16, u32)]) -> Option<(usize, bool)> {
        let found = asked().find(&listed(contacts))?;
        Some((found.index, found.siblings_listed))
    }

    #[test]
    fn a_list_with_ours_alone_has_no_sibling() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[("10.0.0.1", 0, 120)]), Some((0, false)));
        assert_eq!(find(&[("203.0.113.1", 31_000, 120)]), Some((0, false)));
        assert_eq!(find(&[("edge.example", 5060, 120)]), Some((0, false)));
        // Before and after our address was rewritten; one that is being removed.
        let both = [("203.0.113.1", 31_000, 300), ("10.0.0.1", 5060, 300)];
        assert_eq!(find(&both), Some((1, false)));
        let gone = [("10.0.0.1", 5060, 300), ("10.0.0.2", 5060, 0)];
        assert_eq!(find(&gone), Some((0, false)));
    }

    #[test]
    fn another_host_or_port_with_our_token_is_a_siblings() {
        let host = [("10.0.0.2", 5060, 20), ("10.0.0.1", 5060, 300)];
        assert_eq!(find(&host), Some((1, true)));
        let port = [("10.0.0.1", 5062, 20), ("10.0.0.1", 5060, 300)];
        assert_eq!(find(&port), Some((1, true)));
        let seen = [("10.0.0.2", 5060, 20), ("203.0.113.1", 31_000, 300)];
        assert_eq!(find(&seen), Some((1, true)));
    }

    #[test]
    fn among_rewritten_ones_ours_was_renewed_just_now() {
        let first = [("x.example", 1, 20), ("y.example", 2, 300)];
        assert_eq!(find(&first), Some((1, true)));
        // Nobody gave us more than we asked for.
        let longer = [("x.example", 1, 900), ("y.example", 2, 250)];
        assert_eq!(find(&longer), Some((1, true)));
        let only_longer = [("x.example", 1, 900), ("y.example", 2, 600)];
        assert_eq!(find(&only_longer), Some((1, true)));
    }

    #[test]
    fn of_two_with_our_address_the_earlier_end_counts() {
        let twice = [("10.0.0.1", 5060, 300), ("10.0.0.1", 5060, 60)];
        assert_eq!(find(&twice), Some((1, false)));
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        assert_eq!(at("[2001:db8:0::1]", 0), at("2001:db8::1", 5060));
        assert_eq!(at("SBC.Example", 7), at("sbc.example", 7));
        assert_eq!(at("::ffff:10.0.0.1", 0), at("10.0.0.1", 0));
        assert_eq!(ContactAddress::new("h", 0, true), at("h", 5061));
        assert_ne!(at("h", 0), at("h", 5061));
    }
}
