//! A private Redis, and how many commands are sent to it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Result;

/// Patience with its start.
const START_MAX: Duration = Duration::from_secs(5);

/// A private Redis; killed when dropped.
pub struct Redis {
    child: Child,
    pub port: u16,
    connection: MultiplexedConnection,
}

/// Commands that came within some time.
pub struct Commands {
    /// By clients.
    pub sent: usize,
    /// By the scripts that clients sent.
    pub by_scripts: usize,
}

impl Redis {
    pub async fn start() -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--port", &port.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        let started = Instant::now();
        loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => {
                    return Ok(Self {
                        child,
                        port,
                        connection,
                    });
                }
                Err(error) if started.elapsed() > START_MAX => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Which bridge has the lease of each line that is not about to move.
    pub async fn leases(&self) -> Result<BTreeMap<String, String>> {
        let mut connection = self.connection.clone();
        let mut query = redis::cmd("HGETALL");
        query.arg("cluster:leases");
        let leases: BTreeMap<String, String> = query.query_async(&mut connection).await?;
        let mut held = BTreeMap::new();
        for (line, lease) in leases {
            let lease: Value = serde_json::from_str(&lease)?;
            let is_moving = lease.get("offered").is_some() || lease.get("from").is_some();
            if let Some(node) = lease["node"].as_str().filter(|_| !is_moving) {
                held.insert(line, node.to_owned());
            }
        }
        Ok(held)
    }

    /// Counts commands for so long, as MONITOR tells of them.
    pub async fn commands(&self, time: Duration) -> Result<Commands> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.write_all(b"MONITOR\r\n").await?;
        let mut lines = BufReader::new(stream).lines();
        let mut commands = Commands {
            sent: 0,
            by_scripts: 0,
        };
        let end = Instant::now() + time;
        while let Ok(line) = timeout_at(end, lines.next_line()).await {
            let line = line?.ok_or("Redis is gone")?;
            // +1339518083.107412 [0 127.0.0.1:60866] "get" "x", with `lua` for an address.
            match line.split_once('[') {
                Some((_, who)) if who.starts_with("0 lua") => commands.by_scripts += 1,
                Some(_) => commands.sent += 1,
                None => {}
            }
        }
        Ok(commands)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
