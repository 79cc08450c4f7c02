//! The gate of a gateway: until when it may carry frames between its LAN and the vSubnet.
//!
//! Who may is decided elsewhere, for a short time each; here is where it takes effect. The packet
//! threads compare the clock, so that neither an agent that was paused nor a data plane that was
//! can carry anything after the time is over.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Time;

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
    term: AtomicU64,
}

impl Gate {
    /// Whether frames may pass.
    #[must_use]
    pub fn is_open(&self, now: Time) -> bool {
        now.as_nanos() < self.until_ns.load(Ordering::Relaxed)
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
