//! What is measured: Redis, the registrar, and the bridges, each with a link of its own to Redis.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::bridge::{Bridge, PASSWORD, Setup, user_of};
use crate::calls;
use crate::proxy::Proxy;
use crate::redis_server::Redis;
use crate::registrar::{Keeps, Registrar};
use crate::watch::Watch;
use crate::{Args, Result};

/// Looks at the registrar so often.
const POLL: Duration = Duration::from_millis(20);
/// Patience with lines that find their bridges.
const SETTLE_MAX: Duration = Duration::from_secs(240);
/// Nothing has moved for so long: the lines have found their bridges.
const STILL: Duration = Duration::from_secs(8);
/// A takeover is given up.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);

/// A bridge, and its link to Redis.
pub struct Member {
    bridge: Bridge,
    pub link: Proxy,
    name: String,
}

impl Member {
    /// Where it takes SIP.
    pub fn sip(&self) -> SocketAddr {
        self.bridge.sip
    }

    pub fn port(&self) -> u16 {
        self.bridge.sip.port()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.bridge.pid())?).ok_or("no process id")?;
        Ok(kill_process(pid, signal)?)
    }
}

/// See the module.
pub struct Stage {
    args: Args,
    pub lines: usize,
    pub redis: Arc<Redis>,
    pub registrar: Arc<Registrar>,
    pub members: Vec<Member>,
    worker: SocketAddr,
    workers: JoinHandle<()>,
    watch: Option<Watch>,
}

impl Stage {
    /// Starts all, and waits until each line has found its bridge.
    pub async fn start(args: &Args, lines: usize) -> Result<Self> {
        let workers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let keeps = if args.all_contacts {
            Keeps::All
        } else {
            Keeps::One
        };
        let mut stage = Self {
            args: args.clone(),
            lines,
            redis: Arc::new(Redis::start().await?),
            registrar: Arc::new(Registrar::start(Some(PASSWORD.to_owned()), keeps)?),
            members: Vec::new(),
            worker: workers.local_addr()?,
            workers: tokio::spawn(calls::serve_workers(workers)),
            watch: None,
        };
        for number in 0..args.bridges {
            let member = stage.member(&format!("bridge-{number}")).await?;
            stage.members.push(member);
        }
        stage.settle().await?;
        Ok(stage)
    }

    pub fn args(&self) -> &Args {
        &self.args
    }

    async fn member(&self, name: &str) -> Result<Member> {
        let link = Proxy::to(self.redis.port).await;
        let bridge = Bridge::start(&Setup {
            program: &self.args.bridge,
            lines: self.lines,
            encrypted: false,
            expires_s: 300,
            registrar: self.registrar.address,
            worker: self.worker,
            database: false,
            more: &[
                "--redis-url",
                &link.url(),
                "--dispatch",
                "push",
                "--node-id",
                name,
            ],
        })?;
        if let Some(watch) = &self.watch {
            watch.count(bridge.sip.port());
        }
        Ok(Member {
            bridge,
            link,
            name: name.to_owned(),
        })
    }

    /// From now on it is looked at whether a line is at two bridges at once.
    pub fn watch(&mut self) {
        let watch = Watch::start(&self.redis, &self.registrar);
        for member in &self.members {
            watch.count(member.port());
        }
        self.watch = Some(watch);
    }

    /// That one of the bridges does not count for that any more.
    pub fn leave_out(&self, index: usize) {
        if let Some(watch) = &self.watch {
            watch.leave_out(self.members[index].port());
        }
    }

    /// That it counts again.
    pub fn count_again(&self, index: usize) {
        if let Some(watch) = &self.watch {
            watch.count(self.members[index].port());
        }
    }

    /// How many lines were at two bridges, and how often that was looked at.
    pub fn doubled(&self) -> (usize, usize) {
        self.watch.as_ref().map_or((0, 0), Watch::found)
    }

    /// One more bridge.
    pub async fn join(&mut self) -> Result<()> {
        let name = format!("bridge-{}", self.members.len());
        let member = self.member(&name).await?;
        self.members.push(member);
        Ok(())
    }

    /// A bridge that was killed starts again.
    pub async fn start_again(&mut self, index: usize) -> Result<()> {
        let name = self.members[index].name.clone();
        self.members[index] = self.member(&name).await?;
        Ok(())
    }

    /// Ends a bridge with SIGTERM, and starts it again.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        let member = self.members.remove(index);
        let (name, port) = (member.name.clone(), member.port());
        // Its end blocks, and the calls go on meanwhile.
        let ended = tokio::task::spawn_blocking(move || {
            let ended = member.bridge.stop().map_err(|error| error.to_string());
            drop(member.link);
            ended
        });
        ended.await??;
        if let Some(watch) = &self.watch {
            watch.leave_out(port);
        }
        let member = self.member(&name).await?;
        self.members.insert(index, member);
        Ok(())
    }

    /// Where a caller reaches each line: at the Contact that was registered last, of the bridges that live.
    /// Port 0 stands for none.
    pub fn lines_by_port(&self) -> BTreeMap<u16, usize> {
        let ports: Vec<u16> = self.members.iter().map(Member::port).collect();
        let notes = self.registrar.notes();
        let mut by_port = BTreeMap::new();
        for line in 1..=self.lines {
            let user = user_of(line);
            let live = notes.contacts(&user).filter_map(port_of);
            let last = live.filter(|port| ports.contains(port)).last();
            *by_port.entry(last.unwrap_or_default()).or_default() += 1;
        }
        by_port
    }

    /// Waits until each line is at one of the bridges, each has its share, and nothing moves any more.
    pub async fn settle(&self) -> Result<()> {
        let began = Instant::now();
        let (mut before, mut since) = (BTreeMap::new(), Instant::now());
        let share = self.lines / self.members.len() / 2;
        while began.elapsed() < SETTLE_MAX {
            let now = self.lines_by_port();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            let has_share = |member: &Member| before.get(&member.port()) >= Some(&share);
            if since.elapsed() > STILL
                && before.len() == self.members.len()
                && self.members.iter().all(has_share)
            {
                return Ok(());
            }
            sleep(POLL).await;
        }
        Err(format!("the lines did not find their bridges: {before:?}").into())
    }

    /// Waits until no line is at this bridge; how long that took, and how many lines it was about.
    pub async fn taken_over(&self, index: usize) -> Result<(Duration, usize)> {
        let (began, port) = (Instant::now(), self.members[index].port());
        let lines = self.lines_by_port().get(&port).copied().unwrap_or_default();
        while began.elapsed() < TAKEOVER_MAX {
            let is_over = !self.lines_by_port().contains_key(&port);
            if is_over {
                return Ok((began.elapsed(), lines));
            }
            sleep(POLL).await;
        }
        Err(format!("not taken over within {TAKEOVER_MAX:?}").into())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.workers.abort();
    }
}

/// The port of a Contact.
pub fn port_of(contact: &str) -> Option<u16> {
    let host = contact.split('@').nth(1)?.split(';').next()?;
    host.trim_end_matches('>').rsplit(':').next()?.parse().ok()
}

/// The user of a line, by the line's id.
pub fn user_of_line(line: &str) -> Option<String> {
    let number = line.strip_prefix("line-")?.parse().ok()?;
    Some(user_of(number))
}
