//! A name server for tests: answers SRV, A and AAAA from a table over UDP on
//! the loopback, counts what it is asked, and can fall silent.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NXDOMAIN: u16 = 3;

/// What a name has.
#[derive(Clone, Debug)]
pub enum Record {
    A([u8; 4]),
    Aaaa(Ipv6Addr),
    /// Priority, weight, port and host.
    Srv(u16, u16, u16, &'static str),
}

impl Record {
    const fn kind(&self) -> u16 {
        match self {
            Self::A(_) => 1,
            Self::Aaaa(_) => 28,
            Self::Srv(..) => 33,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::A(ip) => Ipv4Addr::from(*ip).octets().to_vec(),
            Self::Aaaa(ip) => ip.octets().to_vec(),
            Self::Srv(priority, weight, port, host) => {
                let mut data = [priority, weight, port]
                    .iter()
                    .flat_map(|number| number.to_be_bytes())
                    .collect::<Vec<u8>>();
                for label in host
                    .trim_end_matches('.')
                    .split('.')
                    .filter(|l| !l.is_empty())
                {
                    data.push(u8::try_from(label.len()).unwrap());
                    data.extend(label.bytes());
                }
                data.push(0);
                data
            }
        }
    }
}

type Zone = HashMap<String, Vec<Record>>;

struct Shared {
    zone: Mutex<Zone>,
    asked: Mutex<Vec<(String, u16)>>,
    silent: AtomicBool,
    over: AtomicBool,
    ttl_s: u32,
}

/// See the module. Ends when it is dropped.
pub struct NameServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl NameServer {
    pub fn start(ttl_s: u32, records: &[(&str, Record)]) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), ttl_s, records)
    }

    pub fn start_on(address: SocketAddr, ttl_s: u32, records: &[(&str, Record)]) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared {
            zone: Mutex::default(),
            asked: Mutex::default(),
            silent: AtomicBool::new(false),
            over: AtomicBool::new(false),
            ttl_s,
        });
        let server = Self {
            address,
            shared: Arc::clone(&shared),
        };
        server.set(records);
        std::thread::spawn(move || serve(&socket, &shared));
        server
    }

    /// Replaces the whole table.
    pub fn set(&self, records: &[(&str, Record)]) {
        let mut zone = Zone::new();
        for (name, record) in records {
            zone.entry((*name).to_owned())
                .or_default()
                .push(record.clone());
        }
        *self.shared.zone.lock().unwrap() = zone;
    }

    /// Answers nothing any more, or again.
    pub fn fall_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// How often a name was asked for, whatever the type.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == name).count()
    }

    /// A `resolv.conf` in this folder that names this server, and what else is
    /// to stand in it.
    pub fn resolv_conf(&self, folder: &Path, more: &str) -> PathBuf {
        let path = folder.join("resolv.conf");
        std::fs::write(&path, format!("nameserver {}\n{more}", self.address)).unwrap();
        path
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 1500];
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let reply = answer(shared, &buffer[..length]);
        if let Some(reply) = reply.filter(|_| !shared.silent.load(Ordering::Relaxed)) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// The reply to a query with one question.
fn answer(shared: &Shared, query: &[u8]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(12..at + 4)?;
    let name = labels.join(".");
    shared.asked.lock().unwrap().push((name.clone(), kind));
    let zone = shared.zone.lock().unwrap();
    let (code, records) = match zone.get(&name) {
        Some(records) => (0, records.iter().filter(|r| r.kind() == kind).collect()),
        None => (NXDOMAIN, Vec::new()),
    };
    let mut reply = query.get(..2)?.to_vec();
    // A response, authoritative, recursion wished and to be had.
    reply.extend((0x8580_u16 | code).to_be_bytes());
    for count in [1, u16::try_from(records.len()).ok()?, 0, 0] {
        reply.extend(count.to_be_bytes());
    }
    reply.extend(question);
    for record in records {
        let data = record.data();
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend(1_u16.to_be_bytes());
        reply.extend(shared.ttl_s.to_be_bytes());
        reply.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}
