//! The slow path: handshakes, timers, the desired state. One thread owns it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::entropy::Entropy;
use crate::event::Event;
use crate::ids::{NodeId, Vni};
use crate::inbound::Inbound;
use crate::message::Message;
use crate::outbound::Outbound;
use crate::shared::Shared;
use crate::state::{State, StateError};
use crate::stats::Stats;
use crate::time::Time;

/// A datagram that `Core` wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub datagram: Vec<u8>,
}

/// Why there is no such peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such peer in this vSubnet")]
pub struct UnknownPeer;

/// The owner of all that is not per packet. After each call, drain `poll_transmit` and
/// `poll_event`, and call `handle_timeout` at `next_timeout`.
pub struct Core {
    shared: Arc<Shared>,
}

impl Core {
    /// A core with no vSubnets.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self {
            shared: Arc::new(Shared::new(entropy)),
        }
    }

    /// A sending half for one thread.
    pub fn outbound(&self) -> Outbound {
        Outbound::new(Arc::clone(&self.shared))
    }

    /// A receiving half for one thread.
    pub fn inbound(&self) -> Inbound {
        Inbound::new(Arc::clone(&self.shared))
    }

    /// Makes the desired state true; returns whether anything changed. On an error nothing did.
    pub fn apply(&mut self, _state: State, _now: Time) -> Result<bool, StateError> {
        Ok(false)
    }

    /// Takes what the fast path saw.
    pub fn handle(&mut self, _message: Message, _now: Time) {}

    /// Says how many messages still wait for `handle` (rule 2 counts them).
    pub fn note_waiting(&mut self, waiting: usize) {
        self.shared.load.set_waiting(waiting);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Time) {}

    /// When `handle_timeout` wants to be called; `None`: not before something else happens.
    pub fn next_timeout(&self) -> Option<Time> {
        None
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Sends a probe; the outcome comes as `Fact::Probed` with the returned token.
    pub fn probe(
        &mut self,
        _vni: Vni,
        _peer: NodeId,
        _timeout: Duration,
        _now: Time,
    ) -> Result<u64, UnknownPeer> {
        Err(UnknownPeer)
    }

    /// Adds candidate endpoints of a peer.
    pub fn add_endpoints(
        &mut self,
        _vni: Vni,
        _peer: NodeId,
        _endpoints: &[SocketAddr],
        _now: Time,
    ) -> Result<(), UnknownPeer> {
        Err(UnknownPeer)
    }

    /// This node's own addresses changed: tells every peer in session by a packet from the new one.
    pub fn underlay_changed(&mut self, _now: Time) {}

    /// Counters and states.
    pub fn stats(&self, _now: Time) -> Stats {
        Stats::default()
    }
}
