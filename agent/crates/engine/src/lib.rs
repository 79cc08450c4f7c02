//! The protocol and the switch, without I/O, without a clock.
#![forbid(unsafe_code)]

mod drops;
mod entropy;
mod ids;
mod state;
mod time;

pub use drops::{Dropped, Drops};
pub use entropy::Entropy;
pub use ids::{NodeId, PeerId, Vni};
pub use state::{
    Identity, PeerState, Policy, Psk, Role, Secret, State, StateError, Suite, Timers, VSubnetState,
};
pub use time::Time;
