//! A peer's sessions: previous, current, next (rules 3 and 16).

use std::sync::Arc;

use crate::session::Session;
use crate::time::Time;

/// Crossing INITs and their follow-ups leave more than one session in a slot; the oldest goes.
/// So many next ones for endpoints at which the peer is known to be, and so many for others.
const MAX_NEXT: usize = 2;
const MAX_PREVIOUS: usize = 3;

/// The sessions of one peer. What leaves a slot is returned, to be ended.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Receive only.
    previous: Vec<Arc<Session>>,
    /// Send and receive.
    current: Option<Arc<Session>>,
    /// Made as responder and not yet confirmed by the initiator: receive only.
    next: Vec<Offered>,
}

#[derive(Debug)]
struct Offered {
    session: Arc<Session>,
    /// To an endpoint at which the peer was known to be.
    proven: bool,
}

impl Slots {
    pub(crate) fn current(&self) -> Option<&Arc<Session>> {
        self.current.as_ref()
    }

    /// Keeps a session that we made as responder until its initiator uses it. Those that were
    /// offered elsewhere push out none that was offered where the peer is (`proven`).
    pub(crate) fn offer(&mut self, session: Arc<Session>, proven: bool) -> Option<Arc<Session>> {
        self.next.push(Offered { session, proven });
        let alike = self.next.iter().filter(|offered| offered.proven == proven);
        if alike.count() <= MAX_NEXT {
            return None;
        }
        let mut next = self.next.iter();
        let oldest = next.position(|offered| offered.proven == proven)?;
        Some(self.next.remove(oldest).session)
    }

    /// Whether this session waits to be confirmed.
    pub(crate) fn take_next(&mut self, index: u32) -> Option<Arc<Session>> {
        let mut next = self.next.iter();
        let at = next.position(|offered| offered.session.local_index == index)?;
        Some(self.next.remove(at).session)
    }

    /// Puts a session that both sides hold into use. Of two that crossed, the one initiated by
    /// the lower key becomes current and the other only receives (rule 16); otherwise the peer may
    /// have begun anew, and knows only the newer one.
    pub(crate) fn install(
        &mut self,
        session: Arc<Session>,
        we_are_lower: bool,
    ) -> Option<Arc<Session>> {
        let crosses = |current: &Arc<Session>| session.crosses(current);
        let preferred = session.initiator == we_are_lower;
        let keeps_current = !preferred && self.current.as_ref().is_some_and(crosses);
        let retired = if keeps_current {
            Some(session)
        } else {
            self.current.replace(session)
        };
        self.previous.extend(retired);
        (self.previous.len() > MAX_PREVIOUS).then(|| self.previous.remove(0))
    }

    /// Takes out a session wherever it is.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Arc<Session>> {
        if self
            .current
            .as_ref()
            .is_some_and(|session| session.local_index == index)
        {
            return self.current.take();
        }
        let mut previous = self.previous.iter();
        match previous.position(|session| session.local_index == index) {
            Some(at) => Some(self.previous.remove(at)),
            None => self.take_next(index),
        }
    }

    /// Takes out the sessions that are past their time.
    pub(crate) fn take_expired(&mut self, now: Time) -> Vec<Arc<Session>> {
        let expired: Vec<u32> = self
            .iter()
            .filter(|session| now >= session.reject_at)
            .map(|session| session.local_index)
            .collect();
        expired
            .into_iter()
            .filter_map(|index| self.remove(index))
            .collect()
    }

    /// Takes out all sessions.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.previous.drain(..).collect();
        all.extend(self.current.take());
        all.extend(self.next.drain(..).map(|offered| offered.session));
        all
    }

    /// When the first of them is past its time.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.iter().map(|session| session.reject_at).min()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        let next = self.next.iter().map(|offered| &offered.session);
        self.previous.iter().chain(&self.current).chain(next)
    }
}
