//! One look-up: SRV, then A and AAAA (RFC 3263 4.2), with the system's name
//! servers and hosts file, which are read again whenever they change.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy,
};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::xfer::Protocol;
use hickory_resolver::{Name, ResolveError, TokioResolver};
use rand::RngExt as _;

use super::resolv_conf::{Hosts, NameServer, ResolvConf};
use super::target::{ADDRESSES_MAX, SRV_MAX, Srv, Target, order};

/// How long one look-up may take in all.
const LOOKUP_MAX: Duration = Duration::from_secs(15);
/// How much of that SRV may take: there are name servers that never answer
/// for it, and the host's own address is still to be asked for.
const SRV_LOOKUP_MAX: Duration = Duration::from_secs(6);
/// Validity of what the hosts file says: it is read again when it changes.
const HOSTS_TTL: Duration = Duration::from_secs(300);

/// Where the system keeps what it knows of names.
#[derive(Clone, Debug)]
pub struct Files {
    /// `/etc/resolv.conf`, or what `--resolv-conf` names.
    pub resolv_conf: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// Where a target's servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// In the order in which they are tried; never empty.
    pub addresses: Vec<SocketAddr>,
    /// Whether SRV records say so.
    pub by_srv: bool,
    /// Until it should be asked again.
    pub valid_until: Instant,
}

/// Why a target was not located.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The name servers say that there is nothing.
    #[error("its name has no address")]
    NoAddress,
    /// SRV says that the service is not offered there (RFC 2782, target `.`).
    #[error("its SRV record says that it offers no SIP over this transport")]
    NotOffered,
    /// No name server gave a usable answer.
    #[error("no name server gave an answer: {0}")]
    NoAnswer(String),
    /// Too many look-ups wait for an answer.
    #[error("too many names are being looked up")]
    TooMany,
}

impl LocateError {
    /// Whether the name servers were heard, and there is nothing.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        matches!(self, Self::NoAddress | Self::NotOffered)
    }
}

/// When and how large the files were when they were read.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// Looks names up.
pub struct Lookup {
    files: Files,
    stamp: Stamp,
    hosts: Hosts,
    resolver: TokioResolver,
}

impl Lookup {
    /// Reads the files; a missing one is an empty one.
    pub fn new(files: Files) -> Self {
        let stamp = stamp(&files);
        let (hosts, resolver) = read(&files);
        Self {
            files,
            stamp,
            hosts,
            resolver,
        }
    }

    /// Reads the files again where one of them is another by now; whether so.
    pub fn refresh(&mut self) -> bool {
        let found = stamp(&self.files);
        if found == self.stamp {
            return false;
        }
        self.stamp = found;
        (self.hosts, self.resolver) = read(&self.files);
        true
    }

    /// What one look-up needs, so that it can run beside others.
    pub fn asker(&self) -> Asker {
        Asker {
            hosts: self.hosts.clone(),
            resolver: self.resolver.clone(),
        }
    }
}

fn stamp(files: &Files) -> Stamp {
    [&files.resolv_conf, &files.hosts].map(|path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    })
}

fn read(files: &Files) -> (Hosts, TokioResolver) {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let conf = ResolvConf::parse(&text(&files.resolv_conf));
    (Hosts::parse(&text(&files.hosts)), resolver(&conf))
}

fn resolver(conf: &ResolvConf) -> TokioResolver {
    let mut config = ResolverConfig::new();
    for server in &conf.name_servers {
        let address = scoped(server);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut server = NameServerConfig::new(address, protocol);
            server.trust_negative_responses = true;
            config.add_name_server(server);
        }
    }
    for domain in &conf.search {
        // A domain that is none is left out, as the C library does it.
        if let Ok(mut name) = Name::from_utf8(domain) {
            name.set_fqdn(true);
            config.add_search(name);
        }
    }
    let provider = TokioConnectionProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    options.ndots = conf.ndots;
    options.timeout = conf.timeout;
    // Here the first try does not count.
    options.attempts = conf.attempts.saturating_sub(1);
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // What was found is kept here, by target.
    options.cache_size = 0;
    options.edns0 = true;
    options.server_ordering_strategy = match conf.rotate {
        true => ServerOrderingStrategy::QueryStatistics,
        false => ServerOrderingStrategy::UserProvidedOrder,
    };
    builder.build()
}

/// The address of a name server with the number of its interface.
fn scoped(server: &NameServer) -> SocketAddr {
    let mut address = server.address;
    if let (SocketAddr::V6(v6), Some(name)) = (&mut address, &server.scope)
        && v6.scope_id() == 0
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/')
    {
        let number = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
        let number = number.ok().and_then(|text| text.trim().parse().ok());
        v6.set_scope_id(number.unwrap_or(0));
    }
    address
}

/// Asks for one target.
pub struct Asker {
    hosts: Hosts,
    resolver: TokioResolver,
}

/// Addresses of a host, and until when they hold.
type Found = (Vec<IpAddr>, Instant);

impl Asker {
    /// Finds the servers of a target; by its name alone, where name servers do
    /// not answer for SRV, only if it `may_fall_back`.
    ///
    /// # Errors
    /// When there are none, or no name server can be reached in time.
    pub async fn locate(
        &self,
        target: &Target,
        may_fall_back: bool,
    ) -> Result<Located, LocateError> {
        let asked = tokio::time::timeout(LOOKUP_MAX, self.ask(target, may_fall_back)).await;
        asked.unwrap_or_else(|_| {
            let seconds = LOOKUP_MAX.as_secs();
            Err(LocateError::NoAnswer(format!("none within {seconds} s")))
        })
    }

    async fn ask(&self, target: &Target, may_fall_back: bool) -> Result<Located, LocateError> {
        if let Some(address) = target.numeric() {
            return Ok(Located {
                addresses: vec![address],
                by_srv: false,
                valid_until: Instant::now() + HOSTS_TTL,
            });
        }
        let in_hosts = !self.hosts.get(target.host()).is_empty();
        // Who writes a server into the hosts file means that address.
        let srv = target.srv_name().filter(|_| !in_hosts);
        let srv = match srv {
            Some(name) => self.srv(&name, target).await,
            None => Ok(None),
        };
        match srv {
            Ok(Some((records, valid_until))) => self.locate_records(records, valid_until).await,
            Ok(None) => self.locate_host(target).await,
            // Some name servers know no SRV at all and say so by an error.
            Err(error) if error.is_definite() || !may_fall_back => Err(error),
            Err(error) => self.locate_host(target).await.map_err(|_| error),
        }
    }

    /// SRV records in the order they are tried; `None` where there are none.
    async fn srv(
        &self,
        name: &str,
        target: &Target,
    ) -> Result<Option<(Vec<Srv>, Instant)>, LocateError> {
        // The search list is for short names; behind a service it would ask
        // for what nobody means.
        let absolute = target.host().contains('.') && !name.ends_with('.');
        let name = if absolute {
            format!("{name}.")
        } else {
            name.to_owned()
        };
        let asked = tokio::time::timeout(SRV_LOOKUP_MAX, self.resolver.srv_lookup(name)).await;
        let found = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) if is_nothing(&error) => return Ok(None),
            Ok(Err(error)) => return Err(no_answer(&error)),
            Err(_) => return Err(LocateError::NoAnswer("none for SRV in time".into())),
        };
        let records: Vec<Srv> = found
            .iter()
            .map(|record| Srv {
                priority: record.priority(),
                weight: record.weight(),
                port: record.port(),
                host: record.target().to_utf8(),
            })
            .take(4 * SRV_MAX)
            .collect();
        match records.as_slice() {
            [] => Ok(None),
            [only] if only.host == "." => Err(LocateError::NotOffered),
            _ => {
                let draw = |total: u32| rand::rng().random_range(0..=total);
                let until = found.as_lookup().valid_until();
                Ok(Some((order(records, draw), until)))
            }
        }
    }

    /// The hosts of SRV records, one after the other.
    async fn locate_records(
        &self,
        records: Vec<Srv>,
        mut valid_until: Instant,
    ) -> Result<Located, LocateError> {
        let hosts = records.iter().map(|record| self.addresses(&record.host));
        let found = futures_util::future::join_all(hosts).await;
        let mut addresses = Vec::new();
        let mut failed = LocateError::NoAddress;
        for (record, found) in records.iter().zip(found) {
            match found {
                Ok((ips, until)) => {
                    valid_until = valid_until.min(until);
                    addresses.extend(ips.iter().map(|ip| SocketAddr::new(*ip, record.port)));
                }
                Err(error) if error.is_definite() => {}
                Err(error) => failed = error,
            }
        }
        located(addresses, true, valid_until, failed)
    }

    async fn locate_host(&self, target: &Target) -> Result<Located, LocateError> {
        let (ips, valid_until) = self.addresses(target.host()).await?;
        let port = target.port_or_default();
        let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, port));
        located(addresses, false, valid_until, LocateError::NoAddress)
    }

    /// The addresses of a host: those of the hosts file, else A and AAAA.
    async fn addresses(&self, host: &str) -> Result<Found, LocateError> {
        let known = self.hosts.get(host);
        if !known.is_empty() {
            return Ok((known.to_vec(), Instant::now() + HOSTS_TTL));
        }
        match self.resolver.lookup_ip(host).await {
            Ok(found) => {
                let mut ips: Vec<IpAddr> = found.iter().take(ADDRESSES_MAX).collect();
                ips.sort_by_key(IpAddr::is_ipv6);
                Ok((ips, found.valid_until()))
            }
            Err(error) if is_nothing(&error) => Err(LocateError::NoAddress),
            Err(error) => Err(no_answer(&error)),
        }
    }
}

fn located(
    addresses: impl IntoIterator<Item = SocketAddr>,
    by_srv: bool,
    valid_until: Instant,
    failed: LocateError,
) -> Result<Located, LocateError> {
    let mut seen = HashSet::new();
    let new = addresses
        .into_iter()
        .filter(|address| seen.insert(*address));
    let addresses: Vec<SocketAddr> = new.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(failed);
    }
    Ok(Located {
        addresses,
        by_srv,
        valid_until,
    })
}

/// Whether the name servers say that there is no such record.
fn is_nothing(error: &ResolveError) -> bool {
    use hickory_resolver::proto::{ProtoErrorKind, op::ResponseCode};
    matches!(
        error.proto().map(|error| error.kind()),
        Some(ProtoErrorKind::NoRecordsFound {
            response_code: ResponseCode::NXDomain | ResponseCode::NoError,
            ..
        })
    )
}

fn no_answer(error: &ResolveError) -> LocateError {
    LocateError::NoAnswer(error.to_string())
}
