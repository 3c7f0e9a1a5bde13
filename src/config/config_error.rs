//! What can be wrong with a setting, and how it is said: the flag, its
//! variable, what is wrong, what to do. Never the value: people put passwords
//! where they do not belong.

use std::fmt;

use super::flags::flag;
use crate::core::access::cidr::CidrError;
use crate::core::address::HostPortError;
use crate::core::dialling::pattern::PatternError;
use crate::core::key::KeyError;
use crate::sip::header_names::NameError;

/// What is wrong with the value of a flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagProblem {
    /// Given and empty.
    #[error("is empty: give it a value, or leave the flag out")]
    Empty,
    /// A variable that is not UTF-8.
    #[error("is not UTF-8 text")]
    NotText,
    /// Needed, and not given.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// Of no use without another flag.
    #[error("needs --{0} as well")]
    Needs(&'static str),
    /// Another way to a worker.
    #[error("cannot be given with --{0}: calls have one way to their worker")]
    OtherWay(&'static str),
    /// A whole number in a range.
    #[error("must be a whole number from {0} to {1}")]
    Whole(u64, u64),
    /// A decimal number in a range.
    #[error("must be a number from {0} to {1}, such as {2}")]
    Decimal(u32, u32, &'static str),
    /// Seconds in a range.
    #[error("must be a number of seconds from {0} to {1}, without a unit")]
    Seconds(String, u64),
    /// One of some words.
    #[error("must be {0}")]
    OneOf(&'static str),
    /// A switch.
    #[error("must be yes or no (or true, false, on, off, 1, 0)")]
    YesNo,
    /// No host.
    #[error("{0}: write for example sip.example.com or 192.0.2.10:5060")]
    Host(#[from] HostPortError),
    /// No address.
    #[error("must be an IP address, such as 192.0.2.10")]
    Address,
    /// An address that cannot be announced.
    #[error("must be an address that others can send to, not 0.0.0.0 or ::")]
    Unspecified,
    /// No URL, or one of another scheme.
    #[error("must be a URL such as {0}, with @ / ? # in a password written as %40 %2F %3F %23")]
    Url(&'static str),
    /// The path of an SQLite file.
    #[error(
        "must hold the absolute path of a file after sqlite://, such as sqlite:///var/lib/sipbridge/sipbridge.db, without ? or #"
    )]
    SqliteUrl,
    /// Two ports with a dash between.
    #[error("must be two ports with a dash between, lowest first, such as 10000-20000")]
    PortRange,
    /// Fewer than two ports.
    #[error("holds no two ports from an even one on: a call needs two")]
    NoPorts,
    /// Too few ports for the calls asked for.
    #[error("is {calls}, but --rtp-ports has room for {room} calls: widen that or lower this")]
    NoRoom {
        /// `--max-concurrent-calls`.
        calls: u32,
        /// Calls that fit.
        room: u32,
    },
    /// Two listeners on one port.
    #[error("is the same port as --{0}: choose another")]
    SamePort(&'static str),
    /// The SIP port is one of the RTP ports.
    #[error("lies within --rtp-ports: choose a port outside")]
    InRtpPorts,
    /// Not KEY=VALUE.
    #[error("must be KEY=VALUE with a key that is not empty")]
    Param,
    /// The same key twice.
    #[error("has the key {0:?} twice")]
    ParamTwice(String),
    /// A name with odd characters.
    #[error("must be 1 to 64 letters, digits, dots, dashes or underscores")]
    Name,
    /// No AccountSid.
    #[error("must be AC and 32 hex digits")]
    AccountSid,
    /// A Redis key with odd characters.
    #[error("must be 1 to 200 characters without spaces or control characters")]
    QueueName,
    /// A SIP user name with odd characters.
    #[error("must be a SIP user name alone, without domain, spaces or any of @ < > \" \\")]
    UserName,
    /// Not a key.
    #[error("{0}: make one with `openssl rand -hex 32`")]
    Key(#[from] KeyError),
    /// A token that can be guessed, or that no header can carry.
    #[error(
        "must be {0} or more visible ASCII characters without spaces: make one with `openssl rand -hex 32`"
    )]
    Token(usize),
    /// The API where others reach it, and no token.
    #[error(
        "is not a loopback address, and without --api-token whoever reaches it could place calls and change lines: give --api-token (API_TOKEN) as well, or leave --api-bind at 127.0.0.1 and let a proxy on this machine pass on /health and /metrics alone"
    )]
    OpenApi,
    /// A file that cannot be read.
    #[error("cannot be read: {text}", text = file_problem(*.0))]
    File(std::io::ErrorKind),
    /// The file that the variable of a secret names.
    #[error("cannot be read from the file that {0} names: {1}")]
    SecretFile(String, String),
    /// Not a country.
    #[error("must be the two letters of a country, such as FR")]
    Country,
    /// Not a network.
    #[error("{0}")]
    Cidr(CidrError),
    /// No dial pattern.
    #[error("{0}")]
    DialPattern(#[from] PatternError),
    /// No name of a header that may be handed on.
    #[error(transparent)]
    HeaderName(#[from] NameError),
    /// Of no use without a database.
    #[error(
        "needs a database: give --data-dir (DATA_DIR) or --database-url (DATABASE_URL) as well"
    )]
    NeedsDatabase,
    /// A key that no header can carry.
    #[error("must be visible ASCII characters without spaces")]
    HeaderKey,
    /// Given together with a flag that says the opposite.
    #[error("contradicts --{0}: leave one of them out")]
    Contradicts(&'static str),
    /// No host.
    #[error("must be a host: a DNS name or an IP address, without a port")]
    HostName,
    /// A Redis cluster, or sentinels.
    #[error(
        "must be the address of one Redis server: Sentinel and cluster are not supported; give the address of the master, or of a proxy that leads to it"
    )]
    ManyRedis,
    /// No log filter.
    #[error(
        "must be error, warn, info, debug or trace, or a list such as info,sipbridge::sip=debug"
    )]
    LogFilter,
    /// Listed, and not built.
    #[error("is not built yet and would do nothing: leave it out. {0}")]
    NotBuilt(&'static str),
}

fn file_problem(kind: std::io::ErrorKind) -> String {
    match kind {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::InvalidInput => {
            "it is a FIFO, a socket or a device; give a regular file".to_owned()
        }
        other => other.to_string(),
    }
}

/// A setting that keeps the bridge from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What is wrong with it.
    pub problem: FlagProblem,
}

impl ConfigError {
    /// A problem of a flag.
    #[must_use]
    pub const fn new(flag: &'static str, problem: FlagProblem) -> Self {
        Self { flag, problem }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = flag(self.flag).map_or("", |flag| flag.env);
        write!(f, "--{} ({env}) {}", self.flag, self.problem)
    }
}

/// A setting that has no effect, or an odd one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What to know about it.
    pub text: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = flag(self.flag).map_or("", |flag| flag.env);
        write!(f, "--{} ({env}) {}", self.flag, self.text)
    }
}
