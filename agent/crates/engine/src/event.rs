//! What the engine tells its agent (docs/protocol.md 2.3).

use std::net::SocketAddr;
use std::time::Duration;

use cairn_wire::Mac;

use crate::ids::{NodeId, Vni};
use crate::time::Time;

/// A fact, with the moment it became one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Time,
    /// What.
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A peer that had no session has one.
    SessionUp {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        peer: NodeId,
        /// Where it is.
        endpoint: Option<SocketAddr>,
    },
    /// A peer has no session any more.
    SessionDown {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: DownReason,
    },
    /// A peer is reached at another endpoint.
    EndpointChanged {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        peer: NodeId,
        /// The new endpoint.
        endpoint: SocketAddr,
    },
    /// A peer doesn't answer at any known endpoint: ask the service for newer ones.
    EndpointWanted {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        peer: NodeId,
    },
    /// A peer sends from addresses that aren't its own.
    Spoofed {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        peer: NodeId,
        /// The last such source MAC.
        mac: Mac,
        /// How many frames since the last such event.
        count: u64,
    },
    /// A MAC was learned behind a peer that bridges.
    Learned {
        /// The vSubnet.
        vni: Vni,
        /// The MAC.
        mac: Mac,
        /// The peer behind which it is.
        peer: NodeId,
    },
    /// A frame came from the vSubnet whose source talks on this gateway's own LAN: two Ethernets
    /// are joined, or an address is in use twice.
    Reflected {
        /// The vSubnet.
        vni: Vni,
        /// The peer that sent it.
        peer: NodeId,
        /// The source of the last such frame.
        mac: Mac,
        /// How many such frames since the last such event.
        count: u64,
    },
    /// A gate closed because nobody opened it for longer.
    GateClosed {
        /// The vSubnet.
        vni: Vni,
        /// The term under which it was open.
        term: u64,
    },
    /// A peer proved that it runs twice from one memory image; its session was ended.
    CloneSeen {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        peer: NodeId,
    },
    /// The answer to `Core::probe`.
    Probed {
        /// What `Core::probe` returned.
        token: u64,
        /// The outcome.
        outcome: ProbeOutcome,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// It got too old and nothing asked for a new one, or no handshake succeeded.
    Expired,
    /// The peer is no longer in the state.
    Removed,
    /// The peer's key, the cluster or the suite changed.
    KeyChanged,
    /// The peer was cloned.
    Cloned,
}

impl DownReason {
    /// The reason's name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Removed => "removed",
            Self::KeyChanged => "key_changed",
            Self::Cloned => "cloned",
        }
    }
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The peer answered.
    Replied {
        /// Round-trip time.
        rtt: Duration,
        /// Through which endpoint.
        endpoint: SocketAddr,
    },
    /// There is a session, but no answer came in time.
    Timeout,
    /// No session came up in time.
    NoSession,
}
