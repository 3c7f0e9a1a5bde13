//! The end of an engine: everybody is told, nothing is left, another can start.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use sipbridge::core::ids::LineId;
use sipbridge::core::media_link::SinkError;
use sipbridge::sip::engine::{
    Command, EndedBy, EngineEvent, Registration, SipEngine, SubmitError, Transport,
};

use crate::outgoing;
use crate::peer::{Peer, answer};
use crate::stage::{Stage, account, bye, ended, eventually, next, stage, up};

/// Names of the threads that pjsip and the engine start.
const THREADS: [&str; 4] = ["sip-control", "pjsua_0", "media", "ev_thread"];

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let names = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names
        .map(|name| name.trim().to_owned())
        .filter(|name| THREADS.contains(&name.as_str()))
        .collect()
}

/// Open sockets of the network. tokio keeps a pair of its own, for signals.
pub fn sockets() -> usize {
    let inodes: Vec<String> = ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .filter_map(|kind| std::fs::read_to_string(format!("/proc/self/net/{kind}")).ok())
        .flat_map(|table| {
            let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
            table.lines().skip(1).filter_map(inode).collect::<Vec<_>>()
        })
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let files = std::fs::read_dir("/proc/self/fd").expect("procfs");
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter(|target| {
            inodes
                .iter()
                .any(|inode| target.as_os_str() == inode.as_str())
        })
        .count()
}

#[test]
fn a_shutdown_tells_everybody_and_leaves_nothing() {
    let mut stage = stage();
    let registrar = Peer::new(SocketAddr::from(([127, 0, 0, 1], 9)));
    let line = LineId::new("leaving");
    stage.add_line(account("leaving", "dora", Some(registrar.address())));
    stage.submit(Command::Register(line));
    let request = registrar.wait("REGISTER", |message| message.method() == "REGISTER");
    let contact = request.header("contact").expect("Contact").to_owned();
    answer(
        &registrar.sip,
        &request,
        200,
        &format!("Contact: {contact};expires=120\r\n"),
    );
    loop {
        if let EngineEvent::Registration {
            state: Registration::Registered { .. },
            ..
        } = next(&mut stage.events, "registration")
        {
            break;
        }
    }
    let peer = stage.peer();
    let (dialog, mut call, link, _) = up(&mut stage, &peer, &peer.usual_sdp());
    let ringing = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let mut waiting = stage.incoming();
    let callee = outgoing::trunk(&mut stage, "calling");
    let (mut ours, invite) = outgoing::placed(&stage, &callee, "calling");
    answer(&callee.sip, &invite, 180, "");
    assert_eq!(outgoing::progress(&mut ours), 180);
    assert_eq!(threads().len(), THREADS.len(), "{:?}", threads());
    let port = stage
        .engine
        .local_port(Transport::Udp)
        .expect("UDP is open");
    let tcp_port = stage
        .engine
        .local_port(Transport::Tcp)
        .expect("TCP is open");
    let peers_own = 3 * 2;

    // The peer answers while the engine shuts down.
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bye = dialog.serve("BYE", 200);
            assert!(bye.start.starts_with("BYE"));
            ringing.response(503);
        });
        scope.spawn(|| {
            let cancel = callee.wait("CANCEL", |message| message.method() == "CANCEL");
            answer(&callee.sip, &cancel, 200, "");
            answer(&callee.sip, &invite, 487, "");
        });
        scope.spawn(|| {
            let unregister = registrar.wait("REGISTER with expiry 0", |message| {
                message.method() == "REGISTER"
                    && (message.header("expires") == Some("0")
                        || message
                            .header("contact")
                            .is_some_and(|contact| contact.contains("expires=0")))
            });
            answer(&registrar.sip, &unregister, 200, "");
        });
        stage.engine.shutdown();
    });
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ended(&mut call).by, EndedBy::Local);
    assert_eq!(ended(&mut waiting).by, EndedBy::Local);
    assert_eq!(outgoing::ended(&mut ours).by, EndedBy::Local);
    assert_eq!(link.sink.send(&[0x80; 172]), Err(SinkError::Closed));
    let late = Command::Hangup {
        leg: call.leg,
        status: 200,
    };
    assert_eq!(stage.engine.submit(late), Err(SubmitError::Closed));
    eventually("every thread is gone", || threads().is_empty());
    assert_eq!(sockets(), peers_own);
    drop(UdpSocket::bind(("127.0.0.1", port)).expect("the UDP port is free again"));
    drop(TcpListener::bind(("127.0.0.1", tcp_port)).expect("the TCP port is free again"));
    stage.engine.shutdown();

    *stage = Stage::start();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
}
