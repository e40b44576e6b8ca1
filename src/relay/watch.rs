//! How sessions that wait for bytes are reached: to look for dead peers, and to be closed.
//!
//! Each data thread keeps a list of its relays' wakers and runs [`look_after`], the only loop
//! here. A relay that has nothing outstanding is not woken.

use std::cell::RefCell;
use std::task::{Context, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::drain::{Drain, Phase};

/// Checks within one stall timeout. The first one that finds something unanswered starts the clock.
const CHECKS_PER_TIMEOUT: u32 = 6;
/// Time between checks when there is no stall timeout: peers that were reset are still looked for.
const WITHOUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between checks while idle sessions are closed.
const WHILE_RETIRING: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);
/// Not in the list yet.
const UNLISTED: u32 = u32::MAX;

thread_local! {
    static RELAYS: RefCell<Relays> = const {
        RefCell::new(Relays { list: Slab::new(), round: 0, phase: Phase::Serving })
    };
}

struct Relays {
    list: Slab<Listed>,
    round: u32,
    phase: Phase,
}

struct Listed {
    waker: Waker,
    again: bool,
}

/// A relay's place in its thread's list; left on drop.
///
/// The list is the thread's, so a relay stays on the thread that polled it first.
#[derive(Debug)]
pub(super) struct Watch {
    key: u32,
    round: u32,
}

/// What a relay that was woken has to do besides moving bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Look for a dead peer, and whether it is time to end.
    pub check: bool,
    /// End if nothing is under way.
    pub retiring: bool,
    /// End.
    pub closing: bool,
}

impl Default for Watch {
    fn default() -> Self {
        Self { key: UNLISTED, round: 0 }
    }
}

impl Watch {
    /// Tells what is due; at the first call it joins the list.
    pub fn poll(&mut self, cx: &Context<'_>) -> Due {
        RELAYS.with_borrow_mut(|relays| {
            if self.key == UNLISTED {
                // The waker of a task does not change over its life.
                let listed = Listed { waker: cx.waker().clone(), again: true };
                self.key = u32::try_from(relays.list.insert(listed))
                    .expect("a thread has fewer relays than file descriptors");
                self.round = relays.round;
            }
            let listed = &mut relays.list[self.key as usize];
            let retiring = relays.phase >= Phase::Retiring;
            let check = self.round != relays.round && (listed.again || retiring);
            if check {
                listed.again = false;
            }
            self.round = relays.round;
            Due { check, retiring, closing: relays.phase >= Phase::Closing }
        })
    }

    /// Asks for a check in the next round: something was written, or is not settled yet.
    pub fn again(&self) {
        RELAYS.with_borrow_mut(|relays| {
            if let Some(listed) = relays.list.get_mut(self.key as usize) {
                listed.again = true;
            }
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.key != UNLISTED {
            // At the thread's end the list may be gone before the last task.
            let _ = RELAYS.try_with(|relays| relays.borrow_mut().list.remove(self.key as usize));
        }
    }
}

/// The time between two looks at a session. `by_the_second`: sessions may have to end at a quiet
/// second.
pub fn period(stall_timeout: Duration, by_the_second: bool) -> Duration {
    let period = match stall_timeout {
        Duration::ZERO => WITHOUT_TIMEOUT,
        timeout => timeout / CHECKS_PER_TIMEOUT,
    };
    if by_the_second { period.min(SECOND) } else { period }
}

/// Wakes this thread's relays when they are due, every [`period`]. Runs until the bridge closes.
pub async fn look_after(drain: Drain, mut periods: watch::Receiver<Duration>) {
    let serving = async {
        loop {
            let period = *periods.borrow_and_update();
            tokio::select! {
                () = rounds(period, |listed| listed.again) => {}
                // Without a sender the period stays.
                Ok(()) = periods.changed() => {}
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = drain.reached(Phase::Retiring) => {}
    }
    RELAYS.with_borrow_mut(|relays| relays.phase = Phase::Retiring);
    tokio::select! {
        () = rounds(WHILE_RETIRING, |_| true) => {}
        () = drain.reached(Phase::Closing) => {}
    }
    RELAYS.with_borrow_mut(|relays| {
        relays.phase = Phase::Closing;
        wake(relays, |_| true);
    });
}

/// Begins a round every `period`, for ever.
async fn rounds(period: Duration, whom: fn(&Listed) -> bool) {
    let mut every = interval(period);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        RELAYS.with_borrow_mut(|relays| {
            relays.round = relays.round.wrapping_add(1);
            wake(relays, whom);
        });
    }
}

fn wake(relays: &Relays, which: impl Fn(&Listed) -> bool) {
    for (_, listed) in relays.list.iter().filter(|(_, listed)| which(listed)) {
        listed.waker.wake_by_ref();
    }
}
