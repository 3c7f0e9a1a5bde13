//! The one thread that does all media of a run: paces RTP on absolute
//! deadlines, reads RTP and WebSockets from one epoll, and so owns every
//! note without a lock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, TryRecvError};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::clock::Clock;
use crate::echo::Worker;
use crate::leg::Leg;

/// Packet time of a call.
pub const PACKET_NS: u64 = 20_000_000;
/// Longest sleep: how late a command may be seen.
const TICK_NS: u64 = 2_000_000;
/// Marks the epoll data of a worker's socket.
const WORKER: u64 = 1 << 32;
const BUFFER_BYTES: usize = 256 * 1024;

/// What the SIP side tells the media thread.
pub enum Command {
    /// A call was answered: start its RTP.
    Call(Box<Leg>),
    /// A worker connection is up.
    Worker(Box<Worker>),
    /// The steady part begins: rounds of the `clear` test may run until then.
    Measure { until_ns: u64 },
    /// Send no more RTP, go on receiving.
    StopSending,
    /// Hand over the notes.
    Finish,
}

/// The notes of a run.
#[derive(Default)]
pub struct Notes {
    pub legs: Vec<Option<Leg>>,
    pub workers: Vec<Worker>,
    /// Frames of silence that workers got while the callers were sending.
    pub fillers: u64,
    /// How late each RTP packet was sent: what the generator itself adds.
    pub lateness_ns: Vec<u64>,
}

struct Media {
    clock: Clock,
    epoll: OwnedFd,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    notes: Notes,
    buffer: Vec<u8>,
    clear_calls: u16,
    measure_until_ns: u64,
    sending: bool,
}

/// Runs until `Finish` or until the other side of the channel is gone.
///
/// # Errors
/// When epoll fails.
pub fn run(
    clock: Clock,
    commands: &Receiver<Command>,
    calls: usize,
    clear_calls: u16,
) -> std::io::Result<Notes> {
    // Phones and workers have machines of their own: what they do on time must
    // not wait for the bridge's threads. Where that is not permitted they do.
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    // 1 µs instead of 50: the deadlines of neighbouring calls are 200 µs apart.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1_000));
    let mut media = Media {
        clock,
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        due: BinaryHeap::new(),
        notes: Notes::default(),
        buffer: vec![0; BUFFER_BYTES],
        clear_calls,
        measure_until_ns: 0,
        sending: true,
    };
    media.notes.legs.resize_with(calls, || None);
    let mut events = Vec::with_capacity(256);
    loop {
        loop {
            match commands.try_recv() {
                Ok(Command::Finish) | Err(TryRecvError::Disconnected) => return Ok(media.notes),
                Ok(command) => media.handle_command(command)?,
                Err(TryRecvError::Empty) => break,
            }
        }
        media.send_due();
        media.drive_clear_test();
        events.clear();
        let timeout = media.timeout();
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&media.epoll, room, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            media.handle_event(event.data.u64(), event.flags)?;
            media.send_due();
        }
    }
}

impl Media {
    fn handle_command(&mut self, command: Command) -> std::io::Result<()> {
        match command {
            Command::Call(leg) => {
                let index = usize::from(leg.index);
                let data = EventData::new_u64(index as u64);
                epoll::add(&self.epoll, &leg.socket, data, EventFlags::IN)?;
                self.due.push(Reverse((self.first_due_ns(index), index)));
                self.notes.legs[index] = Some(*leg);
            }
            Command::Worker(worker) => {
                let id = self.notes.workers.len() as u64;
                let data = EventData::new_u64(WORKER | id);
                epoll::add(&self.epoll, &worker.stream, data, EventFlags::IN)?;
                self.notes.workers.push(*worker);
                if let Some(worker) = self.notes.workers.last_mut() {
                    worker.handle_inbox(self.clock, &mut self.notes.legs);
                }
            }
            Command::Measure { until_ns } => {
                self.measure_until_ns = until_ns;
                let now_ns = self.clock.now_ns();
                for worker in &mut self.notes.workers {
                    if let Some(call) = worker.call.filter(|call| *call < self.clear_calls) {
                        worker.plan_bursts(now_ns + 500_000_000 + u64::from(call) * 137_000_000);
                    }
                }
            }
            Command::StopSending => {
                self.sending = false;
                self.notes.fillers = self.notes.workers.iter().map(|worker| worker.silence).sum();
            }
            Command::Finish => {}
        }
        Ok(())
    }

    /// The calls' phases are spread evenly over the 20 ms.
    fn first_due_ns(&self, index: usize) -> u64 {
        let now_ns = self.clock.now_ns();
        let phase_ns = PACKET_NS * index as u64 / self.notes.legs.len() as u64;
        now_ns - now_ns % PACKET_NS + PACKET_NS + phase_ns
    }

    fn send_due(&mut self) {
        let mut now_ns = self.clock.now_ns();
        while let Some(&Reverse((due_ns, index))) = self.due.peek() {
            if due_ns > now_ns {
                return;
            }
            self.due.pop();
            if !self.sending {
                continue;
            }
            if let Some(leg) = &mut self.notes.legs[index] {
                leg.send(self.clock);
            }
            now_ns = self.clock.now_ns();
            self.notes.lateness_ns.push(now_ns - due_ns);
            self.due.push(Reverse((due_ns + PACKET_NS, index)));
        }
    }

    fn drive_clear_test(&mut self) {
        if self.clear_calls == 0 {
            return;
        }
        for (id, worker) in self.notes.workers.iter_mut().enumerate() {
            if worker.call.is_some_and(|call| call < self.clear_calls) && !worker.closed {
                worker.handle_tick(self.clock, self.measure_until_ns);
                if worker.is_blocked() {
                    let data = EventData::new_u64(WORKER | id as u64);
                    let wanted = EventFlags::IN | EventFlags::OUT;
                    let _ = epoll::modify(&self.epoll, &worker.stream, data, wanted);
                }
            }
        }
    }

    fn timeout(&self) -> Timespec {
        let now_ns = self.clock.now_ns();
        let due_ns = self
            .due
            .peek()
            .map_or(u64::MAX, |Reverse((due_ns, _))| *due_ns);
        let wait_ns = due_ns.saturating_sub(now_ns).min(TICK_NS);
        Timespec {
            tv_sec: 0,
            tv_nsec: wait_ns as i64,
        }
    }

    fn handle_event(&mut self, data: u64, flags: EventFlags) -> std::io::Result<()> {
        if data & WORKER == 0 {
            if let Some(Some(leg)) = self.notes.legs.get_mut(data as usize) {
                leg.handle_readable(self.clock, &mut self.buffer);
            }
            return Ok(());
        }
        let Some(worker) = self.notes.workers.get_mut((data & !WORKER) as usize) else {
            return Ok(());
        };
        let was_blocked = worker.is_blocked();
        if flags.contains(EventFlags::OUT) {
            worker.flush();
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            worker.handle_readable(self.clock, &mut self.buffer, &mut self.notes.legs);
        }
        if worker.closed {
            epoll::delete(&self.epoll, &worker.stream)?;
            // The end of the connection, for the bridge to see.
            let _ = worker.stream.shutdown(std::net::Shutdown::Write);
        } else if worker.is_blocked() != was_blocked {
            let wanted = match worker.is_blocked() {
                true => EventFlags::IN | EventFlags::OUT,
                false => EventFlags::IN,
            };
            epoll::modify(
                &self.epoll,
                &worker.stream,
                EventData::new_u64(data),
                wanted,
            )?;
        }
        Ok(())
    }
}
