//! Frames for the switch's tests, built octet by octet from the standards.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses what it needs"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cairn_engine::switch::{Config, Member, PROBE_GROUP, Policy, Role, Switch};
use cairn_engine::{PeerId, Time};
use cairn_wire::Mac;

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const IPX: u16 = 0x8137;
pub const VLAN: u16 = 0x8100;
pub const RARP: u16 = 0x8035;
pub const EXPERIMENT: u16 = 0x88b5;

/// What member `number` has: 02:00:00:00:00:NN, 10.7.0.NN, fd00::NN.
pub fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

pub fn ip4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 7, 0, number)
}

pub fn ip6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number))
}

pub fn member(number: u8, role: Role) -> Member {
    Member {
        role,
        macs: vec![mac(number)],
        ips: vec![IpAddr::V4(ip4(number)), IpAddr::V6(ip6(number))],
    }
}

/// Member 0 here, and as peers 1, 2, 3... of these roles.
pub fn config(local: Role, peers: &[Role]) -> Config {
    let peers = (1..)
        .zip(peers)
        .map(|(number, role)| (PeerId(u32::from(number)), member(number, *role)));
    Config {
        local: member(0, local),
        peers: peers.collect(),
        policy: Policy::default(),
        hash_seed: 0x5eed,
    }
}

/// The switch of a gateway that forwards for ever.
pub fn forwarding(config: Config) -> Switch {
    let switch = Switch::new(config);
    open(&switch);
    switch
}

pub fn open(switch: &Switch) {
    if let Some(gate) = switch.gate() {
        gate.set(1, Time::from_nanos(u64::MAX)).expect("term 1");
    }
}

/// A loop probe, as a gateway's agent sends it.
pub fn loop_probe(source: Mac) -> Vec<u8> {
    let payload = [&b"CRNp\x01\x02"[..], &[7; 90]].concat();
    frame(PROBE_GROUP, source, EXPERIMENT, &payload)
}

pub fn frame(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [
        &destination.0[..],
        &source.0,
        &ethertype.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// The same frame with a VLAN tag in front of its EtherType.
pub fn tagged(frame: &[u8], protocol: u16, vlan: u16) -> Vec<u8> {
    [
        &frame[..12],
        &protocol.to_be_bytes(),
        &vlan.to_be_bytes(),
        &frame[12..],
    ]
    .concat()
}

/// The same frame as LLC/SNAP with the OUI of RFC 1042.
pub fn snap(frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len() - 12 + 6).expect("short");
    [
        &frame[..12],
        &len.to_be_bytes(),
        &[0xaa, 0xaa, 3, 0, 0, 0],
        &frame[12..],
    ]
    .concat()
}

pub fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4, 0, operation][..],
        &sender.0.0,
        &sender.1.octets(),
        &target.0.0,
        &target.1.octets(),
    ]
    .concat()
}

pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).expect("short");
    let [high, low] = len.to_be_bytes();
    [
        &[0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0][..],
        &source.octets(),
        &destination.octets(),
        payload,
    ]
    .concat()
}

pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("short");
    let [high, low] = len.to_be_bytes();
    [
        &[0x60, 0, 0, 0, high, low, next, 255][..],
        &source.octets(),
        &destination.octets(),
        payload,
    ]
    .concat()
}

pub fn udp(source: u16, destination: u16) -> Vec<u8> {
    [
        &source.to_be_bytes()[..],
        &destination.to_be_bytes(),
        &[0, 8, 0, 0],
    ]
    .concat()
}

pub fn solicitation(target: Ipv6Addr, link_layer: Option<Mac>) -> Vec<u8> {
    discovery(135, &target.octets(), link_layer.map(|mac| (1, mac)))
}

/// The frame with which `by` asks all that may have `target` for its link-layer address.
pub fn neighbour_question(
    by: (Mac, Ipv6Addr),
    target: Ipv6Addr,
    link_layer: Option<Mac>,
) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let message = summed(by.1, group, &solicitation(target, link_layer));
    let destination = Mac([0x33, 0x33, 0xff, a, b, c]);
    frame(destination, by.0, IPV6, &ipv6(by.1, group, 58, &message))
}

/// An ICMPv6 message with its checksum.
pub fn summed(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let sum = !icmpv6_sum(source, destination, message);
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// All ones for a message with the right checksum (RFC 4443 section 2.3).
pub fn icmpv6_sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let len = u32::try_from(message.len()).expect("short").to_be_bytes();
    let covered = [
        &source.octets()[..],
        &destination.octets(),
        &len,
        &[0, 0, 0, 58],
        message,
    ]
    .concat();
    let mut sum = 0_u32;
    for pair in covered.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

pub fn advertisement(target: Ipv6Addr, link_layer: Option<Mac>) -> Vec<u8> {
    discovery(136, &target.octets(), link_layer.map(|mac| (2, mac)))
}

pub fn router_advertisement(link_layer: Option<Mac>) -> Vec<u8> {
    discovery(134, &[0; 8], link_layer.map(|mac| (1, mac)))
}

pub fn router_solicitation(link_layer: Option<Mac>) -> Vec<u8> {
    discovery(133, &[], link_layer.map(|mac| (1, mac)))
}

pub fn redirect(next_hop: Ipv6Addr, destination: Ipv6Addr, link_layer: Option<Mac>) -> Vec<u8> {
    let addresses = [next_hop.octets(), destination.octets()].concat();
    discovery(137, &addresses, link_layer.map(|mac| (2, mac)))
}

fn discovery(kind: u8, body: &[u8], option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], body].concat();
    if let Some((number, mac)) = option {
        message.extend_from_slice(&[number, 1]);
        message.extend_from_slice(&mac.0);
    }
    message
}
