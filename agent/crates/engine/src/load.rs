//! Whether INITs come too fast to answer without a cookie (rule 2).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::time::Time;

/// More INITs than this in a second, and cookies are required.
const MAX_INITS_PER_SECOND: u64 = 200;
/// More handshake messages than this waiting, and cookies are required.
const MAX_WAITING: usize = 512;
const SECOND: u64 = 1_000_000_000;
const COUNT_BITS: u32 = 24;

/// Counts INITs per second over all receiving threads.
#[derive(Debug, Default)]
pub(crate) struct LoadMeter {
    /// The second (high bits) and how many INITs it has seen (low 24 bits).
    window: AtomicU64,
    /// The second of the last overload: load lasts at least into the next one.
    overloaded: AtomicU64,
    waiting: AtomicUsize,
}

impl LoadMeter {
    /// Counts an INIT; true if a cookie is required of it.
    pub(crate) fn count_init(&self, now: Time) -> bool {
        let second = now.as_nanos() / SECOND + 1;
        let counted = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                if old >> COUNT_BITS == second {
                    Some((old + 1).min(second << COUNT_BITS | ((1 << COUNT_BITS) - 1)))
                } else {
                    Some(second << COUNT_BITS | 1)
                }
            });
        let (Ok(old) | Err(old)) = counted;
        let in_second = if old >> COUNT_BITS == second {
            old & ((1 << COUNT_BITS) - 1)
        } else {
            0
        };
        if in_second >= MAX_INITS_PER_SECOND || self.waiting.load(Ordering::Relaxed) > MAX_WAITING {
            self.overloaded.store(second, Ordering::Relaxed);
            return true;
        }
        second.saturating_sub(self.overloaded.load(Ordering::Relaxed)) <= 1
            && self.overloaded.load(Ordering::Relaxed) > 0
    }

    /// How many messages wait for `Core`.
    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}
