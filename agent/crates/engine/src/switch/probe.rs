//! Loop probes: the frames by which gateways find out that two Ethernets have become one.
//!
//! Only gateways send them, to one group; what they say is the agents' business. They pass a
//! closed gate: a gateway that stands by must be heard, too.

use cairn_wire::Mac;
use cairn_wire::ethernet::{EtherType, Frame};

use super::policer::Rate;

/// To whom they go: a group of nobody's, so that switches flood it.
pub const GROUP: Mac = Mac([0x03, 0x43, 0x41, 0x49, 0x52, 0x4e]);
/// How their payload starts; without it the EtherType is anybody's.
const MAGIC: &[u8] = b"CRNp";

/// Of one gateway: it sends five in a second, and what its LAN echoes is no more.
pub(super) const PER_SECOND: Rate = Rate::steady(20, 20);

/// Whether a frame is one, whomever it goes to.
pub(super) fn is_one(frame: &Frame<'_>) -> bool {
    frame.ethertype() == Some(EtherType::LOCAL_EXPERIMENT_1) && frame.payload().starts_with(MAGIC)
}

/// Whether the frame with these octets is a loop probe.
#[must_use]
pub fn is_loop_probe(octets: &[u8]) -> bool {
    Frame::parse(octets).is_ok_and(|frame| is_one(&frame))
}
