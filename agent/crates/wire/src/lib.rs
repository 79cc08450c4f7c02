//! Octets and views: the formats on the wire, without allocation and without unsafe.
#![forbid(unsafe_code)]

pub mod arp;
pub mod control;
pub mod error;
pub mod ethernet;
pub mod header;
pub mod icmpv6;
pub mod igmp;
pub mod ipv4;
pub mod ipv6;
pub mod mac;
pub mod udp;

pub use error::Error;
pub use mac::Mac;
