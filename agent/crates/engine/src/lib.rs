//! The protocol and the switch, without I/O, without a clock.
//!
//! One thread owns [`Core`]: handshakes, timers, the desired state. Fast-path threads own an
//! [`Outbound`] (frames from a TAP to sealed datagrams) or an [`Inbound`] (datagrams to opened
//! frames); they read the snapshot that `Core` publishes and tell it what they see by
//! [`Message`]s, which the caller moves through a bounded queue.
#![forbid(unsafe_code)]

mod core;
mod drops;
mod entropy;
mod event;
mod handshake;
mod ids;
mod inbound;
mod link;
mod liveness;
mod load;
mod mac;
mod message;
mod multicast;
mod noise;
pub mod offload;
mod outbound;
mod paths;
mod pmtu;
mod replay;
mod seal;
mod session;
mod shared;
mod slots;
mod state;
mod stats;
pub mod switch;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time;
mod timers;
mod too_large;

pub use crate::core::{Core, GateRefused, Transmit, UnknownPeer};
pub use drops::{Dropped, Drops};
pub use entropy::Entropy;
pub use event::{DownReason, Event, Fact, ProbeOutcome};
pub use ids::{NodeId, PeerId, Vni};
pub use inbound::{Inbound, Receiving, Reply, Verdict};
pub use link::Link;
pub use message::{Message, SlowPath};
pub use multicast::Look;
pub use outbound::{Outbound, TapFrame, Underlay};
pub use replay::{ReplayWindow, Seen, WINDOW};
pub use seal::{Kind, OpenKey, Salt, SealKey};
pub use session::{Opened, Session};
pub use state::{
    Identity, PeerState, Policy, Psk, Secret, State, StateError, Suite, Timers, VSubnetState,
};
pub use stats::{GateStats, LearnedStats, PeerStats, SessionState, Stats, VSubnetStats};
pub use switch::{Gate, Role};
pub use time::Time;
