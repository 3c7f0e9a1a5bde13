//! A phone behind a NAT: its SIP and its SDP name addresses that nobody can
//! reach from here. It talks and hears all the same, before and after a hold,
//! and our own requests in its call reach it.

use std::time::Duration;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::network::BehindNat;
use crate::harness::rtp::Player;
use crate::harness::sdp::Offer;
use crate::harness::{Call, Caller, Redis, SOON, Worker, sound};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_a_nat_talks_holds_and_is_hung_up() {
    let Some(network) = BehindNat::build() else {
        return;
    };
    let redis = Redis::start();
    let bind = network.bridge.to_string();
    let setup = Setup::queue(&redis)
        .args(&["--bind", &bind])
        .line_field("sipDomain", network.router.to_string().into());
    let bridge = setup.start().await;
    let peer = (network.bridge, bridge.sip_port).into();
    let sockets = (network.socket().await, network.socket().await);
    let mut call = Caller::invite_from(sockets, peer, NUMBER, Offer::usual()).await;
    call.answered().await;
    let mut worker = Worker::serve(&redis).await;

    let mut player = call.player();
    both_hear(&call, &mut player, &mut worker, 0).await;
    for direction in ["sendonly", "sendrecv", "inactive", "sendrecv"] {
        call.reinvite(direction).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    both_hear(&call, &mut player, &mut worker, 1_000).await;

    let stream = worker.stream_sid.clone();
    worker.send(&serde_json::json!({"event": "hangup", "streamSid": stream}));
    call.ended_by_bridge(SOON).await;
    bridge.shut_down().await;
}

/// 25 frames each way, bit for bit.
async fn both_hear(call: &Call, player: &mut Player, worker: &mut Worker, first: u32) {
    let from_caller = sound::numbered(first, 25);
    player.play(&from_caller).await;
    worker.hears(&from_caller.concat(), SOON).await;
    let from_worker = sound::numbered(first + 500, 25).concat();
    worker.media(&from_worker);
    call.rtp.hears(&from_worker, SOON).await;
}
