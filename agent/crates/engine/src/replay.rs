//! The replay window: which counters of the last 8,192 were seen (rule 8).

/// How many counters back from the highest one are told apart.
pub const WINDOW: u64 = 8192;

const BITS: u64 = 64;
/// One word more than the window, so that clearing ahead never touches a counter inside it.
const WORDS: usize = (WINDOW / BITS) as usize + 1;

/// What the window knows of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Higher than all so far.
    Newest,
    /// Inside the window and not seen.
    Fresh,
    /// Inside the window and seen.
    Duplicate,
    /// Below the window.
    TooOld,
}

/// A window over the counters of one session and direction. A bit ring after RFC 6479.
#[derive(Debug)]
pub struct ReplayWindow {
    /// One above the highest counter seen; 0: nothing seen.
    next: u64,
    ring: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            ring: [0; WORDS],
        }
    }
}

impl ReplayWindow {
    /// Looks a counter up without marking it.
    pub fn check(&self, counter: u64) -> Seen {
        if counter >= self.next {
            return Seen::Newest;
        }
        if self.next - counter > WINDOW {
            return Seen::TooOld;
        }
        if self.ring[slot(counter)] & bit(counter) == 0 {
            Seen::Fresh
        } else {
            Seen::Duplicate
        }
    }

    /// Marks a counter as seen and says what it was before. `counter` is below 2^48.
    pub fn accept(&mut self, counter: u64) -> Seen {
        let seen = self.check(counter);
        match seen {
            Seen::Newest => {
                self.clear_up_to(counter);
                self.next = counter + 1;
            }
            Seen::Fresh => {}
            Seen::Duplicate | Seen::TooOld => return seen,
        }
        self.ring[slot(counter)] |= bit(counter);
        seen
    }

    /// Clears the words between the one of the highest counter and the one of `counter`.
    fn clear_up_to(&mut self, counter: u64) {
        let from = if self.next == 0 {
            0
        } else {
            (self.next - 1) / BITS + 1
        };
        let to = counter / BITS;
        if to + 1 < from + WORDS as u64 {
            for word in from..=to {
                self.ring[(word % WORDS as u64) as usize] = 0;
            }
        } else {
            self.ring = [0; WORDS];
        }
    }
}

fn slot(counter: u64) -> usize {
    (counter / BITS % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BITS)
}
