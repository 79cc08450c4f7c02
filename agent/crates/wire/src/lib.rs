//! Octets and views: the formats on the wire, without allocation and without unsafe.
#![forbid(unsafe_code)]

pub mod mac;

pub use mac::Mac;
