//! What the engine shows of itself (docs/protocol.md 2.2).

use std::net::SocketAddr;
use std::time::Duration;

use cairn_wire::Mac;

use crate::drops::Dropped;
use crate::ids::{NodeId, Vni};
use crate::switch::Refused;
use crate::time::Time;

/// Counters and states at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Counters of the protocol by name.
    pub counters: Vec<(&'static str, u64)>,
    /// Drops by reason; only reasons that occurred.
    pub drops: Vec<(Dropped, u64)>,
    /// One entry per vSubnet.
    pub vsubnets: Vec<VSubnetStats>,
}

/// One vSubnet.
#[derive(Clone, Debug)]
pub struct VSubnetStats {
    /// Its number.
    pub vni: Vni,
    /// Its TAP's name.
    pub tap: String,
    /// Frames sent to peers (copies count).
    pub tx_frames: u64,
    /// Their octets.
    pub tx_octets: u64,
    /// Frames received from peers and passed to the TAP.
    pub rx_frames: u64,
    /// Their octets.
    pub rx_octets: u64,
    /// What else the switch did, by name; only what occurred.
    pub counters: Vec<(&'static str, u64)>,
    /// Frames that the switch refused, by reason; only reasons that occurred.
    pub refused: Vec<(Refused, u64)>,
    /// The gate, where this node is a gateway.
    pub gate: Option<GateStats>,
    /// Learned entries.
    pub learned: Vec<LearnedStats>,
    /// The peers.
    pub peers: Vec<PeerStats>,
}

/// Whether a gateway may forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateStats {
    /// The highest term so far.
    pub term: u64,
    /// Whether frames pass now.
    pub is_open: bool,
    /// Until when they do, or did; zero where it was closed.
    pub until: Time,
}

/// A learned MAC.
#[derive(Clone, Debug)]
pub struct LearnedStats {
    /// The MAC.
    pub mac: Mac,
    /// The peer behind which it is.
    pub peer: NodeId,
    /// Since it was last seen.
    pub age: Duration,
}

/// Whether there is a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Frames can be sent.
    Up,
    /// A handshake is under way.
    Handshaking,
    /// Neither.
    Down,
}

impl SessionState {
    /// The state's name in `stats`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Handshaking => "handshaking",
            Self::Down => "down",
        }
    }
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerStats {
    /// Its node ID.
    pub id: NodeId,
    /// Where it is reached.
    pub endpoint: Option<SocketAddr>,
    /// Its session.
    pub session: SessionState,
    /// Last measured round-trip time.
    pub rtt: Option<Duration>,
    /// Age of the session in use.
    pub session_age: Option<Duration>,
    /// Since the last authentic packet.
    pub last_received: Option<Duration>,
    /// Octets of frames sent.
    pub tx_octets: u64,
    /// Octets of frames received.
    pub rx_octets: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// The largest IP packet of the vSubnet that the path carries, once that is known; at most
    /// the vSubnet's MTU.
    pub mtu: Option<usize>,
}
