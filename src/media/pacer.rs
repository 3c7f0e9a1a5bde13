//! The clock of outgoing audio: one thread that gives every stream its tick
//! each 20 ms, on absolute deadlines, so that exactly 50 packets a second
//! leave and no error adds up.
//!
//! Streams are spread over eight phases of 2.5 ms, so that hundreds of them
//! do not leave in one burst. A thread that comes late catches up; one that
//! comes very late (the process was stopped) skips whole rounds and tells
//! each stream how many, because a burst of old packets would only grow the
//! listener's jitter buffer.
//!
//! The thread comes before everything else where the system permits that:
//! what it does is short, and what waits for it is heard. It alone owns the
//! streams and never waits for another thread: what would take that, it leaves
//! to one of normal priority (`deferred`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::Notify;
use tracing::{error, info};

use super::deferred::{Deferred, DeferredQueue, DeferredThread};

/// Audio in one packet.
pub const FRAME: Duration = Duration::from_millis(20);
const PHASES: usize = 8;
const STEP: Duration = Duration::from_micros(2_500);
/// How late the thread may be and still send what it missed.
const CATCH_UP: Duration = Duration::from_millis(60);
/// Longest sleep without streams: the watchdog wants a beat.
const IDLE: Duration = Duration::from_millis(250);

/// Something that sends a packet every 20 ms. The pacer owns it.
pub trait Paced: Send {
    /// Sends the next packet. `skipped`: whole frames that were due since the
    /// last tick and will not be sent. Whether its driver is to be woken. Must not
    /// block, nor wait for a lock that a normal thread may hold.
    fn tick(&mut self, now: Instant, skipped: u32) -> bool;

    /// Whether the stream is over and the pacer may forget it.
    fn is_over(&self) -> bool;

    /// Its tick has panicked: it gets no other one, and its call must end. The
    /// driver is woken after this.
    fn fail(&mut self);

    /// What wakes its driver.
    fn driver(&self) -> &Arc<Notify>;
}

/// What the outside sees of the pacer thread.
#[derive(Debug, Default)]
struct PacerStats {
    beat: Arc<AtomicU64>,
    late_max_us: AtomicU64,
    skipped_rounds: AtomicU64,
    stop: AtomicBool,
}

/// The running pacer. Dropping it stops and joins the thread.
pub struct Pacer {
    gauges: Arc<PacerStats>,
    inbox: Arc<Mutex<Vec<Box<dyn Paced>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Ends after the pacer's own thread.
    _deferred: DeferredThread,
}

impl Pacer {
    /// Starts the thread; `on_start` runs in it first (pjlib registration).
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(on_start: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let gauges = Arc::new(PacerStats::default());
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let (deferred_thread, deferred) = DeferredThread::start()?;
        let worker = PacerThread {
            gauges: gauges.clone(),
            inbox: inbox.clone(),
            wheel: Wheel::new(deferred),
        };
        let thread = thread::Builder::new().name("pacer".into()).spawn(move || {
            let real_time = raise_to_realtime();
            info!(real_time, "the clock of audio runs");
            on_start();
            worker.run();
        })?;
        Ok(Self {
            gauges,
            inbox,
            thread: Mutex::new(Some(thread)),
            _deferred: deferred_thread,
        })
    }

    /// Gives a stream its ticks, the first within 20 ms, until it is over.
    pub fn add(&self, stream: Box<dyn Paced>) {
        self.inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
        if let Some(thread) = &*self.thread() {
            thread.thread().unpark();
        }
    }

    /// Stops and joins the thread; no stream gets a tick any more.
    pub fn stop(&self) {
        self.gauges.stop.store(true, Ordering::Release);
        let thread = self.thread().take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes at least four times a second while the thread lives.
    #[must_use]
    pub fn beat(&self) -> Arc<AtomicU64> {
        self.gauges.beat.clone()
    }

    /// The latest tick since this was last asked, in microseconds late.
    #[must_use]
    pub fn take_late_max_us(&self) -> u64 {
        self.gauges.late_max_us.swap(0, Ordering::Relaxed)
    }

    /// Rounds of 20 ms that were skipped because the process was stalled.
    #[must_use]
    pub fn skipped_rounds(&self) -> u64 {
        self.gauges.skipped_rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Real-time scheduling at its lowest rank (SCHED_RR 1), for this thread; whether
/// the system permits it (CAP_SYS_NICE, or RLIMIT_RTPRIO of 1). Else a thread
/// that has used its share of the core comes first now and then.
fn raise_to_realtime() -> bool {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).is_ok()
}

struct PacerThread {
    gauges: Arc<PacerStats>,
    inbox: Arc<Mutex<Vec<Box<dyn Paced>>>>,
    wheel: Wheel,
}

impl PacerThread {
    fn run(mut self) {
        let mut schedule = Schedule::new(Instant::now());
        while !self.gauges.stop.load(Ordering::Acquire) {
            self.gauges.beat.fetch_add(1, Ordering::Release);
            self.take_new(schedule.rounds_skipped);
            if self.wheel.is_empty() {
                thread::park_timeout(IDLE);
                schedule.restart(Instant::now());
                continue;
            }
            let now = Instant::now();
            match schedule.poll(now) {
                Poll::Wait(pause) => thread::sleep(pause),
                Poll::Due { phase, late } => {
                    self.note(late, schedule.rounds_skipped);
                    self.wheel.tick(phase, now, schedule.rounds_skipped);
                }
            }
        }
    }

    /// Where a stream is being added in this moment, it is taken 2.5 ms later.
    fn take_new(&mut self, rounds_skipped: u64) {
        let mut inbox = match self.inbox.try_lock() {
            Ok(inbox) => inbox,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        for stream in inbox.drain(..) {
            self.wheel.add(stream, rounds_skipped);
        }
    }

    fn note(&self, late: Duration, rounds_skipped: u64) {
        let late_us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.gauges
            .late_max_us
            .fetch_max(late_us, Ordering::Relaxed);
        self.gauges
            .skipped_rounds
            .store(rounds_skipped, Ordering::Relaxed);
    }
}

enum Poll {
    Wait(Duration),
    Due { phase: usize, late: Duration },
}

/// When which phase is due. Pure.
struct Schedule {
    origin: Instant,
    steps: u64,
    rounds_skipped: u64,
}

impl Schedule {
    fn new(origin: Instant) -> Self {
        Self {
            origin,
            steps: 0,
            rounds_skipped: 0,
        }
    }

    /// Nothing was due meanwhile: go on from here.
    fn restart(&mut self, now: Instant) {
        self.origin = now;
        self.steps = 0;
    }

    fn due(&self) -> Instant {
        // 2^32 steps of 2.5 ms are four months; split to stay in Duration's u32.
        let (high, low) = (self.steps >> 24, self.steps & 0xFF_FFFF);
        let (high, low) = (u32::try_from(high), u32::try_from(low));
        self.origin + STEP * low.unwrap_or(0) + STEP * (1 << 24) * high.unwrap_or(0)
    }

    fn poll(&mut self, now: Instant) -> Poll {
        let due = self.due();
        if due > now {
            return Poll::Wait(due - now);
        }
        let late = now - due;
        if late > CATCH_UP {
            let rounds = u64::try_from(late.as_millis() / FRAME.as_millis()).unwrap_or(u64::MAX);
            self.rounds_skipped += rounds;
            self.steps += rounds * PHASES as u64;
        }
        let phase = (self.steps % PHASES as u64) as usize;
        self.steps += 1;
        Poll::Due { phase, late }
    }
}

struct Entry {
    stream: Box<dyn Paced>,
    /// `rounds_skipped` at its last tick.
    rounds_skipped: u64,
    /// Its driver is to be woken, and could not be yet.
    owes_wake: bool,
    /// It is to be freed, and could not be yet.
    is_over: bool,
}

impl Entry {
    /// A panic in one stream is the end of that stream, not of the thread that all
    /// calls are heard by.
    fn tick(&mut self, now: Instant, rounds_skipped: u64) {
        let skipped = rounds_skipped - self.rounds_skipped;
        self.rounds_skipped = rounds_skipped;
        let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
        let ticked = catch_unwind(AssertUnwindSafe(|| self.stream.tick(now, skipped)));
        if ticked.is_err() {
            error!("panic in the outgoing audio of a call, the call is ended");
            self.stream.fail();
            self.is_over = true;
        }
        self.owes_wake |= ticked.unwrap_or(true);
    }
}

struct Wheel {
    phases: [Vec<Entry>; PHASES],
    deferred: DeferredQueue,
}

impl Wheel {
    fn new(deferred: DeferredQueue) -> Self {
        Self {
            phases: Default::default(),
            deferred,
        }
    }

    fn is_empty(&self) -> bool {
        self.phases.iter().all(Vec::is_empty)
    }

    /// Puts the stream where the fewest are.
    fn add(&mut self, stream: Box<dyn Paced>, rounds_skipped: u64) {
        if let Some(phase) = self.phases.iter_mut().min_by_key(|phase| phase.len()) {
            phase.push(Entry {
                stream,
                rounds_skipped,
                owes_wake: false,
                is_over: false,
            });
        }
    }

    fn tick(&mut self, phase: usize, now: Instant, rounds_skipped: u64) {
        // From the back: what takes the place of a removed one has had its tick.
        for index in (0..self.phases[phase].len()).rev() {
            let entry = &mut self.phases[phase][index];
            entry.is_over |= entry.stream.is_over();
            if !entry.is_over {
                entry.tick(now, rounds_skipped);
            }
            if entry.owes_wake {
                let wake = Deferred::Wake(entry.stream.driver().clone());
                entry.owes_wake = self.deferred.push(wake).is_err();
            }
            if entry.is_over && !entry.owes_wake {
                self.forget(phase, index);
            }
        }
        self.deferred.flush();
    }

    /// Has a stream freed; where too much waits for that, in the next round.
    fn forget(&mut self, phase: usize, index: usize) {
        let entry = self.phases[phase].swap_remove(index);
        let rounds_skipped = entry.rounds_skipped;
        if let Err(Deferred::Free(stream)) = self.deferred.push(Deferred::Free(entry.stream)) {
            self.phases[phase].push(Entry {
                stream,
                rounds_skipped,
                owes_wake: false,
                is_over: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use rand::{RngExt, SeedableRng};

    #[derive(Clone, Default)]
    struct Probe(Arc<Probed>);

    impl std::ops::Deref for Probe {
        type Target = Probed;

        fn deref(&self) -> &Probed {
            &self.0
        }
    }

    #[derive(Default)]
    struct Probed {
        ticks: AtomicU64,
        skipped: AtomicU64,
        over: AtomicBool,
        failed: AtomicBool,
        panics: AtomicBool,
        driver: Arc<Notify>,
    }

    impl Paced for Probe {
        fn tick(&mut self, _: Instant, skipped: u32) -> bool {
            assert!(!self.panics.load(Ordering::Relaxed), "injected by the test");
            self.ticks.fetch_add(1, Ordering::Relaxed);
            self.skipped.fetch_add(skipped.into(), Ordering::Relaxed);
            false
        }

        fn is_over(&self) -> bool {
            self.over.load(Ordering::Relaxed)
        }

        fn fail(&mut self) {
            self.failed.store(true, Ordering::Relaxed);
        }

        fn driver(&self) -> &Arc<Notify> {
            &self.driver
        }
    }

    /// A wheel, and the thread that does what it leaves.
    fn wheel() -> (DeferredThread, Wheel) {
        let (thread, deferred) = DeferredThread::start().expect("a thread");
        (thread, Wheel::new(deferred))
    }

    fn soon(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn run_until(schedule: &mut Schedule, wheel: &mut Wheel, now: Instant) {
        while let Poll::Due { phase, .. } = schedule.poll(now) {
            wheel.tick(phase, now, schedule.rounds_skipped);
        }
    }

    #[test]
    fn its_thread_comes_first_where_that_is_permitted() {
        let permitted = thread::spawn(raise_to_realtime).join().expect("no panic");
        let (tell, told) = std::sync::mpsc::channel();
        let pacer = Pacer::start(move || {
            let _ = tell.send(thread_priority::thread_schedule_policy());
        });
        let policy = told.recv().expect("it starts");
        let is_real_time = matches!(policy, Ok(ThreadSchedulePolicy::Realtime(_)));
        assert_eq!(is_real_time, permitted);
        pacer.expect("a thread").stop();
    }

    #[test]
    fn an_hour_of_late_wake_ups_gives_exactly_50_packets_a_second() {
        let seed = rand::rng().random::<u64>();
        println!("seed {seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let (_deferred, mut wheel) = wheel();
        let probes: Vec<_> = (0..5).map(|_| Probe::default()).collect();
        for probe in &probes {
            wheel.add(Box::new(probe.clone()), 0);
        }
        let hour = Duration::from_secs(3_600);
        let mut now = start;
        while now < start + hour - Duration::from_millis(100) {
            let late_us = if random.random_ratio(1, 500) {
                55_000
            } else {
                random.random_range(0..400)
            };
            now += STEP + Duration::from_micros(late_us);
            run_until(&mut schedule, &mut wheel, now);
        }
        for left_ms in [50, 0] {
            let end = start + hour - Duration::from_millis(left_ms) - Duration::from_nanos(1);
            run_until(&mut schedule, &mut wheel, end);
        }
        for probe in &probes {
            assert_eq!(probe.ticks.load(Ordering::Relaxed), 180_000, "seed {seed}");
            assert_eq!(probe.skipped.load(Ordering::Relaxed), 0, "seed {seed}");
        }
    }

    #[test]
    fn a_stall_is_skipped_in_whole_frames_and_told_to_each_stream() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let (_deferred, mut wheel) = wheel();
        let probes: Vec<_> = (0..8).map(|_| Probe::default()).collect();
        for probe in &probes {
            wheel.add(Box::new(probe.clone()), 0);
        }
        for millis in 0..1_000 {
            run_until(
                &mut schedule,
                &mut wheel,
                start + Duration::from_millis(millis),
            );
        }
        run_until(
            &mut schedule,
            &mut wheel,
            start + Duration::from_millis(1_499),
        );
        run_until(
            &mut schedule,
            &mut wheel,
            start + Duration::from_millis(1_999),
        );
        for probe in &probes {
            let (ticks, skipped) = (
                probe.ticks.load(Ordering::Relaxed),
                probe.skipped.load(Ordering::Relaxed),
            );
            assert_eq!(ticks + skipped, 100, "ticks {ticks} skipped {skipped}");
            assert!((48..=50).contains(&skipped), "skipped {skipped}");
        }
    }

    #[test]
    fn a_stream_that_is_over_is_forgotten() {
        let (_deferred, mut wheel) = wheel();
        let probe = Probe::default();
        wheel.add(Box::new(probe.clone()), 0);
        wheel.tick(0, Instant::now(), 0);
        probe.over.store(true, Ordering::Relaxed);
        wheel.tick(0, Instant::now(), 0);
        assert!(wheel.is_empty());
        assert_eq!(probe.ticks.load(Ordering::Relaxed), 1);
        soon("it is freed", || Arc::strong_count(&probe.0) == 1);
    }

    #[test]
    fn a_panic_in_one_stream_ends_that_stream_and_not_the_thread() {
        let pacer = Pacer::start(|| {}).expect("a thread");
        let probes: Vec<_> = (0..2 * PHASES).map(|_| Probe::default()).collect();
        for probe in &probes {
            pacer.add(Box::new(probe.clone()));
        }
        let ticked = |probe: &Probe, count: u64| {
            let deadline = Instant::now() + Duration::from_secs(5);
            while probe.ticks.load(Ordering::Relaxed) < count {
                assert!(Instant::now() < deadline, "no ticks");
                thread::sleep(FRAME);
            }
        };
        let failing = &probes[0];
        ticked(failing, 1);
        failing.panics.store(true, Ordering::Relaxed);
        for probe in &probes[1..] {
            ticked(probe, probe.ticks.load(Ordering::Relaxed) + 5);
            assert!(!probe.failed.load(Ordering::Relaxed));
        }
        assert!(failing.failed.load(Ordering::Relaxed));
        soon("its driver is woken", || {
            failing.driver.notified().now_or_never().is_some()
        });
        soon("it is forgotten", || Arc::strong_count(&failing.0) == 1);
        pacer.stop();
    }

    #[test]
    fn due_times_stay_exact_for_months() {
        let mut schedule = Schedule::new(Instant::now());
        schedule.steps = 400 * 86_400 * 120;
        assert_eq!(
            schedule.due() - schedule.origin,
            Duration::from_secs(86_400 * 120)
        );
    }
}
