//! A registrar with a table of bindings (RFC 3261 section 10), over UDP and without
//! passwords: as trunks are that keep one contact of a user, or all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// How many contacts of a user it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    One,
    All,
}

/// Where a user can be reached.
#[derive(Clone, Debug)]
struct Binding {
    uri: String,
    until: Instant,
}

/// What was so at some time.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Instant,
    pub user: String,
    /// Ports of the contacts that are listed from then on.
    pub ports: Vec<u16>,
}

#[derive(Default)]
struct Table {
    bindings: BTreeMap<String, Vec<Binding>>,
    changes: Vec<Change>,
}

/// See the module.
pub struct LocationServer {
    pub address: SocketAddr,
    table: Arc<Mutex<Table>>,
    task: JoinHandle<()>,
}

impl LocationServer {
    pub async fn start(keeps: Keeps) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let table = Arc::new(Mutex::new(Table::default()));
        let task = tokio::spawn(serve(socket, table.clone(), keeps));
        Self {
            address,
            table,
            task,
        }
    }

    /// The SIP ports at which each of these users can be reached now.
    pub fn ports(&self, users: &[String]) -> BTreeMap<String, Vec<u16>> {
        let table = self.table.lock().unwrap();
        let now = Instant::now();
        let ports = |user: &String| (user.clone(), table.ports(user, now));
        users.iter().map(ports).collect()
    }

    /// Whether each user can be reached at one of these ports, and at no other.
    pub fn all_at(&self, users: &[String], ports: &[u16]) -> bool {
        let all = self.ports(users);
        all.values()
            .all(|at| at.len() == 1 && ports.contains(&at[0]))
    }

    /// All changes since a time.
    pub fn changes_since(&self, since: Instant) -> Vec<Change> {
        let table = self.table.lock().unwrap();
        let changes = table.changes.iter().filter(|change| change.at >= since);
        changes.cloned().collect()
    }
}

impl Drop for LocationServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Table {
    fn ports(&self, user: &str, now: Instant) -> Vec<u16> {
        let bindings = self.bindings.get(user).into_iter().flatten();
        let live = bindings.filter(|binding| binding.until > now);
        live.filter_map(|binding| port(&binding.uri)).collect()
    }

    /// Takes a REGISTER; the answer's Contact lines.
    fn register(&mut self, request: &str, keeps: Keeps, now: Instant) -> Option<String> {
        let user = header(request, "To")?
            .split("sip:")
            .nth(1)?
            .split('@')
            .next()?
            .to_owned();
        let bindings = self.bindings.entry(user.clone()).or_default();
        bindings.retain(|binding| binding.until > now);
        if let Some(contact) = header(request, "Contact") {
            let uri = contact.split('<').nth(1)?.split('>').next()?.to_owned();
            let own = contact.split("expires=").nth(1).and_then(number);
            let expires = own
                .or_else(|| number(header(request, "Expires")?))
                .unwrap_or(300);
            bindings.retain(|binding| binding.uri != uri);
            if expires > 0 {
                if keeps == Keeps::One {
                    bindings.clear();
                }
                let until = now + Duration::from_secs(expires);
                bindings.push(Binding { uri, until });
            } else if keeps == Keeps::One {
                // As some do: whoever un-REGISTERs takes away what there is.
                bindings.clear();
            }
        }
        let listed = bindings.iter().map(|binding| {
            let left_s = (binding.until - now).as_secs();
            format!("Contact: <{}>;expires={left_s}\r\n", binding.uri)
        });
        let listed = listed.collect();
        let ports = self.ports(&user, now);
        self.changes.push(Change {
            at: now,
            user,
            ports,
        });
        Some(listed)
    }
}

fn number(text: &str) -> Option<u64> {
    let digits: String = text
        .trim()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

fn port(uri: &str) -> Option<u16> {
    let host = uri.split('@').nth(1)?.split(';').next()?;
    host.rsplit(':').next()?.parse().ok()
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.lines();
    lines.find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

async fn serve(socket: UdpSocket, table: Arc<Mutex<Table>>, keeps: Keeps) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if !request.starts_with("REGISTER ") {
            continue;
        }
        let contacts = table
            .lock()
            .unwrap()
            .register(&request, keeps, Instant::now());
        let Some(contacts) = contacts else { continue };
        let mut answer = "SIP/2.0 200 OK\r\n".to_owned();
        for name in ["Via", "From", "Call-ID", "CSeq"] {
            let value = header(&request, name).unwrap_or_default();
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        let to = header(&request, "To").unwrap_or_default();
        answer.push_str(&format!(
            "To: {to};tag=location\r\n{contacts}Content-Length: 0\r\n\r\n"
        ));
        let _ = socket.send_to(answer.as_bytes(), from).await;
    }
}
