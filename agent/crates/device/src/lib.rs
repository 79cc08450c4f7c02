//! TAP, UDP, clock, entropy and process: all system calls and all unsafe code.
//!
//! Two seams carry the packets, [`tap::TapQueue`] and [`udp::DatagramSocket`];
//! each has a twin in [`memory`], so that whole networks run without root.

pub mod batch;
pub mod clock;
pub mod confine;
pub mod entropy;
pub mod local;
pub mod memory;
pub mod multicast;
pub mod process;
pub mod readiness;
pub mod signals;
pub mod tap;
pub mod udp;

mod address;
mod call;
