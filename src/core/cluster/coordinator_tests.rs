//! Each rule by itself: one or two nodes, a Redis in memory, a registrar that the test plays.

use std::time::{Duration, Instant};

use super::simulated_redis_tests::SimulatedRedis;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> NodeId {
    NodeId::new(name)
}

fn line(number: usize) -> LineId {
    LineId::new(format!("line-{number:02}"))
}

fn lines(count: usize) -> Vec<LineId> {
    (0..count).map(line).collect()
}

/// What a coordinator needs around it.
struct Site {
    redis: SimulatedRedis,
    now: Instant,
    beat: Duration,
    ttl: Duration,
}

/// One node at the site.
struct Bridge {
    it: Coordinator,
    node: Node,
    revision: Option<u64>,
}

impl Site {
    fn new() -> Self {
        let (now, settings) = (Instant::now(), CoordinatorSettings::default());
        Self {
            redis: SimulatedRedis::new(settings.lease_ttl, now),
            now,
            beat: settings.beat(),
            ttl: settings.lease_ttl,
        }
    }

    fn node(&self, name: &str, wanted: Vec<LineId>) -> Bridge {
        let mut it = Coordinator::new(id(name), CoordinatorSettings::default(), self.now);
        it.set_wanted(wanted, self.now);
        let node = Node {
            id: id(name),
            instance: "1".into(),
            info: NodeInfo {
                stage: NodeStage::Up,
                capacity: 100,
                lines: 0,
                calls: 0,
                version: "1".into(),
                api_url: None,
                stream_url: None,
                lines_digest: it.lines_digest(),
            },
            settles_in: Duration::ZERO,
            heartbeat_age: Duration::ZERO,
        };
        Bridge {
            it,
            node,
            revision: None,
        }
    }

    fn view(&mut self, bridge: &mut Bridge) -> ClusterView {
        bridge.node.info.lines_digest = bridge.it.lines_digest();
        let (view, revision) = self
            .redis
            .beat(&bridge.node, bridge.revision, self.now)
            .unwrap();
        bridge.revision = Some(revision);
        view
    }

    fn beat(&mut self, bridge: &mut Bridge) {
        let view = self.view(bridge);
        bridge.it.handle_view(view, self.now, self.now);
    }

    /// The same for a node that has been there for a while, though this is its first view.
    fn beat_settled(&mut self, bridge: &mut Bridge) {
        self.beat(bridge);
        bridge.it.no_takeover_before = None;
        bridge.it.review_all(self.now);
    }

    /// Runs the next command, and hands in the answer. What it was; `None` where there is none.
    fn command(&mut self, bridge: &mut Bridge) -> Option<LeaseCommand> {
        let command = bridge.it.poll_command(self.now, |_| false)?;
        let (leases, _) = self.redis.run(&bridge.node.id, &command, self.now);
        bridge.it.handle_answer(leases, self.now);
        Some(command)
    }

    fn commands(&mut self, bridge: &mut Bridge) -> Vec<LeaseCommand> {
        std::iter::from_fn(|| self.command(bridge)).collect()
    }

    fn actions(&self, bridge: &mut Bridge) -> Vec<LineAction> {
        std::iter::from_fn(|| bridge.it.poll_action(self.now)).collect()
    }

    /// Time passes; the nodes beat meanwhile.
    fn pass(&mut self, time: Duration, bridges: &mut [&mut Bridge]) {
        let end = self.now + time;
        while self.now < end {
            self.now += self.beat.min(end - self.now);
            for bridge in &mut *bridges {
                bridge.it.handle_timeout(self.now);
                self.beat(bridge);
            }
        }
    }

    /// A node that is alone claims all lines and registers them.
    fn holding(&mut self, name: &str, count: usize) -> Bridge {
        let mut bridge = self.node(name, lines(count));
        self.beat(&mut bridge);
        self.commands(&mut bridge);
        for action in self.actions(&mut bridge) {
            let LineAction::Register { line, .. } = action else {
                panic!("{action:?}");
            };
            bridge.it.handle_registered(&line, false, self.now);
        }
        events(&mut bridge);
        bridge
    }

    fn lease(&self, line: &LineId) -> (String, LeaseStage) {
        let lease = &self.redis.leases[line];
        (lease.node.to_string(), lease.stage.clone())
    }
}

fn events(bridge: &mut Bridge) -> Vec<ClusterEvent> {
    std::iter::from_fn(|| bridge.it.poll_event()).collect()
}

fn moves(bridge: &mut Bridge) -> Vec<MoveReason> {
    let reason = |event| match event {
        ClusterEvent::LineMoved { reason, .. } => Some(reason),
        _ => None,
    };
    events(bridge).into_iter().filter_map(reason).collect()
}

fn register(line: LineId, from: Option<&str>) -> LineAction {
    LineAction::Register {
        line,
        from: from.map(id),
    }
}

fn let_go(line: LineId, how: LetGo) -> LineAction {
    LineAction::LetGo { line, how }
}

/// A line of these that the second of two nodes should hold, with equal weights.
fn line_of(bridge: &Bridge, count: usize, name: &str) -> LineId {
    let best = |line: &LineId| bridge.it.best(line) == Some(&id(name));
    lines(count).into_iter().find(best).unwrap()
}

#[test]
fn nothing_is_done_before_the_first_view_and_then_lines_are_claimed_in_batches() {
    let mut site = Site::new();
    let mut a = site.node("a", lines(1_200));
    a.it.handle_timeout(site.now);
    assert!(a.it.poll_command(site.now, |_| false).is_none());
    site.beat(&mut a);
    let claimed: Vec<usize> = site
        .commands(&mut a)
        .iter()
        .map(|c| c.lines().count())
        .collect();
    assert_eq!(claimed, [500, 500, 200]);
    assert_eq!(site.actions(&mut a).len(), 1_200);
    assert!(a.it.holds(&line(0)) && a.it.lines_without_holder().next().is_none());
    assert_eq!(moves(&mut a), vec![MoveReason::Claimed; 1_200]);
}

#[test]
fn one_command_at_a_time() {
    let mut site = Site::new();
    let mut a = site.node("a", lines(600));
    site.beat(&mut a);
    assert!(a.it.poll_command(site.now, |_| false).is_some());
    assert!(a.it.poll_command(site.now, |_| false).is_none());
}

#[test]
fn rank_0_claims_at_once_and_others_only_what_stays_unheld() {
    let mut site = Site::new();
    let (mut a, mut b) = (site.node("a", lines(20)), site.node("b", lines(20)));
    // Both are there before anybody claims.
    site.view(&mut a);
    site.beat(&mut b);
    site.beat(&mut a);
    let Some(LeaseCommand::Claim(claimed)) = site.command(&mut a) else {
        panic!("nothing claimed");
    };
    assert!(claimed.iter().all(|line| a.it.best(line) == Some(&id("a"))));
    assert!((5..15).contains(&claimed.len()));
    // b cannot hold what it should: a does, after (1 + 1) * 2 beats.
    site.pass(site.beat * 3, &mut [&mut a, &mut b]);
    assert_eq!(site.commands(&mut a), []);
    site.pass(site.beat + SECOND, &mut [&mut a, &mut b]);
    let Some(LeaseCommand::Claim(rest)) = site.command(&mut a) else {
        panic!("left dead");
    };
    assert_eq!(claimed.len() + rest.len(), 20);
}

#[test]
fn the_lines_of_a_dead_node_are_claimed_and_who_held_them_is_told() {
    let mut site = Site::new();
    site.holding("a", 3);
    let mut b = site.node("b", lines(3));
    site.beat(&mut b);
    assert_eq!(site.commands(&mut b), [], "a lives");
    site.pass(site.ttl, &mut [&mut b]);
    assert_eq!(site.commands(&mut b), [LeaseCommand::Claim(lines(3))]);
    assert_eq!(moves(&mut b), vec![MoveReason::Takeover; 3]);
    assert_eq!(site.actions(&mut b)[0], register(line(0), Some("a")));
}

#[test]
fn a_handover_from_offer_to_done_with_the_contact_taken_back_where_it_is_shown() {
    for (shown, how) in [(true, LetGo::Unregister), (false, LetGo::Forget)] {
        let mut site = Site::new();
        let mut a = site.holding("a", 20);
        let mut b = site.node("b", lines(20));
        site.beat(&mut b);
        site.beat(&mut a);
        let x = line_of(&a, 20, "b");
        let Some(LeaseCommand::Offer {
            lines: offered,
            tell,
        }) = site.command(&mut a)
        else {
            panic!("not offered");
        };
        assert!(offered.contains(&x) && tell == [id("b")]);
        site.beat(&mut b);
        assert_eq!(
            site.command(&mut b),
            Some(LeaseCommand::Claim(offered.clone()))
        );
        let actions = site.actions(&mut b);
        assert!(actions.contains(&register(x.clone(), Some("a"))));
        assert_eq!(moves(&mut b), [], "not yet");
        // The old holder stays registered meanwhile.
        site.beat(&mut a);
        assert_eq!(
            (site.actions(&mut a), site.commands(&mut a)),
            (vec![], vec![])
        );
        b.it.handle_registered(&x, shown, site.now);
        assert_eq!(
            site.command(&mut b),
            Some(LeaseCommand::Confirm(vec![(x.clone(), shown)]))
        );
        assert_eq!(moves(&mut b), [MoveReason::Handover]);
        site.beat(&mut a);
        assert_eq!(site.actions(&mut a), [let_go(x.clone(), how)]);
        assert_eq!(site.commands(&mut a), [], "not before it has let go");
        a.it.handle_let_go(&x, site.now);
        assert_eq!(
            site.commands(&mut a),
            [LeaseCommand::Done(vec![(x.clone(), false)])]
        );
        assert_eq!(site.lease(&x), ("b".to_owned(), LeaseStage::Held));
    }
}

#[test]
fn the_window_bounds_what_is_on_its_way_and_a_line_with_a_call_being_set_up_stays() {
    let mut site = Site::new();
    let mut a = site.holding("a", 80);
    let mut b = site.node("b", lines(80));
    site.beat(&mut b);
    site.beat(&mut a);
    let busy = line_of(&a, 80, "b");
    let offer = a.it.poll_command(site.now, |line| *line == busy);
    let Some(offer @ LeaseCommand::Offer { .. }) = offer else {
        panic!("not offered");
    };
    assert_eq!(offer.lines().count(), 20);
    assert!(!offer.lines().any(|line| *line == busy));
    let (leases, _) = site.redis.run(&id("a"), &offer, site.now);
    a.it.handle_answer(leases, site.now);
    assert_eq!(site.commands(&mut a), [], "the window is full");
}

#[test]
fn an_offer_that_nobody_takes_is_withdrawn_and_not_made_again_for_a_while() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    site.beat(&mut a);
    let offered = site.command(&mut a).unwrap().lines().count();
    site.pass(14 * SECOND, &mut [&mut a, &mut b]);
    assert_eq!(site.commands(&mut a), []);
    site.pass(SECOND, &mut [&mut a, &mut b]);
    let Some(withdrawn @ LeaseCommand::Withdraw(_)) = site.command(&mut a) else {
        panic!("not withdrawn");
    };
    assert_eq!(withdrawn.lines().count(), offered);
    let failed =
        |event: &ClusterEvent| matches!(event, ClusterEvent::HandoverFailed { by: None, .. });
    assert_eq!(
        events(&mut a).iter().filter(|event| failed(event)).count(),
        offered
    );
    site.pass(58 * SECOND, &mut [&mut a, &mut b]);
    assert_eq!(site.commands(&mut a), []);
    site.pass(3 * SECOND, &mut [&mut a, &mut b]);
    assert!(matches!(
        site.command(&mut a),
        Some(LeaseCommand::Offer { .. })
    ));
}

/// Two nodes, and a line on its way from a to b, which was told to register it.
fn moving(site: &mut Site) -> (Bridge, Bridge, LineId) {
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    site.beat(&mut a);
    site.command(&mut a);
    site.beat(&mut b);
    site.command(&mut b);
    site.actions(&mut b);
    site.beat(&mut a);
    let x = line_of(&a, 20, "b");
    (a, b, x)
}

#[test]
fn who_cannot_register_a_line_gives_it_back_and_takes_no_offer_of_it_for_a_while() {
    let mut site = Site::new();
    let (mut a, mut b, x) = moving(&mut site);
    b.it.handle_registration_failed(&x, site.now);
    assert_eq!(site.actions(&mut b), [let_go(x.clone(), LetGo::Forget)]);
    assert_eq!(
        site.commands(&mut b),
        [],
        "a REGISTER may still be under way"
    );
    b.it.handle_let_go(&x, site.now);
    assert_eq!(
        site.commands(&mut b),
        [LeaseCommand::Withdraw(vec![x.clone()])]
    );
    site.beat(&mut a);
    // The one that failed may have reached the registrar all the same.
    assert_eq!(site.actions(&mut a), [register(x.clone(), Some("b"))]);
    assert_eq!(moves(&mut a), [MoveReason::TakenBack]);
    a.it.handle_registered(&x, false, site.now);
    assert!(
        !site
            .commands(&mut a)
            .iter()
            .any(|c| c.lines().any(|line| *line == x))
    );
    // Offered all the same, b does not take it before its time.
    let offer = LeaseCommand::Offer {
        lines: vec![x.clone()],
        tell: vec![],
    };
    site.redis.run(&id("a"), &offer, site.now);
    site.beat(&mut b);
    let takes =
        |commands: Vec<LeaseCommand>| commands.iter().any(|c| c.lines().any(|line| *line == x));
    assert!(!takes(site.commands(&mut b)));
    site.pass(61 * SECOND, &mut [&mut b]);
    assert!(takes(site.commands(&mut b)));
}

#[test]
fn a_registration_that_does_not_end_is_given_up() {
    let mut site = Site::new();
    let (mut a, mut b, x) = moving(&mut site);
    site.pass(59 * SECOND, &mut [&mut a, &mut b]);
    assert_eq!(site.actions(&mut b), []);
    site.pass(SECOND, &mut [&mut a, &mut b]);
    assert!(site.actions(&mut b).contains(&let_go(x, LetGo::Forget)));
}

#[test]
fn a_line_whose_new_holder_dies_is_taken_back_and_registered_anew() {
    let mut site = Site::new();
    let (mut a, _, x) = moving(&mut site);
    site.pass(site.ttl, &mut [&mut a]);
    let claims = site.commands(&mut a);
    assert!(
        claims
            .iter()
            .any(|c| matches!(c, LeaseCommand::Claim(lines) if lines.contains(&x)))
    );
    assert_eq!(site.lease(&x), ("a".to_owned(), LeaseStage::Held));
    assert!(site.actions(&mut a).contains(&register(x, Some("b"))));
    assert!(
        moves(&mut a)
            .iter()
            .all(|reason| *reason == MoveReason::TakenBack)
    );
}

#[test]
fn lines_that_were_taken_over_meanwhile_are_let_go_without_an_unregister() {
    let mut site = Site::new();
    let mut a = site.holding("a", 2);
    let mut b = site.node("b", lines(2));
    for _ in 0..4 {
        site.now += site.beat;
        a.it.handle_beat_failed(site.now, site.now);
        assert_eq!(site.actions(&mut a), [], "it keeps what it holds");
        site.beat_settled(&mut b);
    }
    assert!(a.it.is_cut_off(site.now) && !a.it.must_ask_first(site.now));
    site.commands(&mut b);
    site.beat(&mut a);
    assert_eq!(
        site.actions(&mut a),
        [
            let_go(line(0), LetGo::Forget),
            let_go(line(1), LetGo::Forget)
        ]
    );
    assert_eq!(moves(&mut a), vec![MoveReason::Fenced; 2]);
    assert!(!a.it.is_cut_off(site.now));
}

#[test]
fn while_redis_is_away_nothing_is_claimed_and_who_is_away_as_well_keeps_its_lines() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    for _ in 0..5 {
        site.now += site.beat;
        for bridge in [&mut a, &mut b] {
            bridge.it.handle_timeout(site.now);
            bridge.it.handle_beat_failed(site.now, site.now);
            assert!(bridge.it.poll_command(site.now, |_| false).is_none());
        }
    }
    // b is back a moment earlier, and does not see a.
    site.beat(&mut b);
    assert_eq!(b.it.nodes().len(), 1);
    assert_eq!(site.commands(&mut b), []);
    site.beat(&mut a);
    site.pass(site.ttl * 2, &mut [&mut a, &mut b]);
    assert!(
        !site
            .commands(&mut b)
            .iter()
            .any(|c| matches!(c, LeaseCommand::Claim(_)))
    );
    assert_eq!(site.actions(&mut a), []);
}

#[test]
fn after_redis_has_forgotten_those_who_are_registered_claim_at_once_and_others_wait() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    site.redis.restart_empty();
    site.beat(&mut b);
    assert_eq!(site.commands(&mut b), [], "they may be another's");
    site.beat(&mut a);
    let fences = (1..=20).map(Fence);
    let reclaimed: Vec<_> = lines(20).into_iter().zip(fences).collect();
    assert_eq!(site.command(&mut a), Some(LeaseCommand::Reclaim(reclaimed)));
    assert!(site.redis.fence > 20);
    assert_eq!(
        (site.actions(&mut a), moves(&mut a)),
        (vec![], vec![]),
        "nothing moves"
    );
    // What nobody reclaims goes to who should hold it after one lease ttl.
    site.redis.leases.clear();
    site.redis.revision += 1;
    site.redis.forget_node(&id("a"));
    site.pass(site.ttl - SECOND, &mut [&mut b]);
    assert_eq!(site.commands(&mut b), []);
    site.pass(SECOND, &mut [&mut b]);
    assert_eq!(site.commands(&mut b), [LeaseCommand::Claim(lines(20))]);
}

#[test]
fn a_lease_that_vanished_is_left_to_a_live_holder_for_two_beats() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    let x = line_of(&b, 20, "b");
    site.redis.leases.remove(&x);
    site.redis.revision += 1;
    site.beat(&mut b);
    assert_eq!(site.commands(&mut b), [], "a is up and may be registered");
    for most in [1, 2] {
        site.view(&mut a);
        site.pass(site.beat, &mut [&mut b]);
        let claims = site.commands(&mut b);
        assert_eq!(claims.len(), most - 1, "after {most} beats");
    }
    assert!(b.it.holds(&x));
}

#[test]
fn a_line_that_was_moving_is_left_to_whom_it_moved_from_for_two_beats() {
    let mut site = Site::new();
    let (mut a, _, x) = moving(&mut site);
    site.pass(site.ttl, &mut [&mut a]);
    let mut c = site.node("c", lines(20));
    c.node.info.capacity = 1_000_000;
    site.beat_settled(&mut c);
    assert_eq!(c.it.best(&x), Some(&id("c")), "by its weight");
    assert_eq!(
        site.commands(&mut c),
        [],
        "a is registered, and will take it back"
    );
    for most in [1, 2] {
        site.view(&mut a);
        site.pass(site.beat, &mut [&mut c]);
        let claims = site.commands(&mut c);
        assert_eq!(claims.len(), most - 1, "after {most} beats");
    }
    // Where a did not: it is told by the stage that it moves to c now.
    let from = id("a");
    assert_eq!(
        site.lease(&x),
        ("c".to_owned(), LeaseStage::Moving { from })
    );
}

#[test]
fn redis_that_forgot_and_has_no_revision_to_compare_counts_as_empty() {
    let mut site = Site::new();
    let mut a = site.holding("a", 1);
    site.redis.restart_empty();
    let mut view = site.view(&mut a);
    view.leases = None;
    a.it.handle_view(view, site.now, site.now);
    assert!(matches!(
        site.command(&mut a),
        Some(LeaseCommand::Reclaim(_))
    ));
}

#[test]
fn a_node_that_slept_asks_first_and_trusts_no_answer_from_before() {
    let mut site = Site::new();
    let mut a = site.holding("a", 2);
    let mut b = site.node("b", lines(2));
    let asked_at = site.now;
    let old = site.view(&mut a);
    site.now += site.ttl + SECOND;
    assert!(a.it.must_ask_first(site.now));
    a.it.handle_view(old, asked_at, site.now);
    assert!(a.it.must_ask_first(site.now) && a.it.needs_view());
    assert!(events(&mut a).contains(&ClusterEvent::Slept));
    site.beat_settled(&mut b);
    site.commands(&mut b);
    site.beat(&mut a);
    assert!(!a.it.must_ask_first(site.now));
    assert_eq!(site.actions(&mut a)[0], let_go(line(0), LetGo::Forget));
}

#[test]
fn a_lease_granted_before_a_sleep_is_not_acted_on() {
    let mut site = Site::new();
    let mut a = site.node("a", lines(1));
    site.beat(&mut a);
    let claim = a.it.poll_command(site.now, |_| false).unwrap();
    let (leases, _) = site.redis.run(&id("a"), &claim, site.now);
    site.now += site.ttl + SECOND;
    a.it.handle_answer(leases, site.now);
    assert_eq!(site.actions(&mut a), []);
    // Asked since, without an answer: as one that is cut off, it goes on with what it knows.
    a.it.handle_beat_failed(site.now, site.now);
    assert!(!a.it.must_ask_first(site.now) && a.it.is_cut_off(site.now));
    site.beat(&mut a);
    assert_eq!(site.actions(&mut a), [register(line(0), None)]);
}

#[test]
fn a_line_that_waits_to_be_registered_is_not_while_asleep() {
    let mut site = Site::new();
    let mut a = site.node("a", lines(1));
    site.beat(&mut a);
    site.commands(&mut a);
    site.now += site.ttl + SECOND;
    assert_eq!(site.actions(&mut a), []);
    site.beat(&mut a);
    assert_eq!(site.actions(&mut a), [register(line(0), None)]);
}

#[test]
fn a_lost_answer_leaves_the_word_to_the_next_view() {
    let mut site = Site::new();
    let mut a = site.node("a", lines(2));
    site.beat(&mut a);
    let claim = a.it.poll_command(site.now, |_| false).unwrap();
    // It ran for one of them.
    site.redis
        .run(&id("a"), &LeaseCommand::Claim(vec![line(0)]), site.now);
    a.it.handle_command_failed(site.now);
    assert_eq!(claim.lines().count(), 2);
    assert!(a.it.poll_command(site.now, |_| false).is_none() && a.it.needs_view());
    site.beat(&mut a);
    assert_eq!(site.actions(&mut a), [register(line(0), None)]);
    assert_eq!(site.commands(&mut a), [LeaseCommand::Claim(vec![line(1)])]);
}

#[test]
fn what_the_server_refuses_is_asked_for_once_per_view() {
    let mut site = Site::new();
    site.holding("a", 1);
    let mut b = site.node("b", lines(1));
    let view = site.view(&mut b);
    let others = ClusterView {
        nodes: view
            .nodes
            .into_iter()
            .filter(|node| node.id == id("b"))
            .collect(),
        ..view
    };
    b.it.handle_view(others, site.now, site.now);
    b.it.no_takeover_before = None;
    b.it.review_all(site.now);
    assert_eq!(site.commands(&mut b).len(), 1, "a is alive for the server");
}

#[test]
fn a_draining_node_offers_all_once_others_can_see_it_and_may_exit_when_they_are_gone() {
    let mut site = Site::new();
    let mut a = site.holding("a", 50);
    let mut b = site.node("b", lines(50));
    site.beat(&mut b);
    a.it.leave(site.now);
    assert!(a.it.needs_view() && !a.it.may_exit());
    assert_eq!(site.commands(&mut a), []);
    a.node.info.stage = NodeStage::Draining;
    site.beat(&mut a);
    let offers = site.commands(&mut a);
    assert_eq!(offers.iter().map(|c| c.lines().count()).sum::<usize>(), 50);
    assert!(!a.it.is_taken(&line(0)), "only offered");
    site.beat(&mut b);
    assert_eq!(site.commands(&mut b), [LeaseCommand::Claim(lines(50))]);
    site.beat(&mut a);
    assert!(a.it.is_taken(&line(0)) && !b.it.is_taken(&line(0)));
    site.actions(&mut b);
    for line in lines(50) {
        b.it.handle_registered(&line, false, site.now);
    }
    site.commands(&mut b);
    site.beat(&mut a);
    assert_eq!(site.actions(&mut a).len(), 50);
    for line in lines(50) {
        a.it.handle_let_go(&line, site.now);
    }
    assert!(!a.it.may_exit());
    site.commands(&mut a);
    assert!(a.it.may_exit());
    // It claims nothing more, even what nobody holds.
    site.redis.leases.clear();
    site.redis.revision += 1;
    site.pass(site.ttl * 3, &mut [&mut a]);
    assert_eq!(site.commands(&mut a), []);
}

#[test]
fn a_paused_node_that_is_the_last_one_takes_what_nobody_holds_and_gives_it_away_again() {
    let mut site = Site::new();
    let mut b = site.holding("b", 3);
    let mut a = site.node("a", lines(3));
    a.it.drain(site.now);
    a.node.info.stage = NodeStage::Draining;
    site.beat(&mut a);
    assert_eq!(site.commands(&mut a), []);
    site.pass(site.ttl, &mut [&mut a]);
    assert_eq!(site.commands(&mut a), [LeaseCommand::Claim(lines(3))]);
    assert_eq!(site.actions(&mut a)[0], register(line(0), Some("b")));
    for line in lines(3) {
        a.it.handle_registered(&line, false, site.now);
    }
    b.revision = None;
    site.beat(&mut b);
    site.beat(&mut a);
    let offers = site.commands(&mut a);
    assert!(
        matches!(&offers[..], [LeaseCommand::Offer { .. }]),
        "{offers:?}"
    );
}

#[test]
fn who_ends_does_not_come_back_into_the_cluster() {
    let mut site = Site::new();
    let mut a = site.holding("a", 1);
    a.it.drain(site.now);
    assert!(a.it.resume(site.now));
    a.it.leave(site.now);
    assert!(!a.it.resume(site.now) && a.it.is_draining());
}

#[test]
fn a_line_that_goes_while_it_is_claimed_is_released_and_not_asked_for_again() {
    let mut site = Site::new();
    let mut a = site.node("a", lines(1));
    site.beat(&mut a);
    site.commands(&mut a);
    assert_eq!(site.actions(&mut a), [register(line(0), None)]);
    a.it.handle_unknown(&line(0), site.now);
    assert_eq!(site.actions(&mut a), []);
    assert_eq!(site.commands(&mut a), [LeaseCommand::Release(lines(1))]);
    // It is there again.
    a.it.set_wanted(lines(1), site.now);
    site.commands(&mut a);
    assert_eq!(site.actions(&mut a), [register(line(0), None)]);
}

#[test]
fn after_a_beat_that_failed_others_may_still_be_on_their_way_back() {
    let mut site = Site::new();
    site.holding("a", 3);
    let mut b = site.node("b", lines(3));
    site.beat(&mut b);
    site.pass(site.ttl - site.beat, &mut [&mut b]);
    b.it.handle_beat_failed(site.now, site.now);
    site.now += site.beat;
    site.beat(&mut b);
    assert_eq!(b.it.nodes().len(), 1, "a has expired");
    assert_eq!(site.commands(&mut b), []);
    site.pass(site.beat, &mut [&mut b]);
    assert_eq!(site.commands(&mut b), [LeaseCommand::Claim(lines(3))]);
}

#[test]
fn what_nobody_took_is_unregistered_and_released_at_the_end() {
    let mut site = Site::new();
    let mut a = site.holding("a", 2);
    a.node.info.stage = NodeStage::Draining;
    a.it.drain(site.now);
    site.beat(&mut a);
    assert_eq!(site.commands(&mut a), [], "there is nobody");
    a.it.stop(site.now);
    assert_eq!(site.actions(&mut a)[1], let_go(line(1), LetGo::Unregister));
    for line in lines(2) {
        a.it.handle_let_go(&line, site.now);
    }
    assert_eq!(site.commands(&mut a), [LeaseCommand::Release(lines(2))]);
    assert!(a.it.may_exit() && site.redis.leases.is_empty());
}

#[test]
fn a_line_that_is_wanted_no_more_is_unregistered_and_released() {
    let mut site = Site::new();
    let mut a = site.holding("a", 2);
    a.it.set_wanted(lines(1), site.now);
    assert_eq!(site.actions(&mut a), [let_go(line(1), LetGo::Unregister)]);
    a.it.handle_let_go(&line(1), site.now);
    assert_eq!(
        site.commands(&mut a),
        [LeaseCommand::Release(vec![line(1)])]
    );
    assert_eq!(a.it.holder(&line(1)), None);
}

#[test]
fn lines_are_shared_only_with_nodes_that_could_hold_the_same() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(21));
    site.beat(&mut b);
    site.beat(&mut a);
    assert_eq!(site.commands(&mut a), [], "nothing is offered");
    // b takes the line that only it has, and when a dies all of them.
    assert_eq!(site.commands(&mut b), [LeaseCommand::Claim(vec![line(20)])]);
    site.pass(site.ttl, &mut [&mut b]);
    assert_eq!(site.commands(&mut b), [LeaseCommand::Claim(lines(20))]);
}

#[test]
fn a_node_that_flaps_gets_no_share_before_it_has_stayed() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.pass(5 * SECOND, &mut [&mut a, &mut b]);
    site.pass(site.ttl + SECOND, &mut [&mut a]);
    let mut b = site.node("b", lines(20));
    b.node.instance = "2".into();
    site.pass(55 * SECOND, &mut [&mut a, &mut b]);
    a.it.handle_timeout(site.now);
    assert_eq!(a.it.best(&line(0)), Some(&id("a")));
    let offers = |commands: Vec<LeaseCommand>| {
        commands
            .iter()
            .any(|c| matches!(c, LeaseCommand::Offer { .. }))
    };
    assert!(!offers(site.commands(&mut a)));
    site.pass(12 * SECOND, &mut [&mut a, &mut b]);
    assert!(offers(site.commands(&mut a)));
}

#[test]
fn a_restart_under_the_same_name_goes_on_with_its_leases() {
    let mut site = Site::new();
    site.holding("a", 3);
    let mut a = site.node("a", lines(3));
    site.beat(&mut a);
    assert_eq!(site.commands(&mut a), []);
    assert_eq!(site.actions(&mut a).len(), 3);
    assert_eq!(moves(&mut a), [], "nothing moved");
}

#[test]
fn that_redis_forgot_is_seen_by_ones_own_leases_where_another_has_raised_the_fence() {
    let mut site = Site::new();
    let mut a = site.holding("a", 10);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    assert_eq!(site.commands(&mut b).len(), 1, "the other ten");
    for action in site.actions(&mut b) {
        if let LineAction::Register { line, .. } = action {
            b.it.handle_registered(&line, false, site.now);
        }
    }
    a.it.set_wanted(lines(20), site.now);
    site.beat(&mut a);
    site.beat(&mut b);
    site.redis.restart_empty();
    site.beat(&mut b);
    assert!(matches!(
        site.command(&mut b),
        Some(LeaseCommand::Reclaim(_))
    ));
    events(&mut a);
    site.beat(&mut a);
    let forgot = |event: &ClusterEvent| matches!(event, ClusterEvent::RedisForgot { .. });
    assert!(events(&mut a).iter().any(forgot));
    let reclaimed = site.commands(&mut a);
    assert!(
        reclaimed
            .iter()
            .all(|c| matches!(c, LeaseCommand::Reclaim(_) | LeaseCommand::Offer { .. }))
    );
    assert_eq!(site.redis.leases.len(), 20);
}

#[test]
fn a_node_looks_as_soon_as_anothers_heartbeat_expires_and_never_at_one_that_beats() {
    let mut site = Site::new();
    let mut a = site.holding("a", 3);
    let mut b = site.node("b", lines(3));
    site.beat(&mut b);
    for _ in 0..5 {
        site.pass(site.beat, &mut [&mut a, &mut b]);
        for bridge in [&a, &b] {
            let look_at = bridge.it.look_at().expect("there is another");
            assert!(look_at > site.now + site.beat, "the tick comes first");
        }
    }
    let expires = site.redis.expires_at(&id("a")).unwrap();
    site.pass(site.ttl - SECOND, &mut [&mut b]);
    let look_at = b.it.look_at().expect("a has not expired");
    assert!(look_at > expires && look_at < expires + SECOND / 20);
    site.now = look_at;
    site.beat(&mut b);
    assert_eq!(site.command(&mut b), Some(LeaseCommand::Claim(lines(3))));
    assert_eq!(b.it.look_at(), None, "nobody else is there");
}

#[test]
fn the_nodes_look_one_after_the_other() {
    let mut site = Site::new();
    let mut bridges: Vec<Bridge> = (0..300)
        .map(|number| site.node(&format!("node-{number:03}"), lines(1)))
        .collect();
    let mut dead = site.node("dead", lines(1));
    site.beat(&mut dead);
    for bridge in &mut bridges {
        site.view(bridge);
    }
    site.now += site.ttl - SECOND;
    for bridge in &mut bridges {
        site.beat(bridge);
    }
    let looks: Vec<Duration> = bridges
        .iter()
        .map(|bridge| bridge.it.look_at().unwrap() - site.now - SECOND)
        .collect();
    assert!(looks[0] > Duration::ZERO && looks[0] < SECOND / 20);
    // "dead" comes before all of them.
    assert!(looks[..200].windows(2).all(|two| two[0] < two[1]));
    assert!(
        looks.iter().all(|look| *look <= site.beat / 2),
        "before the tick"
    );
}

#[test]
fn a_heartbeat_that_lives_longer_than_ones_own_is_left_to_the_tick() {
    let mut site = Site::new();
    let mut a = site.holding("a", 1);
    let mut b = site.node("b", lines(1));
    site.beat(&mut b);
    let mut view = site.view(&mut a);
    for node in &mut view.nodes {
        node.heartbeat_age = site.ttl + SECOND;
    }
    a.it.handle_view(view, site.now, site.now);
    assert_eq!(a.it.look_at(), None);
}

#[test]
fn a_node_that_was_not_dead_takes_its_contact_back_where_the_new_holder_saw_it() {
    for (shown, how) in [(true, LetGo::Unregister), (false, LetGo::Forget)] {
        let mut site = Site::new();
        let mut a = site.holding("a", 1);
        let mut b = site.node("b", lines(1));
        site.beat_settled(&mut b);
        site.pass(site.ttl, &mut [&mut b]);
        site.command(&mut b);
        assert_eq!(site.actions(&mut b), [register(line(0), Some("a"))]);
        b.it.handle_registered(&line(0), shown, site.now);
        let confirms = [LeaseCommand::Confirm(vec![(line(0), true)])];
        let confirmed = site.commands(&mut b);
        assert_eq!(confirmed, &confirms[..usize::from(shown)]);
        assert_eq!(moves(&mut b), [MoveReason::Takeover]);

        site.beat(&mut a);
        assert_eq!(site.actions(&mut a), [let_go(line(0), how)]);
        assert_eq!(moves(&mut a), [MoveReason::Fenced]);
        a.it.handle_let_go(&line(0), site.now);
        site.commands(&mut a);
        assert_eq!(site.lease(&line(0)), ("b".to_owned(), LeaseStage::Held));
        // It is told once, whoever else is listed.
        b.it.handle_registered(&line(0), true, site.now);
        site.beat(&mut b);
        let commands = site.commands(&mut b);
        assert!(!commands.contains(&confirms[0]), "{commands:?}");
    }
}

#[test]
fn a_line_that_its_node_cannot_register_goes_to_another_and_comes_back_later() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    site.beat(&mut a);
    let own = line_of(&a, 20, "a");
    a.it.handle_registration_failed(&own, site.now);
    let offers = |commands: &[LeaseCommand], line: &LineId| {
        let is_one = |command: &LeaseCommand| matches!(command, LeaseCommand::Offer { lines, .. } if lines.contains(line));
        commands.iter().any(is_one)
    };
    assert!(!offers(&site.commands(&mut a), &own), "it may be a blip");
    site.pass(SECOND * 20, &mut [&mut a, &mut b]);
    a.it.handle_registration_failed(&own, site.now);
    assert!(!offers(&site.commands(&mut a), &own));
    site.pass(SECOND * 10, &mut [&mut a, &mut b]);
    assert!(offers(&site.commands(&mut a), &own), "30 s since the first");

    site.beat(&mut b);
    site.commands(&mut b);
    let from = id("a");
    let moving = LeaseStage::Moving { from };
    assert_eq!(site.lease(&own), ("b".to_owned(), moving.clone()));
    assert!(
        site.actions(&mut b)
            .contains(&register(own.clone(), Some("a")))
    );
    b.it.handle_registered(&own, false, site.now);
    site.commands(&mut b);
    site.beat(&mut a);
    site.actions(&mut a);
    a.it.handle_let_go(&own, site.now);
    site.commands(&mut a);
    assert_eq!(site.lease(&own), ("b".to_owned(), LeaseStage::Held));

    // It is a's by rank, and stays for a while all the same.
    site.pass(SECOND * 100, &mut [&mut a, &mut b]);
    assert!(!offers(&site.commands(&mut b), &own));
    site.pass(SECOND * 30, &mut [&mut a, &mut b]);
    assert!(offers(&site.commands(&mut b), &own));
}

#[test]
fn a_line_that_nobody_can_register_goes_round_seldom() {
    let mut site = Site::new();
    let mut a = site.holding("a", 20);
    let mut b = site.node("b", lines(20));
    site.beat(&mut b);
    site.beat(&mut a);
    let own = line_of(&a, 20, "a");
    a.it.handle_registration_failed(&own, site.now);
    site.pass(SECOND * 30, &mut [&mut a, &mut b]);
    site.commands(&mut a);
    site.beat(&mut b);
    site.commands(&mut b);
    assert_eq!(site.lease(&own).0, "b");
    site.actions(&mut b);
    b.it.handle_registration_failed(&own, site.now);
    site.actions(&mut b);
    b.it.handle_let_go(&own, site.now);
    site.commands(&mut b);
    assert_eq!(site.lease(&own), ("a".to_owned(), LeaseStage::Held));
    site.beat(&mut a);
    site.actions(&mut a);
    a.it.handle_registration_failed(&own, site.now);
    for _ in 0..28 {
        site.pass(SECOND * 10, &mut [&mut a, &mut b]);
        site.commands(&mut a);
        assert_eq!(site.lease(&own), ("a".to_owned(), LeaseStage::Held));
    }
    site.pass(SECOND * 30, &mut [&mut a, &mut b]);
    site.commands(&mut a);
    assert_eq!(site.lease(&own).1, LeaseStage::Offered);
}

#[test]
fn who_refreshed_a_line_that_was_anothers_has_that_one_register_anew() {
    let mut site = Site::new();
    let (mut a, mut b, x) = moving(&mut site);
    site.actions(&mut b);
    // a's refresh is answered after b's REGISTER.
    b.it.handle_registered(&x, false, site.now);
    site.beat(&mut a);
    a.it.handle_registered(&x, false, site.now);
    site.commands(&mut b);
    site.beat(&mut a);
    assert!(
        site.actions(&mut a)
            .contains(&let_go(x.clone(), LetGo::Forget))
    );
    a.it.handle_let_go(&x, site.now);
    assert_eq!(
        site.commands(&mut a),
        [LeaseCommand::Done(vec![(x.clone(), true)])]
    );
    site.beat(&mut b);
    assert!(
        site.actions(&mut b)
            .iter()
            .any(|action| matches!(action, LineAction::Register { line, .. } if *line == x))
    );
    b.it.handle_registered(&x, false, site.now);
    site.beat(&mut b);
    assert_eq!(site.actions(&mut b), [], "once");
    assert_eq!(site.commands(&mut a), [], "once");
}

#[test]
fn who_was_cut_off_and_refreshed_a_line_that_was_taken_over_says_so() {
    let mut site = Site::new();
    let mut a = site.holding("a", 2);
    let mut b = site.node("b", lines(2));
    site.beat_settled(&mut b);
    for _ in 0..4 {
        site.pass(site.beat, &mut [&mut b]);
        a.it.handle_beat_failed(site.now, site.now);
    }
    site.commands(&mut b);
    for action in site.actions(&mut b) {
        let LineAction::Register { line, .. } = action else {
            panic!("{action:?}");
        };
        b.it.handle_registered(&line, false, site.now);
    }
    assert!(a.it.is_cut_off(site.now));
    a.it.handle_registered(&line(1), false, site.now);
    site.beat(&mut a);
    site.actions(&mut a);
    for line in lines(2) {
        a.it.handle_let_go(&line, site.now);
    }
    assert_eq!(
        site.commands(&mut a),
        [LeaseCommand::Done(vec![(line(1), true)])]
    );
    site.beat(&mut b);
    assert!(matches!(
        &site.actions(&mut b)[..],
        [LineAction::Register { line: it, .. }] if *it == line(1)
    ));
}

#[test]
fn a_node_that_begins_waits_for_those_that_may_be_on_their_way_back() {
    let mut site = Site::new();
    site.holding("a", 2);
    site.now += site.ttl * 2;
    // Redis was away meanwhile, and b is the first to be back with it.
    let mut b = site.node("b", lines(3));
    site.beat(&mut b);
    let claims = site.commands(&mut b);
    assert_eq!(claims, [LeaseCommand::Claim(vec![line(2)])], "nobody's");
    site.pass(site.ttl - site.beat, &mut [&mut b]);
    assert_eq!(site.commands(&mut b), []);
    site.pass(site.beat, &mut [&mut b]);
    assert_eq!(
        site.commands(&mut b),
        [LeaseCommand::Claim(vec![line(0), line(1)])]
    );
}

#[test]
fn a_clock_of_redis_that_is_set_forward_kills_nobody() {
    let mut site = Site::new();
    let mut a = site.holding("a", 2);
    let mut b = site.node("b", lines(2));
    site.beat_settled(&mut b);
    site.pass(SECOND * 30, &mut [&mut a, &mut b]);
    site.commands(&mut b);
    // All heartbeats have expired by it.
    let mut view = site.view(&mut b);
    view.nodes.retain(|node| node.id == id("b"));
    b.it.handle_view(view, site.now, site.now);
    assert_eq!(site.commands(&mut b), []);
    site.pass(site.beat, &mut [&mut a, &mut b]);
    assert_eq!(site.commands(&mut b), [], "a beats");
    assert_eq!(site.lease(&line(0)).0, "a");
}
