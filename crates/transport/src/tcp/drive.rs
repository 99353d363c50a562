//! A thread that waits for a batch moves the bytes of its streams itself; the I/O thread leaves them alone meanwhile.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::SMALL_BYTES;
use super::lane::{Lane, Watch, Who};
use super::link::LinkCore;
use crate::State;

/// How long a thread looks for the answer to a small request before it sleeps. Waking up costs 10 to 20 us; a longer
/// spin takes the core from whoever makes the answer.
const SPIN: Duration = Duration::from_micros(40);
/// One small batch in so many tries the way that was slower of late.
const TRIAL: u32 = 32;

/// Threads that may spin at a time: always one core less than there are, none on one core.
pub(super) struct Spinners {
    spinning: AtomicUsize,
    most: usize,
}

impl Spinners {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { spinning: AtomicUsize::new(0), most: cores - 1 }
    }

    fn enter(&self) -> bool {
        let entered = self.spinning.fetch_add(1, Ordering::Relaxed) < self.most;
        if !entered {
            self.leave();
        }
        entered
    }

    fn leave(&self) {
        self.spinning.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether to spin or to sleep for the answer to a small batch: what was quicker of late. With idle cores spinning
/// saves a wake-up; with busy ones it keeps the answer from being made.
#[derive(Default)]
pub(super) struct Habit {
    batches: AtomicU32,
    /// Running means in nanoseconds: asleep, spinning. 0: not tried.
    means: [AtomicU32; 2],
}

impl Habit {
    fn choose(&self) -> bool {
        let [asleep, spinning] = [0, 1].map(|way| self.means[way].load(Ordering::Relaxed));
        let quicker = spinning <= asleep;
        let trial = self.batches.fetch_add(1, Ordering::Relaxed).is_multiple_of(TRIAL);
        quicker != trial
    }

    fn learn(&self, spun: bool, took: Duration) {
        let mean = &self.means[usize::from(spun)];
        let before = mean.load(Ordering::Relaxed);
        let took = u32::try_from(took.as_nanos()).unwrap_or(u32::MAX);
        // An outlier (a descheduled thread) counts as four times the usual at most.
        let now = match before {
            0 => took,
            _ => before - before / 8 + took.min(before.saturating_mul(4)) / 8,
        };
        mean.store(now.max(1), Ordering::Relaxed);
    }
}

/// Moves bytes until `state` is terminal or `until` has passed.
pub(super) fn drive(link: &LinkCore, state: &State, until: Option<Instant>) {
    if state.is_done() {
        return;
    }
    let flight = link.flights().get(&state.id()).map(|flight| (flight.lanes, flight.runs.total_bytes()));
    let Some((lanes, bytes)) = flight else {
        // Ended just now, or not one of ours.
        state.park(until);
        return;
    };
    let ours: Vec<&Lane> = link
        .lanes()
        .iter()
        .filter(|lane| lanes & 1 << lane.index != 0)
        .filter(|lane| take_over(link, lane))
        .collect();
    if ours.is_empty() {
        // Another waiter moves these bytes, and after it the I/O thread.
        state.park(until);
        return;
    }
    // Whoever ended the batch before it could see that we drive did not ring; pairs with the fence in `tell`.
    fence(Ordering::SeqCst);
    if !state.is_done() {
        run(link, state, until, &ours, bytes <= SMALL_BYTES);
    }
    for lane in ours {
        give_back(link, lane);
    }
}

fn take_over(link: &LinkCore, lane: &Lane) -> bool {
    if lane.driven.swap(true, Ordering::SeqCst) {
        return false;
    }
    link.set_watched(lane, &mut lane.lock(), Watch { readable: false, writable: false });
    true
}

fn give_back(link: &LinkCore, lane: &Lane) {
    {
        let mut conn = lane.lock();
        lane.driven.store(false, Ordering::SeqCst);
        link.watch(lane, &mut conn, Who::Driver);
    }
    lane.look_again(link);
}

fn run(link: &LinkCore, state: &State, until: Option<Instant>, lanes: &[&Lane], small: bool) {
    if !small {
        return turns(link, state, until, lanes, None);
    }
    let began = Instant::now();
    let habit = &lanes[0].habit;
    let spins = habit.choose() && link.shared.spinners.enter();
    if spins {
        turns(link, state, until, lanes, Some(began + SPIN));
        link.shared.spinners.leave();
    } else {
        // The request has just left: nothing can be there yet.
        sleep(lanes, until.map(|until| until.saturating_duration_since(began)));
        turns(link, state, until, lanes, None);
    }
    if state.is_done() {
        habit.learn(spins, began.elapsed());
    }
}

fn turns(
    link: &LinkCore,
    state: &State,
    until: Option<Instant>,
    lanes: &[&Lane],
    mut spin_until: Option<Instant>,
) {
    let mut readable = u128::MAX;
    loop {
        let mut more = false;
        for lane in lanes {
            more |= lane.work(link, Who::Driver, readable & 1 << lane.index != 0).more;
        }
        readable = u128::MAX;
        if state.is_done() {
            return;
        }
        if link.is_dying() {
            // The I/O thread tears the link down and ends the batch.
            state.park(until);
            return;
        }
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return;
        }
        if more {
            continue;
        }
        if spin_until.is_some_and(|until| now < until) {
            std::hint::spin_loop();
            continue;
        }
        spin_until = None;
        readable = sleep(lanes, until.map(|until| until - now));
    }
}

/// Sleeps until there is something to do. Gives the streams that are worth reading, one bit each.
fn sleep(lanes: &[&Lane], left: Option<Duration>) -> u128 {
    let mut fds = Vec::with_capacity(2 * lanes.len());
    for lane in lanes {
        let wants_to_send = lane.wants_to_send.load(Ordering::Relaxed);
        let events = if wants_to_send { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        fds.push(PollFd::from_borrowed_fd(lane.fd(), events));
        fds.push(PollFd::from_borrowed_fd(lane.bell.as_fd(), PollFlags::IN));
    }
    let timeout = left.map(|left| Timespec {
        tv_sec: left.as_secs().min(1 << 30) as _,
        tv_nsec: left.subsec_nanos().into(),
    });
    let _ = poll(&mut fds, timeout.as_ref());
    let mut readable = 0;
    for (lane, polled) in lanes.iter().zip(fds.chunks_exact(2)) {
        if !polled[0].revents().difference(PollFlags::OUT).is_empty() {
            readable |= 1 << lane.index;
        }
        if !polled[1].revents().is_empty() {
            lane.bell.silence();
        }
    }
    readable
}
