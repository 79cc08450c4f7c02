//! Why the switch doesn't forward a frame: each reason is a value with a counter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame was not forwarded; each value has its own counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Refused {
    /// Not a whole Ethernet frame.
    #[error("not a whole Ethernet frame")]
    Malformed,
    /// The source is a group or zero.
    #[error("the source is no address that a station can have")]
    BadSource,
    /// To an address that no bridge forwards (STP, PAUSE, LACP, 802.1X, LLDP).
    #[error("the destination is local to a bridge")]
    BridgeLocal,
    /// Headers that must be checked can't be: nested too deep, cut short, or fragmented
    /// Neighbor Discovery (RFC 6980).
    #[error("headers that must be checked are nested too deep, cut short or fragmented")]
    Concealed,
    /// The source address is not one the sender may use.
    #[error("the source is not an address of the sender")]
    ForeignSource,
    /// ARP or Neighbor Discovery claims an IP or MAC that the sender may not claim.
    #[error("ARP or ND claims an address that is not the sender's")]
    ForeignClaim,
    /// A DHCP server's message from a member that may not be one.
    #[error("a DHCP server's message from a member that may not be one")]
    DhcpServer,
    /// A router advertisement or redirect from a member that may not send it.
    #[error("a router's message from a member that may not be one")]
    Router,
    /// The frame is from a peer that is not a member.
    #[error("the peer is not a member")]
    UnknownPeer,
    /// From a peer, but to a station that isn't here.
    #[error("the destination is not here")]
    NotHere,
    /// From the TAP, but to a station on this side of it.
    #[error("the destination is on the side the frame came from")]
    SameSide,
    /// To a station nobody knows, and there is no gateway behind which it might be.
    #[error("nobody knows the destination")]
    UnknownDestination,
    /// There is no other member.
    #[error("there is no other member")]
    NoPeer,
    /// More broadcast, unknown unicast and multicast than the policy allows a member.
    #[error("more broadcast, unknown unicast and multicast than allowed")]
    StormLimit,
    /// More of the same than the policy allows one station behind this gateway.
    #[error("more broadcast, unknown unicast and multicast than allowed to one station")]
    SourceStormLimit,
    /// More broadcast and multicast than the policy allows towards the LAN, from all members.
    #[error("more broadcast and multicast than allowed towards the LAN")]
    LanStormLimit,
    /// More stations behind this gateway begin to talk than is plausible.
    #[error("more stations begin to talk than is plausible")]
    NewStationLimit,
    /// This gateway may not carry frames between LAN and vSubnet now.
    #[error("this gateway stands by")]
    GateClosed,
    /// A loop probe of a member that is no gateway, or to one station.
    #[error("a loop probe of a member that may not send it")]
    LoopProbe,
    /// More loop probes than a gateway sends.
    #[error("more loop probes than a gateway sends")]
    LoopProbeLimit,
}

impl Refused {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::BadSource,
        Self::BridgeLocal,
        Self::Concealed,
        Self::ForeignSource,
        Self::ForeignClaim,
        Self::DhcpServer,
        Self::Router,
        Self::UnknownPeer,
        Self::NotHere,
        Self::SameSide,
        Self::UnknownDestination,
        Self::NoPeer,
        Self::StormLimit,
        Self::SourceStormLimit,
        Self::LanStormLimit,
        Self::NewStationLimit,
        Self::GateClosed,
        Self::LoopProbe,
        Self::LoopProbeLimit,
    ];

    /// The counter's name in `stats`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_frame",
            Self::BadSource => "bad_source",
            Self::BridgeLocal => "bridge_local",
            Self::Concealed => "concealed",
            Self::ForeignSource => "foreign_source",
            Self::ForeignClaim => "foreign_claim",
            Self::DhcpServer => "dhcp_server",
            Self::Router => "router",
            Self::UnknownPeer => "not_a_member",
            Self::NotHere => "not_here",
            Self::SameSide => "same_side",
            Self::UnknownDestination => "unknown_destination",
            Self::NoPeer => "no_peer",
            Self::StormLimit => "storm_limit",
            Self::SourceStormLimit => "source_storm_limit",
            Self::LanStormLimit => "lan_storm_limit",
            Self::NewStationLimit => "new_station_limit",
            Self::GateClosed => "gate_closed",
            Self::LoopProbe => "loop_probe",
            Self::LoopProbeLimit => "loop_probe_limit",
        }
    }

    /// Whether the sender pretended to be somebody else.
    #[must_use]
    pub const fn is_spoofing(self) -> bool {
        matches!(self, Self::ForeignSource | Self::ForeignClaim)
    }
}

/// One counter a reason, added to by all queues.
#[derive(Debug)]
pub(super) struct Refusals([AtomicU64; Refused::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Refused::ALL.len()])
    }
}

impl Refusals {
    pub(super) fn count(&self, reason: Refused) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, reason: Refused) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        for (number, reason) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        let names: HashSet<_> = Refused::ALL.map(Refused::name).into_iter().collect();
        assert_eq!(names.len(), Refused::ALL.len());
    }
}
