//! What the netmap binds: MAC and IP addresses to members. Never changed by learning.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use cairn_wire::Mac;

use super::keyed::Keyed;
use super::{Config, Member};
use crate::PeerId;

/// A member, from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This node.
    Local,
    /// Another.
    Peer(PeerId),
}

/// Whose each bound address is.
///
/// Where the netmap binds an address twice (a move that is under way), this node comes first,
/// then the order of the config.
#[derive(Debug)]
pub(super) struct Bindings {
    macs: HashMap<u64, Bound, Keyed>,
    ips: HashMap<u128, Bound, Keyed>,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    owner: Owner,
    /// Others are bound to it, too.
    is_shared: bool,
}

impl Bound {
    const fn to(owner: Owner) -> Self {
        Self {
            owner,
            is_shared: false,
        }
    }

    fn also_to(&mut self, owner: Owner) {
        self.is_shared |= self.owner != owner;
    }

    fn sole_owner(&self) -> Option<Owner> {
        (!self.is_shared).then_some(self.owner)
    }
}

impl Bindings {
    pub(super) fn new(config: &Config) -> Self {
        let mut bindings = Self {
            macs: HashMap::with_hasher(Keyed(config.hash_seed)),
            ips: HashMap::with_hasher(Keyed(config.hash_seed)),
        };
        bindings.bind(Owner::Local, &config.local);
        for (peer, member) in &config.peers {
            bindings.bind(Owner::Peer(*peer), member);
        }
        bindings
    }

    /// Whose MAC address it is.
    pub(super) fn mac(&self, mac: Mac) -> Option<Owner> {
        self.macs.get(&mac.to_bits()).map(|bound| bound.owner)
    }

    /// Whose IP address it is.
    pub(super) fn ip(&self, ip: IpAddr) -> Option<Owner> {
        self.ips.get(&key(ip)).map(|bound| bound.owner)
    }

    /// Whose MAC address it is, and nobody else's.
    pub(super) fn sole_owner_of_mac(&self, mac: Mac) -> Option<Owner> {
        self.macs.get(&mac.to_bits())?.sole_owner()
    }

    /// Whose IP address it is, and nobody else's.
    pub(super) fn sole_owner_of_ip(&self, ip: IpAddr) -> Option<Owner> {
        self.ips.get(&key(ip))?.sole_owner()
    }

    fn bind(&mut self, owner: Owner, member: &Member) {
        for mac in &member.macs {
            bind(&mut self.macs, mac.to_bits(), owner);
            let link_local = IpAddr::V6(link_local_of(*mac));
            bind(&mut self.ips, key(link_local), owner);
        }
        for ip in &member.ips {
            bind(&mut self.ips, key(*ip), owner);
        }
    }
}

fn bind<K: Eq + Hash>(table: &mut HashMap<K, Bound, Keyed>, address: K, owner: Owner) {
    table
        .entry(address)
        .and_modify(|bound| bound.also_to(owner))
        .or_insert(Bound::to(owner));
}

fn key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The link-local address that Linux gives an interface by default (RFC 4291 appendix A).
fn link_local_of(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let half = u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_derived_as_linux_does() {
        let mac = Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(link_local_of(mac).to_string(), "fe80::11:22ff:fe33:4455");
    }
}
