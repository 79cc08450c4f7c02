//! When the next peer wants attention.

use std::collections::{BTreeSet, HashMap};

use crate::ids::PeerId;
use crate::time::Time;

/// One deadline per peer, the earliest of its own.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    queue: BTreeSet<(Time, PeerId)>,
    of: HashMap<PeerId, Time>,
}

impl Deadlines {
    /// Replaces a peer's deadline.
    pub(crate) fn set(&mut self, peer: PeerId, at: Option<Time>) {
        let old = match at {
            Some(at) => self.of.insert(peer, at),
            None => self.of.remove(&peer),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.queue.remove(&(old, peer));
        }
        if let Some(at) = at {
            self.queue.insert((at, peer));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes a peer that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<PeerId> {
        let (at, peer) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.set(peer, None);
        Some(peer)
    }
}

/// The earlier of two moments, of which there may be none.
pub(crate) fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
