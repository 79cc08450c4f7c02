//! The gate of a gateway: until when it may carry frames between its LAN and the vSubnet.
//!
//! Who may is decided elsewhere, for a short time each; here is where it takes effect. The packet
//! threads compare the clock, so that neither an agent that was paused nor a data plane that was
//! can carry anything after the time is over. Nor from before it began: what waited in the queues of
//! a data plane that was paused has crossed by another gateway, and is let go before the gate opens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Time;

/// How long a gate that was closed stays so when it is opened: time to empty the queues.
pub const SETTLE: Duration = Duration::from_millis(20);

/// A right with a lower term than one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("term {asked} is older than term {seen}, which was seen before")]
pub struct OlderTerm {
    /// The one that was refused.
    pub asked: u64,
    /// The highest one so far.
    pub seen: u64,
}

/// How a gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The highest term that was seen.
    pub term: u64,
    /// Open until then; [`Time::ZERO`]: closed.
    pub until: Time,
}

/// Closed when it is made. One owner sets it; packet threads read one word.
#[derive(Debug, Default)]
pub struct Gate {
    until_ns: AtomicU64,
    from_ns: AtomicU64,
    term: AtomicU64,
}

impl Gate {
    /// Whether frames may pass.
    #[must_use]
    pub fn is_open(&self, now: Time) -> bool {
        let now_ns = now.as_nanos();
        now_ns < self.until_ns.load(Ordering::Acquire)
            && now_ns >= self.from_ns.load(Ordering::Relaxed)
    }

    /// As [`Gate::set`], but a gate that is closed opens [`SETTLE`] from now.
    pub fn open(&self, term: u64, until: Time, now: Time) -> Result<(), OlderTerm> {
        if now.as_nanos() >= self.until_ns.load(Ordering::Relaxed) {
            let from = now + SETTLE;
            self.from_ns.store(from.as_nanos(), Ordering::Relaxed);
        }
        self.set(term, until)
    }

    /// Lets frames pass until `until`, under a term that is none of an earlier holder's;
    /// [`Time::ZERO`] closes. One caller at a time.
    pub fn set(&self, term: u64, until: Time) -> Result<(), OlderTerm> {
        let seen = self.term.load(Ordering::Relaxed);
        if term < seen {
            return Err(OlderTerm { asked: term, seen });
        }
        self.term.store(term, Ordering::Relaxed);
        self.until_ns.store(until.as_nanos(), Ordering::Release);
        Ok(())
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            term: self.term.load(Ordering::Relaxed),
            until: Time::from_nanos(self.until_ns.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn it_is_closed_until_it_is_opened_and_when_its_time_is_over() {
        let gate = Gate::default();
        assert!(!gate.is_open(Time::ZERO) && !gate.is_open(at(1)));
        gate.set(1, at(1_500)).expect("the first term");
        assert!(gate.is_open(at(1_499)) && !gate.is_open(at(1_500)));
        gate.set(1, Time::ZERO).expect("the same term");
        assert!(!gate.is_open(at(1)));
    }

    #[test]
    fn what_waited_while_it_was_closed_has_time_to_go() {
        let gate = Gate::default();
        gate.open(1, at(1_500), at(100)).expect("the first term");
        assert!(!gate.is_open(at(100)) && !gate.is_open(at(119)) && gate.is_open(at(120)));
        gate.open(1, at(1_510), at(110)).expect("the same term");
        assert!(
            gate.is_open(at(120)),
            "asked for again it doesn't wait again"
        );
        gate.open(2, at(2_000), at(1_000)).expect("a newer term");
        assert!(gate.is_open(at(1_000)), "it was open");
        gate.open(2, Time::ZERO, at(1_100)).expect("the same term");
        assert!(!gate.is_open(at(1_100)));
        gate.open(2, at(3_000), at(1_200)).expect("the same term");
        assert!(!gate.is_open(at(1_219)) && gate.is_open(at(1_220)));
    }

    #[test]
    fn an_older_term_changes_nothing() {
        let gate = Gate::default();
        gate.set(7, at(1_000)).expect("the first term");
        let refused = gate.set(6, at(9_000));
        assert_eq!(refused, Err(OlderTerm { asked: 6, seen: 7 }));
        assert_eq!(gate.set(6, Time::ZERO), refused, "not even to close it");
        let standing = Standing {
            term: 7,
            until: at(1_000),
        };
        assert_eq!(gate.standing(), standing);
    }
}
