//! Makes lines ready: finds each one's server and opens its credential.
//!
//! Leaves out where lines come from, and the SIP engine's account.

use std::collections::HashMap;
use std::fmt;

use super::credential_cache::{CredentialCache, Opened};
use super::credentials::{Credential, CredentialError};
use super::line::PhoneLine;
use super::resolve::{Route, ServerError, ServerProblem, ServerTable, SipServer, SipServers};
use super::row::Row;
use super::server::{StoredServer, read_server};
use crate::core::address::{HostPort, Transport};
use crate::core::ids::LineId;
use crate::core::key::MasterKey;
use crate::core::private::{Private, Secret};

/// Id of the line that the `--sip-*` flags describe.
pub const FLAGS_LINE_ID: &str = "default";

/// A line that can be handed to the SIP engine.
#[derive(Clone, Debug)]
pub struct ReadyLine {
    /// What the file or the flags say about it; the stored password is taken out.
    pub line: PhoneLine,
    /// Where and as whom it registers.
    pub route: Route,
    /// Digest password in clear; `None` when the trunk needs none, or as long as
    /// it is sealed.
    pub password: Option<Secret>,
    /// Whether its password is still to be decrypted.
    pub is_sealed: bool,
}

impl ReadyLine {
    /// The one line that `--sip-domain`, `--sip-username` and
    /// `--sip-password` describe. Its password is never an encrypted one.
    #[must_use]
    pub fn from_flags(
        domain: &HostPort,
        transport: Transport,
        username: Private,
        password: Option<Secret>,
    ) -> Self {
        let id = LineId::new(FLAGS_LINE_ID);
        Self {
            password,
            ..Self::bare(id, domain, transport, username)
        }
    }

    /// A line that registers at this domain without a password, and of which nothing else is known.
    #[must_use]
    pub fn bare(id: LineId, domain: &HostPort, transport: Transport, username: Private) -> Self {
        Self {
            line: PhoneLine::bare(id, username.clone()),
            route: Route::to_domain(domain, transport, username),
            password: None,
            is_sealed: false,
        }
    }
}

/// A line whose password is still to be decrypted.
#[derive(Clone, Debug)]
pub struct SealedLine {
    /// The line as far as it is known: without its password.
    pub ready: ReadyLine,
    /// The password, encrypted.
    pub stored: Secret,
}

impl SealedLine {
    /// Decrypts its password, which takes about 20 ms of CPU.
    ///
    /// # Errors
    /// When it does not decrypt.
    pub fn open(&self, key: Option<&MasterKey>) -> Opened {
        Credential::open(key, self.ready.line.id.as_str(), Some(&self.stored))
    }

    /// The line with its password.
    #[must_use]
    pub fn unseal(self, credential: Credential) -> ReadyLine {
        let server_password = self.ready.route.server_password.clone();
        ReadyLine {
            password: credential.into_password().or(server_password),
            is_sealed: false,
            ..self.ready
        }
    }
}

/// Why a line cannot be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableReason {
    /// No server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// No password.
    #[error("field \"sipPassword\": {0}")]
    Credential(#[from] CredentialError),
    /// Its id is that of the line of the flags.
    #[error("has the id of the line that --sip-username describes: give it another")]
    FlagsLineId,
}

/// A line that is reported and not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableLine {
    /// The line.
    pub id: LineId,
    /// Why.
    pub reason: UnusableReason,
}

impl fmt::Display for UnusableLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {:?}: {}", self.id.as_str(), self.reason)
    }
}

/// Something to tell the operator about a line that starts all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineWarning {
    /// Its password is stored in clear.
    PlainPassword(LineId),
    /// The password of a SIP server is stored in clear.
    PlainServerPassword(String),
    /// It registers the same user at the same domain as an earlier line.
    SameAddress {
        /// The later line.
        line: LineId,
        /// The earlier one.
        first: LineId,
    },
}

impl fmt::Display for LineWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainPassword(id) => write!(
                f,
                "line {:?}: its password is stored in clear: encrypt it with `sipbridge encrypt --line-id ID`",
                id.as_str()
            ),
            Self::PlainServerPassword(id) => write!(
                f,
                "SIP server {id:?}: its password is stored in clear: encrypt it with `sipbridge encrypt --line-id ID`"
            ),
            Self::SameAddress { line, first } => write!(
                f,
                "line {:?}: has the same sipUsername and domain as line {:?}: their calls may be mixed up",
                line.as_str(),
                first.as_str()
            ),
        }
    }
}

/// All lines, sorted into those that start and those that do not; each in
/// the order it came in.
#[derive(Clone, Debug, Default)]
pub struct LoadedLines {
    /// Lines to start.
    pub ready: Vec<ReadyLine>,
    /// Lines to report.
    pub unusable: Vec<UnusableLine>,
    /// What to warn about.
    pub warnings: Vec<LineWarning>,
    /// Lines whose passwords are still to be decrypted.
    pub sealed: Vec<SealedLine>,
}

/// Makes lines ready. Takes about 20 ms of CPU for each encrypted password,
/// spread over all cores; blocks until done, so call it off the async threads.
#[must_use]
pub fn load(lines: Vec<PhoneLine>, key: Option<&MasterKey>, servers: &SipServers) -> LoadedLines {
    load_with(lines, key, servers, &mut CredentialCache::default())
}

/// The same, with what was opened before; what the cache leaves to others is
/// sealed.
#[must_use]
pub fn load_with(
    lines: Vec<PhoneLine>,
    key: Option<&MasterKey>,
    servers: &SipServers,
    cache: &mut CredentialCache,
) -> LoadedLines {
    let routes: Vec<_> = lines.iter().map(|line| servers.resolve(line)).collect();
    // The password of a line without a server is nobody's business.
    let wanted: Vec<(&str, Option<&Secret>)> = lines
        .iter()
        .zip(&routes)
        .filter(|(_, route)| route.is_ok())
        .map(|(line, _)| (line.id.as_str(), line.stored_password.as_ref()))
        .collect();
    cache.open(key, &wanted);
    let mut loaded = LoadedLines::default();
    let mut addresses: HashMap<(String, String), LineId> = HashMap::new();
    for (mut line, route) in lines.into_iter().zip(routes) {
        let stored = line.stored_password.take();
        let opened = route
            .map_err(UnusableReason::from)
            .map(|route| (route, cache.get(line.id.as_str())));
        match opened {
            Err(reason) => loaded.unusable.push(UnusableLine {
                id: line.id,
                reason,
            }),
            Ok((route, None)) => {
                let twin = same_address(&line.id, &route, &mut addresses);
                loaded.warnings.extend(twin);
                let ready = ReadyLine {
                    line,
                    route,
                    password: None,
                    is_sealed: true,
                };
                let stored = stored.unwrap_or_default();
                loaded.sealed.push(SealedLine { ready, stored });
            }
            Ok((_, Some(Err(error)))) => loaded.unusable.push(UnusableLine {
                id: line.id,
                reason: error.into(),
            }),
            Ok((route, Some(Ok(credential)))) => {
                if matches!(credential, Credential::Plain(_)) {
                    let plain = LineWarning::PlainPassword(line.id.clone());
                    loaded.warnings.push(plain);
                }
                let twin = same_address(&line.id, &route, &mut addresses);
                loaded.warnings.extend(twin);
                let password = credential.into_password().or(route.server_password.clone());
                loaded.ready.push(ReadyLine {
                    line,
                    route,
                    password,
                    is_sealed: false,
                });
            }
        }
    }
    loaded
}

/// Reads the rows of `sip_servers` and opens their credentials, in parallel.
/// A server that says no transport gets `transport`.
#[must_use]
pub fn open_servers(
    rows: &[Row],
    key: Option<&MasterKey>,
    transport: Transport,
    cache: &mut CredentialCache,
) -> (ServerTable, Vec<LineWarning>) {
    let read: Vec<_> = rows.iter().map(read_server).collect();
    let wanted: Vec<(&str, Option<&Secret>)> = read
        .iter()
        .flatten()
        .map(|server| (server.id.as_str(), server.stored_password.as_ref()))
        .collect();
    cache.open(key, &wanted);
    let mut table = ServerTable::new();
    let mut warnings = Vec::new();
    for (row, server) in rows.iter().zip(read) {
        let id = row.id().unwrap_or_default().to_owned();
        let opened = server
            .map_err(ServerProblem::Fields)
            .map(|server| open_server(server, transport, cache));
        if let Ok((_, true)) = opened {
            warnings.push(LineWarning::PlainServerPassword(id.clone()));
        }
        table.insert(id, opened.map(|(server, _)| server));
    }
    (table, warnings)
}

/// The server, and whether its password is stored in clear.
fn open_server(
    server: StoredServer,
    transport: Transport,
    cache: &CredentialCache,
) -> (SipServer, bool) {
    // Servers are few: their cache opens all of them at once.
    let opened = cache.get(&server.id).unwrap_or(Ok(Credential::Absent));
    let is_plain = matches!(opened, Ok(Credential::Plain(_)));
    let server = SipServer {
        address: server.trunk.address,
        transport: server.trunk.transport.unwrap_or(transport),
        username: server.username,
        password: opened.map(Credential::into_password),
        contact: server.contact,
        allow_from: server.allow_from,
    };
    (server, is_plain)
}

/// Whether an earlier line has the same user at the same domain.
fn same_address(
    id: &LineId,
    route: &Route,
    addresses: &mut HashMap<(String, String), LineId>,
) -> Option<LineWarning> {
    let address = (route.username.expose().to_owned(), route.domain.clone());
    let first = addresses.entry(address).or_insert_with(|| id.clone());
    (first != id).then(|| LineWarning::SameAddress {
        line: id.clone(),
        first: first.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::file::parse;
    use std::path::Path;

    fn key() -> MasterKey {
        MasterKey::parse(&"0f".repeat(32)).expect("valid")
    }

    fn servers() -> SipServers {
        let domain = HostPort::parse("sip.example.com").expect("valid");
        SipServers::from_flags(Some(domain), Transport::Udp)
    }

    fn lines(text: &str) -> Vec<PhoneLine> {
        parse(Path::new("lines.json"), text.as_bytes())
            .expect("JSON")
            .lines
    }

    #[test]
    fn unusable_lines_do_not_keep_the_others_from_starting() {
        let stored = key().encrypt("good", &Secret::new("hunter2".into()));
        let text = format!(
            r#"[{{"id":"good","sipUsername":"1","sipPassword":"{stored}"}},
                {{"id":"moved","sipUsername":"2","sipPassword":"{stored}"}},
                {{"id":"plain","sipUsername":"3","sipPassword":"letmein"}},
                {{"id":"none","sipUsername":"4"}},
                {{"id":"lost","sipUsername":"5","sipServerId":"x"}},
                {{"id":"twin","sipUsername":"1"}}]"#
        );
        let loaded = load(lines(&text), Some(&key()), &servers());
        let ready: Vec<_> = loaded
            .ready
            .iter()
            .map(|ready| {
                (
                    ready.line.id.as_str(),
                    ready.password.as_ref().map(Secret::expose),
                )
            })
            .collect();
        assert_eq!(
            ready,
            [
                ("good", Some("hunter2")),
                ("plain", Some("letmein")),
                ("none", None),
                ("twin", None)
            ]
        );
        let unusable: Vec<_> = loaded.unusable.iter().map(ToString::to_string).collect();
        assert!(unusable[0].starts_with(
            "line \"moved\": field \"sipPassword\": the encrypted password does not decrypt"
        ));
        assert_eq!(
            unusable[1],
            "line \"lost\": sipServerId \"x\" is not a known SIP server"
        );
        assert_eq!(
            loaded.warnings,
            [
                LineWarning::PlainPassword(LineId::new("plain")),
                LineWarning::SameAddress {
                    line: LineId::new("twin"),
                    first: LineId::new("good")
                },
            ]
        );
        let shown = format!("{loaded:?} {:?}", loaded.warnings);
        for secret in ["hunter2", "letmein", stored.as_str()] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn without_a_key_encrypted_lines_are_unusable() {
        let stored = key().encrypt("1", &Secret::new("pw".into()));
        let text = format!(r#"[{{"id":1,"sipUsername":"1","sipPassword":"{stored}"}}]"#);
        let loaded = load(lines(&text), None, &servers());
        assert_eq!(
            loaded.unusable[0].reason,
            UnusableReason::Credential(CredentialError::NoKey)
        );
    }

    #[test]
    fn what_is_left_to_others_is_sealed_and_the_rest_is_as_ever() {
        let stored = key().encrypt("good", &Secret::new("hunter2".into()));
        let text = format!(
            r#"[{{"id":"good","sipUsername":"1","sipPassword":"{stored}"}},
                {{"id":"plain","sipUsername":"1","sipPassword":"letmein"}},
                {{"id":"lost","sipUsername":"5","sipServerId":"x","sipPassword":"{stored}"}}]"#
        );
        let mut cache = CredentialCache::deferring();
        let loaded = load_with(lines(&text), Some(&key()), &servers(), &mut cache);
        let [sealed] = &loaded.sealed[..] else {
            panic!("{:?}", loaded.sealed)
        };
        assert_eq!(sealed.ready.line.id.as_str(), "good");
        assert!(sealed.ready.is_sealed && sealed.ready.password.is_none());
        assert_eq!(loaded.ready.len(), 1);
        assert!(matches!(
            loaded.unusable[0].reason,
            UnusableReason::Server(_)
        ));
        assert_eq!(
            loaded.warnings.len(),
            2,
            "in clear, and of the same address"
        );
        let credential = sealed.open(Some(&key())).expect("its own key");
        let ready = sealed.clone().unseal(credential);
        assert_eq!(ready.password.as_ref().map(Secret::expose), Some("hunter2"));
        // Put in, it is ready from then on.
        let again = Credential::Decrypted(Secret::new("hunter2".into()));
        cache.put("good", Secret::new(stored), Ok(again));
        let loaded = load_with(lines(&text), Some(&key()), &servers(), &mut cache);
        assert!(loaded.sealed.is_empty() && loaded.ready.len() == 2);
    }

    #[test]
    fn many_lines_keep_their_order() {
        let entries: Vec<_> = (0..500)
            .map(|id| format!(r#"{{"id":{id},"sipUsername":"u{id}"}}"#))
            .collect();
        let loaded = load(lines(&format!("[{}]", entries.join(","))), None, &servers());
        let ids = loaded
            .ready
            .iter()
            .map(|ready| ready.line.id.as_str().parse());
        assert!(ids.eq((0..500).map(Ok::<i32, std::num::ParseIntError>)));
        assert!(load(Vec::new(), None, &servers()).ready.is_empty());
    }

    #[test]
    fn servers_are_opened_by_their_own_id_and_their_mistakes_are_kept_apart() {
        let stored = key().encrypt("s1", &Secret::new("hunter2".into()));
        let row = |value: serde_json::Value| {
            Row::from_object(
                crate::lines::row::SERVER_COLUMNS,
                value.as_object().expect("object"),
            )
        };
        let rows = [
            row(
                serde_json::json!({"id": "s1", "trunk_uri": "sip:a.example;transport=tls",
                "username": "shared", "password": stored}),
            ),
            row(serde_json::json!({"id": "s2", "trunk_uri": "sip:a.example", "password": stored})),
            row(serde_json::json!({"id": "s3", "trunk_uri": "sip:u@a.example"})),
            row(
                serde_json::json!({"id": "s4", "trunk_uri": "sip:a.example", "password": "letmein"}),
            ),
            row(serde_json::json!({"id": "s5", "trunk_uri": "sip:a.example", "password": ""})),
        ];
        let (table, warnings) = open_servers(
            &rows,
            Some(&key()),
            Transport::Tcp,
            &mut CredentialCache::default(),
        );
        let opened = |id: &str| {
            let server = table[id].as_ref().expect(id);
            let password = server.password.as_ref().map_err(|error| *error);
            let password = password.map(|pw| pw.as_ref().map(|pw| pw.expose().to_owned()));
            (server.transport, password)
        };
        let plain = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(opened("s1"), (Transport::Tls, plain("hunter2")));
        assert_eq!(opened("s4"), (Transport::Tcp, plain("letmein")));
        assert_eq!(opened("s5"), (Transport::Tcp, Ok(None)));
        let other_salt = Err(CredentialError::Authentication);
        assert_eq!(opened("s2"), (Transport::Tcp, other_salt));
        assert!(
            table["s3"]
                .as_ref()
                .expect_err("user")
                .to_string()
                .starts_with("field \"trunk_uri\" must be like")
        );
        assert_eq!(warnings, [LineWarning::PlainServerPassword("s4".into())]);
        let servers = servers().with_table(table, Some("s1".into()));
        // An empty password is none.
        let text = r#"[{"id":"x"},{"id":"y","sipPassword":""}]"#;
        let loaded = load(lines(text), Some(&key()), &servers);
        for ready in &loaded.ready {
            assert_eq!(ready.password.as_ref().map(Secret::expose), Some("hunter2"));
        }
        // The server's password was decrypted once, for all of them.
        let mut cache = CredentialCache::deferring();
        let deferred = load_with(lines(text), Some(&key()), &servers, &mut cache);
        assert!(deferred.sealed.is_empty() && deferred.ready.len() == 2);
        let is_plain = |warning: &LineWarning| matches!(warning, LineWarning::PlainPassword(_));
        assert!(loaded.ready.len() == 2 && !loaded.warnings.iter().any(is_plain));
    }
}
