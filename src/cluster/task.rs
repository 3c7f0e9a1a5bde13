//! The task: it beats, asks Redis for what the coordinator wants, and has lines registered and let go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::actions::LineActions;
use super::handle::ClusterHandle;
use super::report::report;
use crate::core::cluster::{
    Coordinator, CoordinatorSettings, Lease, LeaseCommand, LetGo, LineAction, NodeId, NodeInfo,
    NodeStage,
};
use crate::core::ids::LineId;
use crate::core::register_gate::RegisterGate;
use crate::fleet::{CallLimiter, RegistrarHandle};
use crate::queue::{Beat, LeaseOutcome, LeaseStore, LineMoved, NodeChannel, QueueError, Revision};
use crate::sip::engine::{Registration, SharedEngine};

/// How long the first lease is waited for before the lines register without one: a Redis that is away must not
/// leave the phones dead.
const FIRST_VIEW_PATIENCE: Duration = Duration::from_secs(2);
/// Shortest time between two beats, whatever asks for one; after one that failed, too.
const BEAT_PAUSE: Duration = Duration::from_millis(250);
/// By when a beat follows on another bridge's word: others' words come in bursts.
const POKED_PAUSE: Duration = Duration::from_millis(50);
/// Longest time in which a line is let go: an un-REGISTER without an answer is over by then (64 * T1).
const LET_GO_MAX: Duration = Duration::from_secs(45);
/// Longest sleep: whether we are cut off is looked at as often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same while lines are given away: one of which a call is being set up is offered a moment later.
const LOOK_EVERY_DRAINING: Duration = Duration::from_millis(100);

/// What the task is made of.
pub struct ClusterParts {
    /// Leases and nodes in Redis.
    pub store: LeaseStore,
    /// The lines that register.
    pub registrar: RegistrarHandle,
    /// Un-REGISTERs.
    pub engine: SharedEngine,
    /// How many calls there are, and of which lines they are being set up.
    pub call_limiter: Arc<CallLimiter>,
    /// Set while others may have taken our lines over.
    pub cut_off: Arc<AtomicBool>,
    /// Kept open while this task looks after the leases.
    pub register_gate: RegisterGate,
    /// Times.
    pub settings: CoordinatorSettings,
    /// Most calls of this bridge: its weight.
    pub capacity: u32,
    /// Where its API answers, for the other bridges.
    pub api_url: Option<Arc<str>>,
    /// Where workers dial it.
    pub stream_url: Option<Arc<str>>,
}

/// The task; see the module.
pub struct ClusterTask {
    handle: ClusterHandle,
    store: LeaseStore,
    channel: NodeChannel,
    actions: LineActions,
    call_limiter: Arc<CallLimiter>,
    register_gate: RegisterGate,
    lease_ttl: Duration,
    info: NodeInfo,
    beat_every: Duration,
    beat_at: Instant,
    last_beat: Option<Instant>,
    revision: Option<Revision>,
    /// Lines that are being let go, and when that is over in any case.
    letting_go: HashMap<LineId, Instant>,
    /// Until when the first view is waited for; `None` once it has come, or is not waited for any more.
    first_view_by: Option<Instant>,
    /// Lines were registered although no lease is known.
    has_no_leases: bool,
    moves: Vec<LineMoved>,
}

impl ClusterTask {
    /// The part of this bridge in the cluster, and the handle to it. The lines must be held by then.
    #[must_use]
    pub fn new(parts: ClusterParts) -> (Self, ClusterHandle) {
        let now = Instant::now();
        let node = parts.store.node().clone();
        parts.registrar.outcomes().watch();
        let coordinator = Coordinator::new(node.clone(), parts.settings, now.into_std());
        let handle = ClusterHandle::new(node, coordinator, parts.cut_off);
        let info = NodeInfo {
            stage: NodeStage::Up,
            capacity: parts.capacity,
            lines: 0,
            calls: 0,
            version: env!("CARGO_PKG_VERSION").into(),
            api_url: parts.api_url,
            stream_url: parts.stream_url,
            lines_digest: 0,
        };
        let task = Self {
            handle: handle.clone(),
            channel: parts.store.channel(),
            store: parts.store,
            actions: LineActions {
                registrar: parts.registrar,
                engine: parts.engine,
            },
            call_limiter: parts.call_limiter,
            register_gate: parts.register_gate,
            lease_ttl: parts.settings.lease_ttl,
            info,
            beat_every: parts.settings.beat(),
            beat_at: now,
            last_beat: None,
            revision: None,
            letting_go: HashMap::new(),
            first_view_by: Some(now + FIRST_VIEW_PATIENCE),
            has_no_leases: false,
            moves: Vec::new(),
        };
        (task, handle)
    }

    /// Runs until another bridge turns out to have our name.
    pub async fn run(mut self) {
        loop {
            self.take_outcomes();
            if self.next_beat() <= Instant::now() && self.beat().await.is_err() {
                return self.give_up().await;
            }
            self.register_without_leases();
            self.open_register_gate();
            if self.carry_out().await.is_err() {
                return self.give_up().await;
            }
            self.tell().await;
            self.open_register_gate();
            self.note_cut_off();
            self.handle.shared().steps.send_modify(|steps| *steps += 1);
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        let (due, is_draining) = {
            let coordinator = self.handle.shared().lock();
            (coordinator.next_timeout(), coordinator.is_draining())
        };
        let look_every = if is_draining {
            LOOK_EVERY_DRAINING
        } else {
            LOOK_EVERY
        };
        let due = due.map_or(now + look_every, Instant::from_std);
        let next = due.min(self.next_beat()).min(now + look_every);
        tokio::select! {
            () = sleep_until(next) => {}
            () = self.actions.registrar.outcomes().changed() => {}
            () = self.handle.shared().wake.notified() => {}
            () = self.channel.notified() => {
                self.beat_at = self.beat_at.min(Instant::now() + POKED_PAUSE);
            }
        }
        let now = Instant::now().into_std();
        self.handle.shared().lock().handle_timeout(now);
    }

    fn take_outcomes(&mut self) {
        let registrar = &self.actions.registrar;
        let has_changed = registrar.outcomes().take_lines_changed();
        let lines = has_changed.then(|| registrar.shareable());
        let outcomes = registrar.outcomes().take();
        let now = Instant::now();
        let mut coordinator = self.handle.shared().lock();
        if let Some(lines) = lines {
            coordinator.set_wanted(lines, now.into_std());
        }
        for (line, outcome) in outcomes {
            match outcome {
                Registration::Registered {
                    siblings_listed, ..
                } => {
                    coordinator.handle_registered(&line, siblings_listed, now.into_std());
                }
                Registration::Failed { .. } => {
                    coordinator.handle_registration_failed(&line, now.into_std());
                }
                Registration::Unregistered => {
                    self.letting_go.remove(&line);
                    coordinator.handle_let_go(&line, now.into_std());
                }
            }
        }
        self.letting_go.retain(|line, by| {
            let is_over = *by <= now;
            if is_over {
                warn!(%line, "no answer to the un-REGISTER: the line counts as let go");
                coordinator.handle_let_go(line, now.into_std());
            }
            !is_over
        });
    }

    /// When the next beat is due: sooner than the usual where the coordinator has to know how things are, or another
    /// bridge's heartbeat expires.
    fn next_beat(&self) -> Instant {
        let Some(last) = self.last_beat else {
            return self.beat_at;
        };
        let (wants_view, look_at) = {
            let coordinator = self.handle.shared().lock();
            (coordinator.needs_view(), coordinator.look_at())
        };
        if wants_view {
            return last + BEAT_PAUSE;
        }
        let look_at = look_at.map_or(self.beat_at, Instant::from_std);
        self.beat_at.min(look_at).max(last + POKED_PAUSE)
    }

    /// Says that we live, and takes in how the cluster is.
    ///
    /// # Errors
    /// When another bridge runs under our name.
    async fn beat(&mut self) -> Result<(), QueueError> {
        let asked_at = Instant::now();
        {
            let coordinator = self.handle.shared().lock();
            self.info.lines_digest = coordinator.lines_digest();
            self.info.stage = if coordinator.is_draining() {
                NodeStage::Draining
            } else {
                NodeStage::Up
            };
        }
        let registered = self.actions.registrar.counts().registered;
        self.info.lines = u32::try_from(registered).unwrap_or(u32::MAX);
        self.info.calls = self.call_limiter.active();
        let answer = self.store.beat(&self.info, self.revision).await;
        let is_answered = answer.is_ok();
        self.take_view(answer, asked_at)?;
        if is_answered {
            self.handle.shared().views.send_modify(|views| *views += 1);
        }
        Ok(())
    }

    fn take_view(
        &mut self,
        answer: Result<Beat, QueueError>,
        asked_at: Instant,
    ) -> Result<(), QueueError> {
        let now = Instant::now();
        self.last_beat = Some(now);
        let mut coordinator = self.handle.shared().lock();
        match answer {
            Ok(beat) => {
                coordinator.handle_view(beat.view, asked_at.into_std(), now.into_std());
                self.revision = Some(beat.revision);
                self.first_view_by = None;
                self.has_no_leases = false;
                self.beat_at = asked_at + self.beat_every;
                Ok(())
            }
            Err(error @ QueueError::Conflict { .. }) => Err(error),
            Err(error) => {
                debug!(%error, "no heartbeat");
                coordinator.handle_beat_failed(asked_at.into_std(), now.into_std());
                self.beat_at = now + BEAT_PAUSE;
                Ok(())
            }
        }
    }

    /// Where Redis is away from the start, the lines register all the same: whoever rings hears the fallback. What
    /// others hold is let go again once Redis tells of it.
    fn register_without_leases(&mut self) {
        let now = Instant::now();
        if self.first_view_by.is_none_or(|by| by > now) {
            return;
        }
        self.first_view_by = None;
        self.has_no_leases = true;
        warn!("Redis is away; lines register all the same");
        for line in self.actions.registrar.shareable() {
            let _ = self.actions.registrar.take_lease(&line);
        }
    }

    /// Does what the coordinator wants, until it wants nothing more for now, or a heartbeat is due.
    ///
    /// # Errors
    /// When another bridge runs under our name.
    async fn carry_out(&mut self) -> Result<(), QueueError> {
        loop {
            self.begin_actions().await;
            let Some(command) = self.next_command() else {
                return Ok(());
            };
            let answer = self.run_command(command).await;
            let now = Instant::now().into_std();
            let mut coordinator = self.handle.shared().lock();
            match answer {
                Ok(outcomes) => coordinator.handle_answer(leases(outcomes), now),
                Err(error @ QueueError::Conflict { .. }) => return Err(error),
                Err(error) => {
                    debug!(%error, "the leases could not be changed");
                    coordinator.handle_command_failed(now);
                    self.beat_at = self.beat_at.min(Instant::now() + BEAT_PAUSE);
                }
            }
            drop(coordinator);
            // However much there is to do: a bridge that does not say that it lives loses its lines.
            if self.next_beat() <= Instant::now() {
                return Ok(());
            }
        }
    }

    fn next_command(&self) -> Option<LeaseCommand> {
        let limiter = &self.call_limiter;
        let mut coordinator = self.handle.shared().lock();
        coordinator.poll_command(Instant::now().into_std(), |line| {
            limiter.is_being_set_up(line)
        })
    }

    async fn run_command(&self, command: LeaseCommand) -> Result<Vec<LeaseOutcome>, QueueError> {
        let store = &self.store;
        match command {
            LeaseCommand::Claim(lines) => store.claim(&lines).await,
            LeaseCommand::Reclaim(lines) => store.reclaim(&lines).await,
            LeaseCommand::Offer { lines, tell } => store.offer(&lines, &tell).await,
            LeaseCommand::Withdraw(lines) => store.withdraw(&lines).await,
            LeaseCommand::Confirm(lines) => store.confirm(&lines).await,
            LeaseCommand::Release(lines) => store.release(&lines, &self.others()).await,
            LeaseCommand::Done(lines) => store.done(&lines).await,
        }
    }

    fn others(&self) -> Vec<NodeId> {
        let coordinator = self.handle.shared().lock();
        let others = coordinator.nodes().iter().map(|node| &node.id);
        others
            .filter(|id| *id != self.handle.node())
            .cloned()
            .collect()
    }

    async fn begin_actions(&mut self) {
        while let Some(action) = self.next_action() {
            let (line, is_let_go) = match &action {
                LineAction::Register { line, .. } => (line.clone(), false),
                LineAction::LetGo { line, .. } => (line.clone(), true),
            };
            let is_under_way = self.actions.begin(action).await;
            let now = Instant::now();
            if is_under_way {
                if is_let_go {
                    self.letting_go.insert(line, now + LET_GO_MAX);
                }
                continue;
            }
            let mut coordinator = self.handle.shared().lock();
            if is_let_go {
                coordinator.handle_let_go(&line, now.into_std());
            } else {
                // It was removed a moment ago, and would be asked for again at once.
                coordinator.handle_unknown(&line, now.into_std());
            }
        }
    }

    fn next_action(&self) -> Option<LineAction> {
        let mut coordinator = self.handle.shared().lock();
        coordinator.poll_action(Instant::now().into_std())
    }

    /// Logs what has happened, and writes what moved into the stream of events.
    async fn tell(&mut self) {
        loop {
            let event = self.handle.shared().lock().poll_event();
            let Some(event) = event else { break };
            self.moves.extend(report(event));
        }
        if self.moves.is_empty() {
            return;
        }
        let moves = std::mem::take(&mut self.moves);
        if let Err(error) = self.store.record_moves(&moves).await {
            warn!(%error, moves = moves.len(), "lines have moved, and the stream of events does not tell of it");
        }
    }

    /// REGISTERs may be sent for as long as a lease lives from now on, unless this process stood still and has not asked
    /// Redis since.
    fn open_register_gate(&self) {
        let now = Instant::now().into_std();
        if !self.handle.shared().lock().must_ask_first(now) {
            self.register_gate.open_until(now + self.lease_ttl);
        }
    }

    fn note_cut_off(&self) {
        let is_cut_off = {
            let coordinator = self.handle.shared().lock();
            let now = Instant::now().into_std();
            self.has_no_leases || coordinator.is_cut_off(now) || coordinator.must_ask_first(now)
        };
        let was_cut_off = self
            .handle
            .shared()
            .cut_off
            .swap(is_cut_off, Ordering::Relaxed);
        match (was_cut_off, is_cut_off) {
            (false, true) => warn!(
                "Redis does not answer: other bridges may hold these lines; calls ring before they get the fallback"
            ),
            (true, false) => info!("Redis answers again"),
            _ => {}
        }
    }

    /// Another bridge runs under our name, and has our lines: nothing is sent that would hit its registrations.
    async fn give_up(self) {
        error!(
            node = %self.handle.node(),
            "another bridge runs under this node id: this one ends. Give each bridge a --node-id of its own"
        );
        for line in self.actions.registrar.shareable() {
            let how = LetGo::Forget;
            self.actions.begin(LineAction::LetGo { line, how }).await;
        }
        self.handle.shared().conflict.send_replace(true);
    }
}

fn leases(outcomes: Vec<LeaseOutcome>) -> impl Iterator<Item = (LineId, Option<Lease>)> {
    outcomes
        .into_iter()
        .map(|outcome| (outcome.line, outcome.lease))
}
