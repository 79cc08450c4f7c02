//! One vSubnet's Ethernet switch, as this node sees it.
//!
//! Pure: frames and `now` in, verdicts out. Everything takes `&self`; nothing on the packet
//! path locks or allocates. `now` never runs back between calls.

use std::net::IpAddr;
use std::time::Duration;

use cairn_wire::Mac;

use crate::{PeerId, Time};

/// What a member's attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One machine: sends from its own addresses only.
    Host,
    /// A bridge to a LAN: sends from any address that is not bound to another member.
    Gateway,
}

/// A member's role and the addresses bound to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the attachment is.
    pub role: Role,
    /// Its MAC addresses, from the netmap.
    pub macs: Vec<Mac>,
    /// Its IP addresses, from the netmap; link-local ones need not be listed.
    pub ips: Vec<IpAddr>,
}

/// What the members of a vSubnet enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Broadcast, unknown unicast and multicast frames per second and sending member.
    pub bum_pps: u32,
    /// How many of them may come at once.
    pub bum_burst: u32,
    /// How long a learned address lives without a frame from it.
    pub ageing: Duration,
    /// How many addresses are learned at most.
    pub learned_cap: usize,
    /// Whether a `Host` may answer as a DHCP server; then addresses come from there and IPs that
    /// the netmap binds to nobody may be claimed by any member.
    pub dhcp_server_from_hosts: bool,
    /// Whether a `Host` may send IPv6 router advertisements and redirects.
    pub ra_from_hosts: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            bum_pps: 200,
            bum_burst: 400,
            ageing: Duration::from_secs(300),
            learned_cap: 4096,
            dhcp_server_from_hosts: true,
            ra_from_hosts: false,
        }
    }
}

/// All that a switch is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's own attachment.
    pub local: Member,
    /// The other members.
    pub peers: Vec<(PeerId, Member)>,
    /// What is enforced.
    pub policy: Policy,
    /// Any secret number: keys the hash of learned addresses, so that nobody can aim at a bucket.
    pub hash_seed: u64,
}

/// Where a frame from the TAP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress<'a> {
    /// To one peer.
    Unicast(PeerId),
    /// A copy to each of these; never empty.
    Flood(&'a [PeerId]),
}

/// A frame from a peer that may go to the TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Hand this to [`Switch::learn`] (by the slow path's owner): the address is new behind the
    /// peer. `None` for nearly all frames.
    pub learn: Option<Mac>,
}

/// Why a frame was not forwarded; each value has its own counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Refused {
    /// Not a whole Ethernet frame, or an address no station can send from.
    #[error("malformed")]
    Malformed,
}

impl Refused {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 1] = [Self::Malformed];

    /// The counter's name in `stats`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
        }
    }
}

/// What became of an address that was to be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learning {
    /// Not known before (or aged out).
    New,
    /// Moved here from this peer.
    Moved(PeerId),
    /// Known already.
    Known,
    /// Bound by the netmap, or the peer may not bridge: nothing learned.
    Refused,
}

/// A learned address, for `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The address.
    pub mac: Mac,
    /// Behind which peer.
    pub peer: PeerId,
    /// Since its last frame.
    pub age: Duration,
}

/// How often a peer sent from addresses that are not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoofing {
    /// Who.
    pub peer: PeerId,
    /// The source address (or claimed sender address) of the last such frame.
    pub mac: Mac,
    /// Such frames since the peer is known.
    pub count: u64,
}

/// One vSubnet's switch: a snapshot of the bindings, with the learned addresses, policers and
/// counters that live on across [`Switch::rebuild`].
#[derive(Debug)]
pub struct Switch {
    _config: Config,
}

impl Switch {
    /// Builds a switch that has learned nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { _config: config }
    }

    /// Builds the switch of a newer config; learned addresses (of peers that stay), policers and
    /// counters are shared with `self`, which readers may still use meanwhile.
    #[must_use]
    pub fn rebuild(&self, config: Config) -> Self {
        Self { _config: config }
    }

    /// Decides where a frame that the TAP gave goes.
    ///
    /// `frame` starts at the destination address; a superframe's first octets will do.
    pub fn egress(&self, _frame: &[u8], _now: Time) -> Result<Egress<'_>, Refused> {
        Err(Refused::Malformed)
    }

    /// Checks a frame that `from` sent, after it was opened (docs/protocol.md 1.4 rule 10).
    pub fn ingress(
        &self,
        _frame: &[u8],
        _from: PeerId,
        _now: Time,
    ) -> Result<Accepted, Refused> {
        Err(Refused::Malformed)
    }

    /// Learns an address that [`Switch::ingress`] asked for. One caller at a time.
    pub fn learn(&self, _mac: Mac, _peer: PeerId, _now: Time) -> Learning {
        Learning::Refused
    }

    /// The learned addresses that have not aged out.
    #[must_use]
    pub fn learned(&self, _now: Time) -> Vec<Learned> {
        Vec::new()
    }

    /// Frames refused so far, by reason; in the order of [`Refused::ALL`], zero ones too.
    pub fn refusals(&self) -> impl Iterator<Item = (Refused, u64)> {
        Refused::ALL.into_iter().map(|reason| (reason, 0))
    }

    /// The peers that sent from addresses not their own.
    #[must_use]
    pub fn spoofing(&self) -> Vec<Spoofing> {
        Vec::new()
    }
}
