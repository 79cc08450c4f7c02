//! Superframes and trains: what the kernel's segmentation and checksum offloads mean for frames.
//!
//! Pure: a superframe of the TAP is split into frames that fit a datagram, and frames that belong
//! together are joined again on the far side. Which frames do is told by an authenticated prefix
//! and consecutive counters, not guessed from TCP.

mod content;
mod join;
mod layout;
mod split;
mod sum;
mod vnet;

pub use content::{BUNDLED_LEN, Bundled, Content, MOST_SEGMENTS, PREFIX_LEN};
pub use join::{Coalescer, Host, Incoming, MOST_HEADERS, Run};
pub use layout::{Layout, Transport};
pub use split::Split;
pub use sum::complete;
pub(crate) use sum::{add, fold};
pub use vnet::{VNET_OCTETS, VnetHeader};
