//! The world of the simulation: nodes with their runner and fleet, the network, and what must hold.

use super::*;

const REFRESH: Duration = Duration::from_secs(60);
const CONTACT_EXPIRES: Duration = Duration::from_secs(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Pokes are answered by one beat in this time at most.
const BETWEEN_BEATS: Duration = Duration::from_millis(150);
const RETRY: Duration = Duration::from_secs(5);

/// What goes wrong, or is done to a node.
#[derive(Clone, Debug)]
pub enum Fault {
    Start(usize),
    Kill(usize),
    Freeze(usize, Duration),
    Wake(usize, u32),
    Cut(usize, Duration),
    Join(usize),
    RedisAway(Duration),
    RedisBack,
    RedisEmpty(Duration),
    /// Killed and started so many times.
    Flap(usize, u32),
    /// Drains, then ends.
    Stop(usize),
    Ended(usize, u32, u32),
    /// Drains, then goes on.
    Pause(usize, Duration),
    Resume(usize, u32),
    /// The registrar of a line refuses a node, until calm.
    Refuse(usize, usize),
    /// A node is configured without a line, until calm.
    Without(usize, usize),
    /// Requests and answers are lost, or late.
    Lossy(Duration),
    Lossless,
    Calm,
}

#[derive(Clone, Debug)]
enum Request {
    Beat,
    Command(LeaseCommand),
}

#[derive(Clone, Debug)]
enum Answer {
    View(ClusterView, u64, Instant),
    Leases(Vec<(LineId, Option<Lease>)>),
    Failed,
}

#[derive(Debug)]
enum Happening {
    Tick,
    Wake,
    Poked,
    /// A request reaches Redis; `None` where nobody waits for the answer any more.
    Execute(Request, Option<u64>),
    Answered(u64, Answer),
    Register(LineId, Option<NodeId>),
    Registered(LineId, Result<bool, ()>),
    Unregister(LineId),
    Unregistered(LineId),
    Again(LineId, u64),
    Fault(Fault),
}

#[derive(Debug)]
struct ClusterEvent {
    at: Instant,
    number: u64,
    node: usize,
    life: u32,
    what: Happening,
}

impl PartialEq for ClusterEvent {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for ClusterEvent {}
impl PartialOrd for ClusterEvent {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ClusterEvent {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One line at its registrar's.
#[derive(Debug, Default)]
struct Registrar {
    keeps_all: bool,
    contacts: BTreeMap<usize, Instant>,
    refuses: BTreeSet<usize>,
}

/// One line at a node's fleet.
#[derive(Debug, Default)]
struct FleetLine {
    from: Option<NodeId>,
    is_registered: bool,
    is_under_way: bool,
    is_wanted_again: bool,
    letting_go: Option<LetGo>,
    timer: u64,
}

#[derive(Debug)]
pub struct SimulatedNode {
    pub id: NodeId,
    pub capacity: u32,
    pub life: u32,
    pub is_running: bool,
    pub is_draining: bool,
    is_stopping: bool,
    is_frozen: bool,
    frozen_at: Instant,
    is_cut: bool,
    pub coordinator: Coordinator,
    wanted: BTreeSet<LineId>,
    request: Option<(u64, Request, Instant)>,
    beat_wanted: bool,
    no_beat_before: Instant,
    revision: Option<u64>,
    /// When the last view that it handled was made.
    view_at: Option<Instant>,
    fleet: BTreeMap<LineId, FleetLine>,
    wake_at: Option<Instant>,
    deferred: Vec<Happening>,
    /// It woke past its lease, then: no REGISTER before a beat that it asked for since.
    woke_at: Option<Instant>,
    stages: u32,
}

#[derive(Debug)]
pub struct World {
    pub now: Instant,
    pub begun: Instant,
    pub settings: CoordinatorSettings,
    pub redis: SimulatedRedis,
    pub nodes: Vec<SimulatedNode>,
    pub lines: Vec<LineId>,
    pub is_shown: bool,
    /// No faults are expected, so that none is an excuse.
    pub is_strict: bool,
    /// Whether what must hold is looked at after each step.
    pub is_checked: bool,
    pub moves: BTreeMap<MoveReason, usize>,
    /// How often a line's registrar had no contact of a live node any more because one was taken back.
    pub gaps: usize,
    redis_is_away: bool,
    redis_is_down: bool,
    is_lossy: bool,
    registrars: BTreeMap<LineId, Registrar>,
    unheld_since: BTreeMap<LineId, Instant>,
    doubled_since: BTreeMap<LineId, Instant>,
    disturbed_at: Instant,
    random: StdRng,
    queue: BinaryHeap<Reverse<ClusterEvent>>,
    number: u64,
}

impl SimulatedNode {
    fn wants_beat(&self, now: Instant) -> bool {
        let is_due = self.coordinator.look_at().is_some_and(|at| at <= now);
        self.beat_wanted || self.coordinator.needs_view() || is_due
    }
}

impl World {
    pub fn new(mut random: StdRng, lines: usize) -> Self {
        let now = Instant::now();
        let settings = CoordinatorSettings::default();
        let lines: Vec<LineId> = (0..lines)
            .map(|n| LineId::new(format!("line-{n:05}")))
            .collect();
        let registrar = |line: &LineId| {
            let keeps_all = random.random_bool(0.5);
            (
                line.clone(),
                Registrar {
                    keeps_all,
                    ..Registrar::default()
                },
            )
        };
        Self {
            now,
            begun: now,
            settings,
            redis: SimulatedRedis::new(settings.lease_ttl, now),
            nodes: Vec::new(),
            registrars: lines.iter().map(registrar).collect(),
            lines,
            is_shown: false,
            is_strict: false,
            is_checked: true,
            moves: BTreeMap::new(),
            gaps: 0,
            redis_is_away: false,
            redis_is_down: false,
            is_lossy: false,
            unheld_since: BTreeMap::new(),
            doubled_since: BTreeMap::new(),
            disturbed_at: now,
            random,
            queue: BinaryHeap::new(),
            number: 0,
        }
    }

    /// A node, not running yet.
    pub fn add_node(&mut self, capacity: u32) {
        let id = NodeId::new(format!("node-{}", self.nodes.len()));
        self.nodes.push(SimulatedNode {
            coordinator: Coordinator::new(id.clone(), self.settings, self.now),
            id,
            capacity,
            life: 0,
            is_running: false,
            is_draining: false,
            is_stopping: false,
            is_frozen: false,
            frozen_at: self.now,
            is_cut: false,
            wanted: self.lines.iter().cloned().collect(),
            request: None,
            beat_wanted: false,
            no_beat_before: self.now,
            revision: None,
            view_at: None,
            fleet: BTreeMap::new(),
            wake_at: None,
            deferred: Vec::new(),
            woke_at: None,
            stages: 0,
        });
    }

    pub fn fault_in(&mut self, after: Duration, fault: Fault) {
        self.put(after, usize::MAX, Happening::Fault(fault));
    }

    fn put(&mut self, after: Duration, node: usize, what: Happening) {
        let life = self.nodes.get(node).map_or(0, |node| node.life);
        let (at, number) = (self.now + after, self.number);
        self.number += 1;
        self.queue.push(Reverse(ClusterEvent {
            at,
            number,
            node,
            life,
            what,
        }));
    }

    fn show(&self, text: impl FnOnce() -> String) {
        if self.is_shown {
            eprintln!("{:9.3} {}", (self.now - self.begun).as_secs_f64(), text());
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|next| next.0.at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Until `is_over`, which is asked each `every`; at most for `time`.
    pub fn run_until(
        &mut self,
        time: Duration,
        every: Duration,
        is_over: impl Fn(&Self) -> bool,
    ) -> bool {
        let end = self.now + time;
        while self.now < end {
            self.run_for(every.min(end - self.now));
            if is_over(self) {
                return true;
            }
        }
        false
    }

    fn step(&mut self) {
        let Some(Reverse(event)) = self.queue.pop() else {
            return;
        };
        self.now = event.at;
        let node = event.node;
        if let Happening::Fault(fault) = event.what {
            self.show(|| format!("{fault:?}"));
            self.disturbed_at = self.now;
            self.fault(fault);
        } else {
            let is_of_the_network = matches!(
                event.what,
                Happening::Execute(..) | Happening::Register(..) | Happening::Unregister(..)
            );
            let is_of_this_life =
                event.life == self.nodes[node].life && self.nodes[node].is_running;
            if is_of_the_network {
                // What is on its way arrives whatever became of the node.
                self.arrive(node, is_of_this_life, event.what);
            } else if is_of_this_life && self.nodes[node].is_frozen {
                self.nodes[node].deferred.push(event.what);
            } else if is_of_this_life {
                self.happen(node, event.what);
                self.pump(node);
            }
        }
        if self.is_checked {
            self.check();
        }
    }

    /// At Redis or at the registrar.
    fn arrive(&mut self, node: usize, is_of_this_life: bool, what: Happening) {
        match what {
            // What was on its way when Redis went down is lost with it.
            Happening::Execute(_, number) if self.redis_is_down => {
                if let Some(number) = number.filter(|_| is_of_this_life) {
                    let lost = Happening::Answered(number, Answer::Failed);
                    self.put(REQUEST_TIMEOUT, node, lost);
                }
            }
            Happening::Execute(request, number) => {
                let answer = self.execute(node, request, is_of_this_life);
                let delay = Duration::from_millis(self.random.random_range(1..30));
                if let Some(number) = number.filter(|_| is_of_this_life) {
                    self.put(delay, node, Happening::Answered(number, answer));
                }
            }
            Happening::Register(line, from) => {
                let result = self.register(node, &line, from.as_ref());
                if is_of_this_life {
                    let delay = Duration::from_millis(self.random.random_range(5..300));
                    self.put(delay, node, Happening::Registered(line, result));
                }
            }
            Happening::Unregister(line) => {
                self.unregister(node, &line);
                if is_of_this_life {
                    self.put(
                        Duration::from_millis(20),
                        node,
                        Happening::Unregistered(line),
                    );
                }
            }
            _ => {}
        }
    }

    fn execute(&mut self, node: usize, request: Request, is_of_this_life: bool) -> Answer {
        let me = self.nodes[node].id.clone();
        match request {
            Request::Beat => {
                let it = &self.nodes[node];
                // One that comes late from a former life is refused by its instance.
                if !is_of_this_life {
                    return Answer::Failed;
                }
                let info = Node {
                    id: me,
                    instance: format!("{}", it.life).into(),
                    info: NodeInfo {
                        stage: if it.is_draining {
                            NodeStage::Draining
                        } else {
                            NodeStage::Up
                        },
                        capacity: it.capacity,
                        lines: u32::try_from(
                            it.fleet.values().filter(|line| line.is_registered).count(),
                        )
                        .unwrap(),
                        calls: 0,
                        version: "1".into(),
                        api_url: None,
                        stream_url: None,
                        lines_digest: it.coordinator.lines_digest(),
                    },
                    settles_in: Duration::ZERO,
                    heartbeat_age: Duration::ZERO,
                };
                match self.redis.beat(&info, it.revision, self.now) {
                    Ok((view, revision)) => Answer::View(view, revision, self.now),
                    Err(_) => Answer::Failed,
                }
            }
            Request::Command(command) => {
                let (leases, tell) = self.redis.run(&me, &command, self.now);
                for other in tell {
                    if let Some(other) = self.nodes.iter().position(|it| it.id == other)
                        && self.reaches(other)
                    {
                        self.put(Duration::from_millis(3), other, Happening::Poked);
                    }
                }
                Answer::Leases(leases)
            }
        }
    }

    fn register(&mut self, node: usize, line: &LineId, from: Option<&NodeId>) -> Result<bool, ()> {
        let from = from.and_then(|from| self.nodes.iter().position(|it| it.id == *from));
        let fate = self.random.random_range(0..100);
        let registrar = self.registrars.get_mut(line).unwrap();
        let now = self.now;
        registrar.contacts.retain(|_, expires| *expires > now);
        // Lost before it arrived.
        if registrar.refuses.contains(&node) || (self.is_lossy && fate < 10) {
            return Err(());
        }
        if !registrar.keeps_all {
            registrar.contacts.clear();
        }
        registrar.contacts.insert(node, now + CONTACT_EXPIRES);
        // Its answer was lost.
        if self.is_lossy && fate > 90 {
            return Err(());
        }
        Ok(from.is_some_and(|from| registrar.contacts.contains_key(&from)))
    }

    fn unregister(&mut self, node: usize, line: &LineId) {
        let it = &self.nodes[node];
        let is_ending = it.is_stopping || !it.is_running || !it.wanted.contains(line);
        let registrar = self.registrars.get_mut(line).unwrap();
        let now = self.now;
        registrar.contacts.retain(|_, expires| *expires > now);
        let is_live = |contacts: &BTreeMap<usize, Instant>, nodes: &[SimulatedNode]| {
            contacts.keys().any(|node| nodes[*node].is_running)
        };
        let was_live = is_live(&registrar.contacts, &self.nodes);
        if registrar.keeps_all {
            registrar.contacts.remove(&node);
        } else {
            // The worst of registrars: it takes any un-REGISTER for that of its one contact.
            registrar.contacts.clear();
        }
        if was_live && !is_live(&registrar.contacts, &self.nodes) && !is_ending {
            self.gaps += 1;
            // It may have been killed just after it was confirmed, or have come not to want it.
            let lease = self.redis.leases.get(line);
            let holder = lease.and_then(|lease| self.nodes.iter().find(|it| it.id == lease.node));
            assert!(
                !holder.is_some_and(|it| it.is_running && it.wanted.contains(line)),
                "{line}: {} took the last contact away: {lease:?}",
                self.nodes[node].id
            );
        }
    }

    fn reaches(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.is_running && !node.is_frozen && !node.is_cut && !self.redis_is_away
    }

    /// At a node that is awake.
    fn happen(&mut self, node: usize, what: Happening) {
        let now = self.now;
        let beat = self.settings.beat();
        match what {
            Happening::Tick => {
                self.put(beat, node, Happening::Tick);
                self.nodes[node].coordinator.handle_timeout(now);
                self.nodes[node].beat_wanted = true;
            }
            Happening::Wake => {
                self.nodes[node].wake_at = None;
                self.nodes[node].coordinator.handle_timeout(now);
            }
            Happening::Poked => self.nodes[node].beat_wanted = true,
            Happening::Answered(number, answer) => self.answered(node, number, answer),
            Happening::Registered(line, result) => self.registered(node, line, result),
            Happening::Unregistered(line) => {
                let it = &mut self.nodes[node];
                it.fleet.remove(&line);
                it.coordinator.handle_let_go(&line, now);
            }
            Happening::Again(line, timer) => {
                let is_due = self.nodes[node]
                    .fleet
                    .get(&line)
                    .is_some_and(|it| it.timer == timer);
                // It neither registers nor renews before it has asked Redis.
                if is_due && self.nodes[node].coordinator.must_ask_first(now) {
                    self.put(RETRY, node, Happening::Again(line, timer));
                } else if is_due {
                    self.send_register(node, &line);
                }
            }
            Happening::Execute(..)
            | Happening::Register(..)
            | Happening::Unregister(..)
            | Happening::Fault(_) => unreachable!("not of a node"),
        }
    }

    fn answered(&mut self, node: usize, number: u64, answer: Answer) {
        let now = self.now;
        let it = &mut self.nodes[node];
        let Some((_, request, asked_at)) = it.request.take_if(|request| request.0 == number) else {
            return;
        };
        if matches!(request, Request::Beat) && it.woke_at.is_some_and(|woke_at| asked_at >= woke_at)
        {
            it.woke_at = None;
        }
        match (request, answer) {
            (Request::Beat, Answer::View(view, revision, made_at)) => {
                it.coordinator.handle_view(view, asked_at, now);
                it.revision = Some(revision);
                // A view that was asked for too long ago says nothing.
                if now - asked_at < self.settings.lease_ttl {
                    it.view_at = Some(made_at);
                }
            }
            (Request::Command(_), Answer::Leases(leases)) => {
                it.coordinator.handle_answer(leases, now)
            }
            (Request::Command(_), _) => it.coordinator.handle_command_failed(now),
            (Request::Beat, _) => {
                it.coordinator.handle_beat_failed(asked_at, now);
                it.no_beat_before = now + Duration::from_millis(500);
            }
        }
    }

    fn registered(&mut self, node: usize, line: LineId, result: Result<bool, ()>) {
        let now = self.now;
        let it = &mut self.nodes[node];
        let Some(fleet) = it.fleet.get_mut(&line) else {
            return;
        };
        fleet.is_under_way = false;
        if let Some(how) = fleet.letting_go {
            return self.finish_letting_go(node, line, how);
        }
        fleet.is_registered = result.is_ok();
        fleet.timer += 1;
        let timer = fleet.timer;
        if std::mem::take(&mut fleet.is_wanted_again) {
            return self.send_register(node, &line);
        }
        let next = match result {
            Ok(shown) => {
                it.coordinator.handle_registered(&line, shown, now);
                REFRESH
            }
            Err(()) => {
                it.coordinator.handle_registration_failed(&line, now);
                RETRY
            }
        };
        self.put(next, node, Happening::Again(line, timer));
    }

    fn send_register(&mut self, node: usize, line: &LineId) {
        assert_eq!(
            self.nodes[node].woke_at, None,
            "{line}: a REGISTER before it asked Redis"
        );
        let Some(fleet) = self.nodes[node].fleet.get_mut(line) else {
            return;
        };
        if fleet.is_under_way {
            fleet.is_wanted_again = true;
            return;
        }
        fleet.is_under_way = true;
        let from = fleet.from.clone();
        let delay = match self.random.random_range(0..20) {
            0 => self.random.random_range(500..4_000),
            _ => self.random.random_range(5..200),
        };
        let what = Happening::Register(line.clone(), from);
        self.put(Duration::from_millis(delay), node, what);
    }

    fn finish_letting_go(&mut self, node: usize, line: LineId, how: LetGo) {
        match how {
            LetGo::Unregister => {
                let delay = Duration::from_millis(self.random.random_range(5..200));
                self.put(delay, node, Happening::Unregister(line));
            }
            LetGo::Forget => {
                self.nodes[node].fleet.remove(&line);
                self.nodes[node].coordinator.handle_let_go(&line, self.now);
            }
        }
    }

    /// What the task that owns the coordinator does after each input.
    fn pump(&mut self, node: usize) {
        let now = self.now;
        while let Some(event) = self.nodes[node].coordinator.poll_event() {
            self.show(|| format!("{}: {event:?}", self.nodes[node].id));
            if let super::super::ClusterEvent::LineMoved { reason, .. } = event {
                *self.moves.entry(reason).or_default() += 1;
            }
        }
        while let Some(action) = self.nodes[node].coordinator.poll_action(now) {
            self.show(|| format!("{}: {action:?}", self.nodes[node].id));
            match action {
                LineAction::Register { line, from } => {
                    self.nodes[node].fleet.entry(line.clone()).or_default().from = from;
                    self.send_register(node, &line);
                }
                LineAction::LetGo { line, how } => {
                    let fleet = self.nodes[node].fleet.entry(line.clone()).or_default();
                    fleet.letting_go = Some(how);
                    fleet.is_registered = false;
                    fleet.timer += 1;
                    if !fleet.is_under_way {
                        self.finish_letting_go(node, line, how);
                    }
                }
            }
        }
        let it = &mut self.nodes[node];
        if it.request.is_none() {
            // The command first: the beat would come back without its effect.
            if let Some(command) = it.coordinator.poll_command(now, |_| false) {
                self.send(node, Request::Command(command));
            } else if it.wants_beat(now) && now >= it.no_beat_before {
                it.beat_wanted = false;
                it.no_beat_before = now + BETWEEN_BEATS;
                self.send(node, Request::Beat);
            }
        }
        let it = &mut self.nodes[node];
        let mut next = it.coordinator.next_timeout();
        if it.request.is_none() {
            let look_at = it.coordinator.look_at();
            let beat_at = if it.wants_beat(now) {
                Some(it.no_beat_before)
            } else {
                look_at.map(|look_at| look_at.max(it.no_beat_before))
            };
            next = next.into_iter().chain(beat_at).min();
        }
        if let Some(next) = next.filter(|next| it.wake_at.is_none_or(|at| *next < at)) {
            it.wake_at = Some(next);
            self.put(next.saturating_duration_since(now), node, Happening::Wake);
        }
    }

    fn send(&mut self, node: usize, request: Request) {
        self.show(|| format!("{}: {request:?}", self.nodes[node].id));
        self.number += 1;
        let number = self.number;
        self.nodes[node].request = Some((number, request.clone(), self.now));
        let delay = Duration::from_millis(self.random.random_range(1..30));
        let fate = if self.is_lossy {
            self.random.random_range(0..100)
        } else {
            99
        };
        if !self.reaches(node) {
            return self.put(
                REQUEST_TIMEOUT,
                node,
                Happening::Answered(number, Answer::Failed),
            );
        }
        let (runs_after, is_answered) = match fate {
            // Lost before it ran.
            0..10 => (None, false),
            // Ran; the answer is lost.
            10..25 => (Some(delay), false),
            // Runs when nobody waits for it any more.
            25..30 => (
                Some(Duration::from_millis(
                    self.random.random_range(1_100..5_000),
                )),
                false,
            ),
            _ => (Some(delay), true),
        };
        if !is_answered {
            self.disturbed_at = self.now;
            self.put(
                REQUEST_TIMEOUT,
                node,
                Happening::Answered(number, Answer::Failed),
            );
        }
        if let Some(after) = runs_after {
            let execute = Happening::Execute(request, is_answered.then_some(number));
            self.put(after, node, execute);
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Start(node) => self.start(node),
            Fault::Kill(node) => self.kill(node),
            Fault::Freeze(node, time) if self.nodes[node].is_running => {
                if !self.nodes[node].is_frozen {
                    self.nodes[node].frozen_at = self.now;
                }
                self.nodes[node].is_frozen = true;
                self.fault_in(time, Fault::Wake(node, self.nodes[node].life));
            }
            Fault::Wake(node, life) if self.nodes[node].life == life => self.wake(node),
            Fault::Freeze(..) | Fault::Wake(..) => {}
            Fault::Cut(node, time) => {
                self.nodes[node].is_cut = true;
                self.fault_in(time, Fault::Join(node));
            }
            Fault::Join(node) => self.nodes[node].is_cut = false,
            Fault::RedisAway(time) => {
                self.redis_is_away = true;
                self.fault_in(time, Fault::RedisBack);
            }
            Fault::RedisBack => {
                self.redis_is_away = false;
                self.redis_is_down = false;
            }
            Fault::RedisEmpty(time) => {
                self.redis.restart_empty();
                self.redis_is_away = true;
                self.redis_is_down = true;
                self.fault_in(time, Fault::RedisBack);
            }
            Fault::Flap(node, times) => {
                self.kill(node);
                let time = Duration::from_millis(self.random.random_range(100..15_000));
                self.fault_in(time, Fault::Start(node));
                if times > 1 {
                    self.fault_in(time * 2, Fault::Flap(node, times - 1));
                }
            }
            Fault::Stop(node) | Fault::Pause(node, _) if self.nodes[node].is_running => {
                let it = &mut self.nodes[node];
                it.is_draining = true;
                it.stages += 1;
                let (life, stage) = (it.life, it.stages);
                it.coordinator.drain(self.now);
                match fault {
                    Fault::Pause(_, time) => self.fault_in(time, Fault::Resume(node, life)),
                    _ => {
                        for after in [15, 20] {
                            self.fault_in(
                                Duration::from_secs(after),
                                Fault::Ended(node, life, stage),
                            );
                        }
                    }
                }
                self.pump_awake(node);
            }
            Fault::Stop(_) | Fault::Pause(..) => {}
            Fault::Ended(node, life, stage) => {
                let it = &mut self.nodes[node];
                if it.life != life || it.stages != stage || !it.is_running {
                } else if it.is_stopping || it.coordinator.may_exit() {
                    self.kill(node);
                } else {
                    it.is_stopping = true;
                    it.coordinator.stop(self.now);
                    self.pump_awake(node);
                }
            }
            Fault::Resume(node, life) => {
                let it = &mut self.nodes[node];
                if it.life == life && it.is_running && !it.is_stopping {
                    it.is_draining = false;
                    it.stages += 1;
                    it.coordinator.resume(self.now);
                    self.pump_awake(node);
                }
            }
            Fault::Refuse(node, line) => {
                let line = self.lines[line].clone();
                self.registrars.get_mut(&line).unwrap().refuses.insert(node);
            }
            Fault::Without(node, line) => {
                let it = &mut self.nodes[node];
                it.wanted.remove(&self.lines[line]);
                it.coordinator
                    .set_wanted(it.wanted.iter().cloned(), self.now);
                self.pump_awake(node);
            }
            Fault::Lossy(time) => {
                self.is_lossy = true;
                self.fault_in(time, Fault::Lossless);
            }
            Fault::Lossless => self.is_lossy = false,
            Fault::Calm => self.calm(),
        }
    }

    fn calm(&mut self) {
        self.redis_is_away = false;
        self.redis_is_down = false;
        self.is_lossy = false;
        for registrar in self.registrars.values_mut() {
            registrar.refuses.clear();
        }
        for node in 0..self.nodes.len() {
            let it = &mut self.nodes[node];
            it.is_cut = false;
            it.wanted = self.lines.iter().cloned().collect();
            it.coordinator
                .set_wanted(it.wanted.iter().cloned(), self.now);
            if self.nodes[node].is_stopping {
                self.kill(node);
            }
            if self.nodes[node].is_running {
                self.wake(node);
                self.nodes[node].is_draining = false;
                self.nodes[node].stages += 1;
                self.nodes[node].coordinator.resume(self.now);
                self.pump(node);
            }
            self.start(node);
        }
    }

    fn pump_awake(&mut self, node: usize) {
        if self.nodes[node].is_running && !self.nodes[node].is_frozen {
            self.pump(node);
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_running {
            return;
        }
        let now = self.now;
        let it = &mut self.nodes[node];
        it.life += 1;
        it.is_running = true;
        it.coordinator = Coordinator::new(it.id.clone(), self.settings, now);
        it.coordinator.set_wanted(it.wanted.iter().cloned(), now);
        it.no_beat_before = now;
        self.put(Duration::ZERO, node, Happening::Tick);
    }

    pub fn kill(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.life += 1;
        it.is_running = false;
        it.is_draining = false;
        it.is_stopping = false;
        it.is_frozen = false;
        it.request = None;
        it.beat_wanted = false;
        it.revision = None;
        it.view_at = None;
        it.fleet.clear();
        it.wake_at = None;
        it.deferred.clear();
        it.woke_at = None;
    }

    fn wake(&mut self, node: usize) {
        let is_expired = !self.redis.is_alive(&self.nodes[node].id, self.now);
        let it = &mut self.nodes[node];
        // Where Redis was away before it froze, it knew that it was cut off, and keeps what it has.
        let knew = it.coordinator.is_cut_off(it.frozen_at);
        if std::mem::take(&mut it.is_frozen) && is_expired && !knew && it.view_at.is_some() {
            let slept = self.now - it.frozen_at;
            it.woke_at = (slept > self.settings.lease_ttl).then_some(self.now);
        }
        for what in std::mem::take(&mut self.nodes[node].deferred) {
            self.happen(node, what);
            self.pump(node);
        }
    }

    /// What must hold at each moment.
    fn check(&mut self) {
        let now = self.now;
        let beat = self.settings.beat();
        let is_up = |it: &SimulatedNode, line: &LineId| {
            it.is_running
                && !it.is_frozen
                && !it.is_cut
                && !it.is_draining
                && it.view_at.is_some()
                && it.wanted.contains(line)
        };
        for line in &self.lines {
            let lease = self.redis.leases.get(line);
            let in_handover = |id: &NodeId| {
                lease.is_some_and(|lease| match &lease.stage {
                    LeaseStage::Moving { from } | LeaseStage::Confirmed { from, .. } => from == id,
                    _ => false,
                })
            };
            let mut registered = 0;
            for (index, it) in self.nodes.iter().enumerate() {
                let is_registered = it.fleet.get(line).is_some_and(|fleet| fleet.is_registered);
                if !is_registered || !self.reaches(index) {
                    continue;
                }
                let is_let_be =
                    lease.is_some_and(|lease| lease.node == it.id) || in_handover(&it.id);
                registered += usize::from(!in_handover(&it.id));
                // It may stay registered while the holder is not alive, and may be about to come back.
                let came_at = lease.and_then(|lease| self.redis.alive_since(&lease.node));
                let has_seen = match (self.redis.moved_at.get(line), it.view_at) {
                    (Some(moved_at), Some(view_at)) => {
                        view_at > *moved_at && came_at.is_some_and(|came_at| view_at > came_at)
                    }
                    _ => false,
                };
                let is_held = lease.is_some_and(|lease| self.redis.is_alive(&lease.node, now));
                assert!(
                    is_let_be || !has_seen || !is_held,
                    "{line}: {} is registered, and has seen that it is not its own: {lease:?}",
                    it.id
                );
            }
            if registered > 1 {
                let since = *self.doubled_since.entry(line.clone()).or_insert(now);
                let since = since.max(self.disturbed_at);
                let most = if self.is_strict {
                    Duration::ZERO
                } else {
                    beat * 2
                };
                assert!(
                    now - since <= most && !self.is_strict,
                    "{line}: registered by {registered} nodes since {:?}",
                    now - since
                );
            } else {
                self.doubled_since.remove(line);
            }
            let some_up = !self.redis_is_away && self.nodes.iter().any(|it| is_up(it, line));
            if !some_up {
                self.unheld_since.remove(line);
            } else if self.redis.is_unheld(line, now) {
                let since = *self.unheld_since.entry(line.clone()).or_insert(now);
                let since = since.max(self.disturbed_at);
                assert!(
                    now - since <= self.settings.lease_ttl + beat * 2,
                    "{line}: nobody holds it since {:?}: {lease:?}",
                    now - since
                );
            } else {
                self.unheld_since.remove(line);
            }
        }
    }

    /// What must hold when nothing has gone wrong for a while.
    pub fn check_calm(&self) {
        for line in &self.lines {
            let lease = self.redis.leases.get(line).unwrap();
            assert_eq!(lease.stage, LeaseStage::Held, "{line}");
            let shares =
                rendezvous::Shares::new(self.nodes.iter().map(|it| (it.id.clone(), it.capacity)));
            assert_eq!(&lease.node, shares.ranked(line)[0], "{line}: {lease:?}");
            for (index, it) in self.nodes.iter().enumerate() {
                let is_holder = it.id == lease.node;
                assert_eq!(it.coordinator.holds(line), is_holder, "{line}: {}", it.id);
                let fleet = it.fleet.get(line);
                assert_eq!(fleet.is_some(), is_holder, "{line}: {}", it.id);
                let contact = self.registrars[line].contacts.get(&index);
                if is_holder {
                    assert!(
                        fleet.is_some_and(|fleet| fleet.is_registered),
                        "{line}: {}",
                        it.id
                    );
                    assert!(
                        contact.is_some_and(|at| *at > self.now),
                        "{line}: {}",
                        it.id
                    );
                }
            }
        }
        for it in &self.nodes {
            assert_eq!(it.coordinator.lines_without_holder().count(), 0);
            assert!(!it.coordinator.needs_view() && !it.coordinator.is_cut_off(self.now));
        }
    }
}
