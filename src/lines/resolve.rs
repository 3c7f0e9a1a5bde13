//! Which SIP server a line uses ([`crate::guide::phone_lines`]): the one it names, else the
//! global fallback, else the `--sip-*` flags. A line whose server is not
//! there is reported, never registered somewhere else.
//!
//! Leaves out where servers come from: whoever reads a table of them gives it
//! to [`SipServers::with_table`], opened by `load`.

use std::collections::HashMap;
use std::fmt;

use super::credentials::CredentialError;
use super::line::{FieldIssue, PhoneLine};
use super::server::ContactOverride;
use crate::core::access::Cidr;
use crate::core::address::{HostPort, Transport};
use crate::core::private::{Private, Secret};

/// A trunk: a row of `sip_servers`, or the `--sip-*` flags.
#[derive(Clone, Debug)]
pub struct SipServer {
    /// Registrar or outbound server.
    pub address: HostPort,
    /// Transport towards it.
    pub transport: Transport,
    /// User name for lines that have none of their own.
    pub username: Option<Private>,
    /// Password that belongs to that user name, in clear; or why it cannot be
    /// used, which concerns only the lines that need it.
    pub password: Result<Option<Secret>, CredentialError>,
    /// What REGISTER announces instead of our own address.
    pub contact: ContactOverride,
    /// Networks that its calls come from, beside its own addresses.
    pub allow_from: Vec<Cidr>,
}

/// Why a server of the table cannot be used, or its password. Never holds a value of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerProblem {
    /// What is wrong with its columns.
    Fields(Vec<FieldIssue>),
    /// Its password does not decrypt.
    Credential(CredentialError),
}

impl fmt::Display for ServerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields(issues) => {
                let issues: Vec<String> = issues.iter().map(ToString::to_string).collect();
                f.write_str(&issues.join("; "))
            }
            Self::Credential(error) => write!(f, "{error}"),
        }
    }
}

/// The servers of the table by id; one that cannot be used with the reason.
pub type ServerTable = HashMap<String, Result<SipServer, ServerProblem>>;

/// The servers that lines may use.
#[derive(Clone, Debug)]
pub struct SipServers {
    /// By id, as `sipServerId` names them.
    pub by_id: ServerTable,
    /// Id of the global fallback server, where the settings name one.
    pub fallback_id: Option<String>,
    /// `--sip-domain`.
    pub flags_domain: Option<HostPort>,
    /// `--sip-transport`: for every line without a server of its own.
    pub flags_transport: Transport,
}

impl SipServers {
    /// Only the flags: no table of servers.
    #[must_use]
    pub fn from_flags(domain: Option<HostPort>, transport: Transport) -> Self {
        Self {
            by_id: HashMap::new(),
            fallback_id: None,
            flags_domain: domain,
            flags_transport: transport,
        }
    }

    /// With a table of servers, and the id of the global fallback among them.
    #[must_use]
    pub fn with_table(self, by_id: ServerTable, fallback_id: Option<String>) -> Self {
        Self {
            by_id,
            fallback_id,
            ..self
        }
    }
}

/// Why a line has no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Its `sipServerId` is not known.
    #[error("sipServerId {0:?} is not a known SIP server")]
    Unknown(String),
    /// The global fallback server is not known.
    #[error("the global fallback SIP server {0:?} is not known")]
    UnknownFallback(String),
    /// The server it would use cannot be used.
    #[error("SIP server {id:?} cannot be used: {problem}")]
    Unusable {
        /// The server.
        id: String,
        /// Why.
        problem: ServerProblem,
    },
    /// It names no server, and there is none to fall back to.
    #[error(
        "has no sipDomain or sipServerId, and there is no --sip-domain (SIP_DOMAIN) to use instead"
    )]
    None,
    /// Neither the line nor its server has a user name.
    #[error("has no sipUsername")]
    NoUsername,
}

/// By which rule a line has its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRule {
    /// Its `sipServerId` names the server.
    OwnServer(String),
    /// The settings name it for all lines without one.
    Fallback(String),
    /// Its own `sipDomain`.
    OwnDomain,
    /// `--sip-domain`.
    Flags,
}

impl fmt::Display for ServerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnServer(id) => write!(f, "its sipServerId {id:?}"),
            Self::Fallback(id) => write!(f, "the fallback server {id:?}"),
            Self::OwnDomain => f.write_str("its sipDomain"),
            Self::Flags => f.write_str("--sip-domain"),
        }
    }
}

/// Where and as whom a line registers.
#[derive(Clone, Debug)]
pub struct Route {
    /// Host of the line's address `sip:username@domain`, without port.
    pub domain: String,
    /// Where requests go, `host` or `host:port`; the domain when absent.
    pub server: Option<String>,
    /// Transport towards the server.
    pub transport: Transport,
    /// User part of the address, and user name for digest.
    pub username: Private,
    /// The server's own password, where the user name is the server's.
    pub server_password: Option<Secret>,
    /// What REGISTER announces instead of our own address.
    pub contact: ContactOverride,
    /// Networks that the server's calls come from, beside its own addresses.
    pub allow_from: Vec<Cidr>,
    /// Why it is this server.
    pub rule: ServerRule,
}

impl SipServers {
    /// Finds the server of a line.
    ///
    /// # Errors
    /// When the server it names is unknown, or nothing names one.
    pub fn resolve(&self, line: &PhoneLine) -> Result<Route, ServerError> {
        match self.table_server(line)? {
            Some((id, server, rule)) => via_server(line, id, server, rule),
            None => self.via_domain(line),
        }
    }

    fn table_server<'a>(
        &'a self,
        line: &'a PhoneLine,
    ) -> Result<Option<(&'a str, &'a SipServer, ServerRule)>, ServerError> {
        let (id, rule, unknown): (_, _, fn(String) -> ServerError) =
            match (&line.sip_server_id, &self.fallback_id) {
                (Some(id), _) => (id, ServerRule::OwnServer(id.clone()), ServerError::Unknown),
                (None, Some(id)) => {
                    let rule = ServerRule::Fallback(id.clone());
                    (id, rule, ServerError::UnknownFallback)
                }
                (None, None) => return Ok(None),
            };
        match self.by_id.get(id) {
            Some(Ok(server)) => Ok(Some((id, server, rule))),
            Some(Err(problem)) => Err(ServerError::Unusable {
                id: id.clone(),
                problem: problem.clone(),
            }),
            None => Err(unknown(id.clone())),
        }
    }

    /// The line's own domain wins over the flags'. The flags' user name is
    /// that of the flags' own line, so it is not lent to others.
    fn via_domain(&self, line: &PhoneLine) -> Result<Route, ServerError> {
        let (domain, rule) = match (&line.sip_domain, &self.flags_domain) {
            (Some(own), _) => (own, ServerRule::OwnDomain),
            (None, Some(flags)) => (flags, ServerRule::Flags),
            (None, None) => return Err(ServerError::None),
        };
        let username = line.sip_username.clone().ok_or(ServerError::NoUsername)?;
        let route = Route::to_domain(domain, self.flags_transport, username);
        Ok(Route { rule, ..route })
    }
}

impl Route {
    /// Where requests go: `host` or `host:port`.
    #[must_use]
    pub fn server(&self) -> &str {
        self.server.as_ref().unwrap_or(&self.domain)
    }

    /// Straight to the server that `--sip-domain` names.
    #[must_use]
    pub fn to_domain(domain: &HostPort, transport: Transport, username: Private) -> Self {
        Self {
            domain: domain.host().to_owned(),
            server: domain.port().map(|_| domain.to_string()),
            transport,
            username,
            server_password: None,
            contact: ContactOverride::default(),
            allow_from: Vec::new(),
            rule: ServerRule::Flags,
        }
    }
}

fn via_server(
    line: &PhoneLine,
    id: &str,
    server: &SipServer,
    rule: ServerRule,
) -> Result<Route, ServerError> {
    let (username, server_password) = match (&line.sip_username, &server.username) {
        (Some(own), _) => (own.clone(), None),
        // A password of the line's own comes before the server's.
        (None, Some(shared)) if line.stored_password.is_some() => (shared.clone(), None),
        (None, Some(shared)) => {
            let password = server.password.clone();
            let password = password.map_err(|error| ServerError::Unusable {
                id: id.to_owned(),
                problem: ServerProblem::Credential(error),
            })?;
            (shared.clone(), password)
        }
        (None, None) => return Err(ServerError::NoUsername),
    };
    let domain = line.sip_domain.as_ref().unwrap_or(&server.address);
    Ok(Route {
        domain: domain.host().to_owned(),
        server: Some(server.address.to_string()),
        transport: server.transport,
        username,
        server_password,
        contact: server.contact.clone(),
        allow_from: server.allow_from.clone(),
        rule,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::LineId;
    use crate::lines::entry::{LineEntry, read_entry};
    use crate::lines::line::FieldProblem;
    use serde_json::{Value, json};

    fn line(value: Value) -> PhoneLine {
        let Value::Object(object) = value else {
            panic!("not an object")
        };
        match read_entry(object).0 {
            LineEntry::Line(line) => *line,
            other => panic!("{other:?}"),
        }
    }

    fn host(text: &str) -> HostPort {
        HostPort::parse(text).expect(text)
    }

    fn with_server() -> SipServers {
        let mut servers = SipServers::from_flags(Some(host("flags.example")), Transport::Udp);
        servers.by_id.insert(
            "t".into(),
            Ok(SipServer {
                address: host("trunk.example:5090"),
                transport: Transport::Tcp,
                username: Some(Private::new("shared-user")),
                password: Ok(Some(Secret::new("shared".into()))),
                contact: ContactOverride::default(),
                allow_from: Vec::new(),
            }),
        );
        servers
    }

    #[test]
    fn a_lines_own_domain_wins_over_the_flags() {
        let servers = SipServers::from_flags(Some(host("flags.example")), Transport::Tls);
        let own = servers
            .resolve(&line(
                json!({"id":1,"sipUsername":"u","sipDomain":"own.example:5080"}),
            ))
            .expect("own");
        assert_eq!(own.domain, "own.example");
        assert_eq!(own.server.as_deref(), Some("own.example:5080"));
        assert_eq!(own.rule, ServerRule::OwnDomain);
        let flags = servers
            .resolve(&line(json!({"id":1,"sipUsername":"u"})))
            .expect("flags");
        assert_eq!(
            (flags.domain.as_str(), flags.server),
            ("flags.example", None)
        );
        assert_eq!(flags.transport, Transport::Tls);
        assert_eq!(flags.rule, ServerRule::Flags);
    }

    #[test]
    fn the_named_server_comes_first_and_the_fallback_next() {
        let mut servers = with_server();
        let named =
            line(json!({"id":1,"sipUsername":"u","sipServerId":"t","sipDomain":"own.example"}));
        let route = servers.resolve(&named).expect("named");
        assert_eq!(route.server.as_deref(), Some("trunk.example:5090"));
        assert_eq!(route.rule, ServerRule::OwnServer("t".into()));
        assert_eq!(
            (route.domain.as_str(), route.transport),
            ("own.example", Transport::Tcp)
        );
        assert!(
            route.server_password.is_none(),
            "the line's own user has its own password"
        );
        servers.fallback_id = Some("t".into());
        let route = servers.resolve(&line(json!({"id":1}))).expect("fallback");
        assert_eq!(route.rule, ServerRule::Fallback("t".into()));
        assert_eq!(route.domain, "trunk.example");
        assert_eq!(route.username.expose(), "shared-user");
        assert_eq!(
            route.server_password.expect("the server's").expose(),
            "shared"
        );
    }

    #[test]
    fn a_line_whose_server_is_missing_is_registered_nowhere() {
        let mut servers = with_server();
        let lost =
            line(json!({"id":1,"sipUsername":"u","sipServerId":"gone","sipDomain":"own.example"}));
        assert_eq!(
            servers.resolve(&lost).err(),
            Some(ServerError::Unknown("gone".into()))
        );
        servers.fallback_id = Some("gone".into());
        let bare = line(json!({"id":1,"sipUsername":"u","sipDomain":"own.example"}));
        assert_eq!(
            servers.resolve(&bare).err(),
            Some(ServerError::UnknownFallback("gone".into()))
        );
        let none = SipServers::from_flags(None, Transport::Udp);
        let bare = line(json!({"id": LineId::new("x").as_str(), "sipUsername":"u"}));
        assert_eq!(none.resolve(&bare).err(), Some(ServerError::None));
        let anonymous = line(json!({"id":1,"sipDomain":"own.example"}));
        assert_eq!(
            none.resolve(&anonymous).err(),
            Some(ServerError::NoUsername)
        );
    }

    #[test]
    fn a_line_whose_server_is_unusable_is_registered_nowhere() {
        let mut servers = with_server();
        let fields = vec![FieldIssue {
            field: "trunk_uri".into(),
            problem: FieldProblem::Missing,
        }];
        let problem = ServerProblem::Fields(fields);
        servers.by_id.insert("bad".into(), Err(problem.clone()));
        let named =
            line(json!({"id":1,"sipUsername":"u","sipServerId":"bad","sipDomain":"own.example"}));
        let id = "bad".to_owned();
        let expected = Some(ServerError::Unusable { id, problem });
        assert_eq!(servers.resolve(&named).err(), expected);
        servers.fallback_id = Some("bad".into());
        let bare = line(json!({"id":1,"sipUsername":"u","sipDomain":"own.example"}));
        assert_eq!(servers.resolve(&bare).err(), expected);
        // One that names a good server is not touched by it.
        let good = line(json!({"id":1,"sipUsername":"u","sipServerId":"t"}));
        assert!(servers.resolve(&good).is_ok());
    }

    #[test]
    fn a_server_password_that_does_not_open_concerns_who_needs_it_alone() {
        let mut servers = with_server();
        for server in servers.by_id.values_mut().flatten() {
            server.password = Err(CredentialError::Authentication);
        }
        for needs_it in [
            json!({"id":1,"sipServerId":"t"}),
            json!({"id":1,"sipServerId":"t","sipPassword":""}),
        ] {
            let expected = ServerError::Unusable {
                id: "t".into(),
                problem: ServerProblem::Credential(CredentialError::Authentication),
            };
            assert_eq!(servers.resolve(&line(needs_it)).err(), Some(expected));
        }
        for has_its_own in [
            json!({"id":1,"sipServerId":"t","sipUsername":"u","sipPassword":"pw"}),
            json!({"id":1,"sipServerId":"t","sipUsername":"u"}),
            json!({"id":1,"sipServerId":"t","sipPassword":"pw"}),
        ] {
            let route = servers.resolve(&line(has_its_own)).expect("usable");
            assert!(route.server_password.is_none());
        }
    }
}
