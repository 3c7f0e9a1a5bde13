//! To whom a line's password may be proven.
//!
//! A digest (RFC 3261 section 22) made for a realm and nonce of somebody else's
//! choice lets him search for the password at home. Anybody who gets a request
//! of ours can ask for one: a caller answers our BYE with 401. So a challenge
//! is answered only where all of this holds:
//!
//! - the request went to an address of the line's server, and the challenge
//!   came from one;
//! - inside a dialog: the dialog was begun by us through the server, or came
//!   in from it;
//! - the realm is one that the registrar itself has used. A line whose
//!   registrar never asked (or that does not register) takes its domain, the
//!   name of its server, or the first realm that the server asks with before
//!   there is a dialog.
//!
//! Addresses of the server are those to which the line's own REGISTER and first
//! INVITEs go, and from which a REGISTER is answered: where these go is decided
//! by configuration and DNS, never by a caller.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long an address counts as the server's after the line last used it: a
/// day, since a line that does not register may place no call for hours.
const ADDRESS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Most addresses of one server; the one that was used longest ago goes first.
const ADDRESSES_MAX: usize = 16;
/// Most realms of one server.
const REALMS_MAX: usize = 8;

/// What is known of one account's server.
#[derive(Clone, Debug, Default)]
pub struct CredentialPolicy {
    names: Vec<String>,
    addresses: VecDeque<(IpAddr, Instant)>,
    realms: VecDeque<String>,
}

/// Which request was challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenged {
    /// A REGISTER.
    Register,
    /// A REGISTER that takes the registration back. It says nothing about
    /// where the server is now: that may be the server before a change.
    Unregister,
    /// The first INVITE of a call that we place.
    Invite,
    /// A request inside a dialog.
    InDialog {
        /// Whether the dialog was begun through the server, or came from it.
        with_server: bool,
    },
}

/// One challenge of a 401 or 407.
#[derive(Clone, Copy, Debug)]
pub struct Challenge<'a> {
    /// The request it answers.
    pub to: Challenged,
    /// Where that request went.
    pub sent_to: IpAddr,
    /// Where the challenge came from.
    pub came_from: IpAddr,
    /// The realm it names.
    pub realm: &'a str,
}

/// Why a challenge is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialWithheld {
    /// The dialog came from somebody else.
    #[error("the call did not come from the line's SIP server")]
    ForeignDialog,
    /// The request went somewhere else, or the challenge came from there.
    #[error("the challenge is not from the line's SIP server")]
    ForeignAddress,
    /// The registrar never used this realm.
    #[error("the line's registrar has not used this realm")]
    ForeignRealm,
}

impl CredentialPolicy {
    /// A policy for a server with these names: the line's domain and the host
    /// of its server. Those that are addresses are known from the start.
    #[must_use]
    pub fn new(names: &[&str], now: Instant) -> Self {
        let mut policy = Self {
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            ..Self::default()
        };
        for name in names {
            let name = name.trim_start_matches('[').trim_end_matches(']');
            if let Ok(address) = name.parse() {
                policy.learn_address(address, now);
            }
        }
        policy
    }

    /// The server has this address: a request that only it gets went there.
    pub fn learn_address(&mut self, address: IpAddr, now: Instant) {
        let address = address.to_canonical();
        self.addresses.retain(|(known, _)| *known != address);
        self.addresses.push_back((address, now));
        if self.addresses.len() > ADDRESSES_MAX {
            self.addresses.pop_front();
        }
    }

    /// Whether an address is the server's.
    #[must_use]
    pub fn is_server(&self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        self.addresses.iter().any(|(known, used)| {
            *known == address && now.saturating_duration_since(*used) < ADDRESS_KEPT
        })
    }

    /// Judges a challenge, and learns the realm where it is the registrar's.
    ///
    /// # Errors
    /// Says why it must not be answered.
    pub fn judge(
        &mut self,
        challenge: &Challenge<'_>,
        now: Instant,
    ) -> Result<(), CredentialWithheld> {
        match challenge.to {
            Challenged::Register => {
                self.learn_realm(challenge.realm);
                return Ok(());
            }
            Challenged::Unregister => return Ok(()),
            Challenged::InDialog { with_server: false } => {
                return Err(CredentialWithheld::ForeignDialog);
            }
            Challenged::Invite | Challenged::InDialog { with_server: true } => {}
        }
        let is_server = |address| self.is_server(address, now);
        if !is_server(challenge.sent_to) || !is_server(challenge.came_from) {
            return Err(CredentialWithheld::ForeignAddress);
        }
        if self.knows_realm(challenge.realm) {
            return Ok(());
        }
        if self.realms.is_empty() && challenge.to == Challenged::Invite {
            self.learn_realm(challenge.realm);
            return Ok(());
        }
        Err(CredentialWithheld::ForeignRealm)
    }

    fn learn_realm(&mut self, realm: &str) {
        let realm = realm.to_ascii_lowercase();
        self.realms.retain(|known| *known != realm);
        self.realms.push_back(realm);
        if self.realms.len() > REALMS_MAX {
            self.realms.pop_front();
        }
    }

    fn knows_realm(&self, realm: &str) -> bool {
        let is_it = |known: &String| known.eq_ignore_ascii_case(realm);
        if self.realms.is_empty() {
            return self.names.iter().any(is_it);
        }
        self.realms.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

    fn challenge(to: Challenged, address: IpAddr, realm: &str) -> Challenge<'_> {
        Challenge {
            to,
            sent_to: address,
            came_from: address,
            realm,
        }
    }

    fn registered(now: Instant) -> CredentialPolicy {
        let mut policy = CredentialPolicy::new(&["carrier.example"], now);
        policy.learn_address(SERVER, now);
        let first = challenge(Challenged::Register, SERVER, "carrier");
        assert_eq!(policy.judge(&first, now), Ok(()));
        policy
    }

    #[test]
    fn a_challenge_in_a_dialog_is_answered_only_to_the_server_and_in_its_realm() {
        let now = Instant::now();
        let mut policy = registered(now);
        let [ours, foreign] = [true, false].map(|with_server| Challenged::InDialog { with_server });
        let cases = [
            (challenge(ours, SERVER, "Carrier"), Ok(())),
            (
                challenge(foreign, SERVER, "carrier"),
                Err(CredentialWithheld::ForeignDialog),
            ),
            (
                challenge(ours, STRANGER, "carrier"),
                Err(CredentialWithheld::ForeignAddress),
            ),
            (
                challenge(ours, SERVER, "mallory"),
                Err(CredentialWithheld::ForeignRealm),
            ),
            (
                challenge(ours, SERVER, "carrier.example"),
                Err(CredentialWithheld::ForeignRealm),
            ),
        ];
        for (challenge, expected) in cases {
            assert_eq!(policy.judge(&challenge, now), expected, "{challenge:?}");
        }
        // Only one of the two addresses is the server's.
        for (sent_to, came_from) in [(SERVER, STRANGER), (STRANGER, SERVER)] {
            let mixed = Challenge {
                to: ours,
                sent_to,
                came_from,
                realm: "carrier",
            };
            assert_eq!(
                policy.judge(&mixed, now),
                Err(CredentialWithheld::ForeignAddress)
            );
        }
    }

    #[test]
    fn a_realm_is_learned_from_a_registrar_or_once_from_a_first_invite() {
        let now = Instant::now();
        let mut policy = registered(now);
        let invite = |realm| challenge(Challenged::Invite, SERVER, realm);
        assert_eq!(
            policy.judge(&invite("other"), now),
            Err(CredentialWithheld::ForeignRealm)
        );
        assert_eq!(policy.judge(&invite("carrier"), now), Ok(()));

        let mut trunk = CredentialPolicy::new(&["carrier.example", "192.0.2.1"], now);
        let in_dialog = Challenged::InDialog { with_server: true };
        let inside = |realm| challenge(in_dialog, SERVER, realm);
        assert_eq!(
            trunk.judge(&inside("first"), now),
            Err(CredentialWithheld::ForeignRealm)
        );
        assert_eq!(trunk.judge(&inside("CARRIER.example"), now), Ok(()));
        assert_eq!(trunk.judge(&invite("first"), now), Ok(()));
        assert_eq!(trunk.judge(&inside("first"), now), Ok(()));
        assert_eq!(
            trunk.judge(&invite("second"), now),
            Err(CredentialWithheld::ForeignRealm)
        );
    }

    #[test]
    fn the_last_word_to_an_old_server_teaches_nothing() {
        let now = Instant::now();
        let mut policy = registered(now);
        let old = challenge(Challenged::Unregister, STRANGER, "old");
        assert_eq!(policy.judge(&old, now), Ok(()));
        let invite = challenge(Challenged::Invite, SERVER, "old");
        assert_eq!(
            policy.judge(&invite, now),
            Err(CredentialWithheld::ForeignRealm)
        );
        assert!(!policy.is_server(STRANGER, now));
    }

    #[test]
    fn addresses_and_realms_are_few_and_addresses_are_forgotten() {
        let now = Instant::now();
        let mut policy = registered(now);
        assert!(policy.is_server("::ffff:192.0.2.1".parse().unwrap(), now));
        assert!(!policy.is_server(SERVER, now + ADDRESS_KEPT));
        for number in 0..100_u8 {
            policy.learn_address(IpAddr::from([10, 0, 0, number]), now);
            policy.learn_realm(&number.to_string());
        }
        assert!(policy.addresses.len() <= ADDRESSES_MAX && policy.realms.len() <= REALMS_MAX);
        assert!(!policy.is_server(SERVER, now));
    }
}
