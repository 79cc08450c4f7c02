//! The protocol and the switch, without I/O, without a clock.
#![forbid(unsafe_code)]

pub mod switch;
