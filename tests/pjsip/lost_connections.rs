//! Callers whose connection is lost while their call is being answered.

use std::thread;
use std::time::{Duration, Instant};

use sipbridge::sip::engine::{IncomingCall, LegEvent, Transport};
use tokio::sync::mpsc::error::TryRecvError;

use crate::stage::{CALLS_MAX, tls_stage};
use crate::streams::Caller;

/// Timer H of RFC 3261, 64*T1, after which a call that nobody acknowledged ends,
/// and time to spare.
const UNACKNOWLEDGED: Duration = Duration::from_secs(32 + 8);

/// The news of the lost connection and the answer meet in pjsip, whichever of
/// them is first: the close is moved across the answer, call by call.
#[test]
fn a_connection_lost_during_the_answer_holds_no_call() {
    let mut stage = tls_stage();
    let mut calls = Vec::new();
    for step in 0..CALLS_MAX as u32 {
        let mut caller = Caller::connect(&stage, Transport::Tcp, "lost");
        caller.request("INVITE", "", "");
        let call = stage.incoming();
        let now = Instant::now();
        let answer = now + Duration::from_micros(150);
        let close = now + Duration::from_micros(50) + Duration::from_micros(3) * step;
        let closing = thread::spawn(move || {
            wait_until(close);
            drop(caller);
        });
        wait_until(answer);
        stage.answer(&call, 200);
        closing.join().expect("it only closes");
        calls.push(call);
    }
    let deadline = Instant::now() + UNACKNOWLEDGED;
    while !calls.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
        calls.retain_mut(|call| !is_over(call));
    }
    assert_eq!(calls.len(), 0, "calls are held");
}

/// A sleep would be too coarse.
fn wait_until(at: Instant) {
    while Instant::now() < at {
        std::hint::spin_loop();
    }
}

fn is_over(call: &mut IncomingCall) -> bool {
    loop {
        match call.events.try_recv() {
            Ok(LegEvent::Ended(_)) | Err(TryRecvError::Disconnected) => return true,
            Err(TryRecvError::Empty) => return false,
            Ok(_) => {}
        }
    }
}
