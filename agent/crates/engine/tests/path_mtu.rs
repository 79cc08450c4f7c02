//! Paths that carry less than is wanted, or less than they did: whole nodes over a simulated
//! network that loses what is too large, and tells nobody.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use cairn_engine::offload::VnetHeader;
use cairn_engine::testing::{Impairment, World, frame, mac_of, node_id};
use cairn_engine::{Dropped, Role, Suite, Time};
use proptest::prelude::*;

const VNI: u32 = 7;
/// UDP payload of an underlay packet of 1,280 octets, over IPv4.
const BASE: usize = 1280 - 28;
/// Around the IP packet: Ethernet with a VLAN tag; header, prefix, tag.
const AROUND: usize = 18 + 34;
const WANTED: usize = 1400 + AROUND;
const V4: [[u8; 4]; 2] = [[10, 7, 0, 1], [10, 7, 0, 2]];

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Two nodes in session, on a path that carries datagrams of `carries` octets.
fn connected(seed: u64, carries: usize) -> World {
    let mut world = World::new(seed, 2);
    world.carries = carries;
    world.join(VNI, Suite::X25519, &[0, 1]);
    for node in &mut world.nodes {
        node.kept = Some(Vec::new());
    }
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(seconds(10));
    assert_eq!(world.deliveries(0).get(&1), Some(&1));
    world
}

fn mtu_of(world: &World, node: usize) -> Option<usize> {
    let stats = world.nodes[node].core.stats(world.now);
    let mut peers = stats.vsubnets[0].peers.iter();
    peers.find(|peer| peer.id == node_id(1 - node)).unwrap().mtu
}

fn counter(world: &World, node: usize, name: &str) -> u64 {
    let stats = world.nodes[node].core.stats(world.now);
    let mut counters = stats.counters.iter();
    counters.find(|(counter, _)| *counter == name).unwrap().1
}

fn sum(octets: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn ethernet(from: usize, tagged: bool, ethertype: u16) -> Vec<u8> {
    let mut frame = [mac_of(1 - from).0, mac_of(from).0].concat();
    if tagged {
        frame.extend([0x81, 0, 0, 5]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// A frame with an IPv4 packet of `length` octets.
fn v4(from: usize, tagged: bool, protocol: u8, dont_fragment: bool, length: usize) -> Vec<u8> {
    let mut frame = ethernet(from, tagged, 0x0800);
    let at = frame.len();
    frame.extend([0x45, 0]);
    frame.extend((length as u16).to_be_bytes());
    let flags = if dont_fragment { 0x40 } else { 0 };
    frame.extend([0x12, 0x34, flags, 0, 64, protocol, 0, 0]);
    frame.extend(V4[from]);
    frame.extend(V4[1 - from]);
    let check = !sum(&frame[at..]);
    frame[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
    let used = frame.len() - at;
    frame.extend((used..length).map(|octet| octet as u8));
    frame
}

/// The same of IPv6.
fn v6(from: usize, protocol: u8, length: usize) -> Vec<u8> {
    let mut frame = ethernet(from, false, 0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((length as u16 - 40).to_be_bytes());
    frame.extend([protocol, 64]);
    for host in [from, 1 - from] {
        frame.extend([
            0xfd,
            7,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            host as u8 + 1,
        ]);
    }
    frame.extend((40..length).map(|octet| octet as u8));
    frame
}

/// A superframe of TCP with `payload` octets in segments of `size`.
fn tcp(from: usize, size: usize, payload: usize) -> (VnetHeader, Vec<u8>) {
    let mut frame = v4(from, false, 6, true, 40 + payload);
    frame[34 + 12] = 0x50;
    frame[34 + 13] = 0x10;
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        gso_type: if payload > size {
            VnetHeader::TCP4
        } else {
            VnetHeader::WHOLE
        },
        hdr_len: 54,
        gso_size: if payload > size { size as u16 } else { 0 },
        csum_start: 34,
        csum_offset: 16,
    };
    (header, frame)
}

/// The octets of TCP that reached a node.
fn payloads(world: &World, node: usize) -> usize {
    let kept = world.nodes[node].kept.as_ref().unwrap().iter();
    kept.filter(|frame| frame[12..14] == [8, 0] && frame[23] == 6)
        .map(|frame| frame.len() - 54)
        .sum()
}

#[test]
fn one_probe_finds_a_path_that_carries_what_is_needed() {
    let mut world = World::new(1, 2);
    world.recorded = Some(Vec::new());
    world.join(VNI, Suite::X25519, &[0, 1]);
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(seconds(60));

    assert_eq!(
        (mtu_of(&world, 0), mtu_of(&world, 1)),
        (Some(1400), Some(1400))
    );
    for node in 0..2 {
        let sent = world.recorded.as_ref().unwrap().iter();
        let large = sent.filter(|(from, _, datagram)| *from == node && datagram.len() > 200);
        assert_eq!(
            large
                .map(|(_, _, datagram)| datagram.len())
                .collect::<Vec<_>>(),
            [WANTED]
        );
    }
    // Full frames, tagged ones too, go as they are.
    world.send(0, VNI, &v4(0, true, 17, true, 1400)).unwrap();
    world.run(seconds(1));
    assert_eq!(world.drops(Dropped::PathTooNarrow), 0);
    assert_eq!(world.delivered.len(), 2);
}

#[test]
fn an_idle_peer_on_a_narrow_path_costs_nothing() {
    let mut world = connected(2, 1300);
    assert_eq!(mtu_of(&world, 0), Some(1300 - AROUND));
    world.recorded = Some(Vec::new());
    world.run(seconds(300));
    let sent = world.recorded.take().unwrap();
    assert!(
        sent.iter().all(|(_, _, datagram)| datagram.len() < 200),
        "{}",
        sent.len()
    );
    world.run(seconds(2000));
    let next = world.next_event().map(|at| at.since(world.now));
    assert!(next.is_none_or(|next| next > seconds(60)), "{next:?}");
}

#[test]
fn b9_tcp_resumes_within_two_seconds_of_a_path_that_shrinks() {
    for (before, after) in [(usize::MAX, 1300), (1472, BASE), (1430, 1253)] {
        let mut world = connected(3, before);
        let (header, superframe) = tcp(0, 1348, 20_000);
        let stream = |world: &mut World, span: Duration| {
            let end = world.now + span;
            while world.now < end {
                world.send_offloaded(0, VNI, header, &superframe).unwrap();
                world.run(Duration::from_millis(50));
            }
        };
        stream(&mut world, seconds(2));
        assert_eq!(payloads(&world, 1), 40 * 20_000, "{before}");

        world.carries = after;
        stream(&mut world, seconds(2));
        let start = payloads(&world, 1);
        stream(&mut world, seconds(1));
        assert_eq!(
            payloads(&world, 1) - start,
            20 * 20_000,
            "all of it passes again"
        );
        stream(&mut world, seconds(5));
        assert_eq!(mtu_of(&world, 0), Some(after.min(WANTED) - AROUND));
        assert_eq!(counter(&world, 0, "path_mtu_fell"), 1);

        // And after a while it is found that the path carries more again.
        world.carries = usize::MAX;
        stream(&mut world, seconds(620));
        assert_eq!(mtu_of(&world, 0), Some(1400));
    }
}

#[test]
fn a_path_that_loses_at_random_is_not_taken_for_a_narrow_one() {
    let mut world = connected(4, usize::MAX);
    world.impairment = Impairment {
        loss: 50,
        ..world.impairment
    };
    let (header, superframe) = tcp(0, 1348, 20_000);
    for _ in 0..1200 {
        world.send_offloaded(0, VNI, header, &superframe).unwrap();
        world.run(Duration::from_millis(100));
    }
    assert_eq!(counter(&world, 0, "path_mtu_fell"), 0);
    assert_eq!(mtu_of(&world, 0), Some(1400));
}

#[test]
fn a_path_that_is_down_is_not_taken_for_a_narrow_one() {
    let mut world = connected(5, usize::MAX);
    let (header, superframe) = tcp(0, 1348, 20_000);
    world.impairment.loss = 1000;
    for _ in 0..50 {
        let _down_some_day = world.send_offloaded(0, VNI, header, &superframe);
        world.run(Duration::from_millis(100));
    }
    world.impairment.loss = 0;
    world.run(seconds(10));
    assert_eq!(counter(&world, 0, "path_mtu_fell"), 0);
    assert_eq!(mtu_of(&world, 0), Some(1400));
}

#[test]
fn a_peer_that_moves_to_a_narrower_path_is_measured_anew() {
    let mut world = connected(6, usize::MAX);
    world.send(1, VNI, &frame(1, 0, 1)).unwrap();
    world.run(seconds(1));
    world.carries = 1350;
    world.nodes[0].address = "192.0.2.9:4711".parse().unwrap();
    world.send(0, VNI, &frame(0, 1, 2)).unwrap();
    world.run(seconds(10));
    assert_eq!(mtu_of(&world, 1), Some(1350 - AROUND));
}

#[test]
fn a_node_that_moves_measures_its_paths_anew() {
    let mut world = connected(16, 1300);
    let moved = |world: &mut World, carries| {
        world.carries = carries;
        world.nodes[0].address = format!("192.0.2.{}:8002", carries % 251).parse().unwrap();
        let now = world.now;
        world.nodes[0].core.underlay_changed(now);
        world.run(Duration::from_millis(10));
        world.send(0, VNI, &frame(0, 1, 3)).unwrap();
        world.run(seconds(4));
    };
    moved(&mut world, 1500);
    assert_eq!(mtu_of(&world, 0), Some(1400));
    moved(&mut world, 1400);
    assert_eq!(mtu_of(&world, 0), Some(1400 - AROUND));
}

#[test]
fn another_mtu_of_the_vsubnet_is_looked_for_at_once() {
    let mut world = connected(7, 9000);
    for node in 0..2 {
        world.change(node, |state| state.vsubnets[0].mtu = 8900);
    }
    world.run(seconds(1));
    assert_eq!(mtu_of(&world, 0), Some(8900));
    world.carries = 4000;
    for node in 0..2 {
        world.change(node, |state| state.vsubnets[0].mtu = 8800);
    }
    world.run(seconds(10));
    assert_eq!(mtu_of(&world, 0), Some(4000 - AROUND));
}

#[test]
fn who_sends_too_large_packets_is_told_at_most_200_times_a_second() {
    let carries = 1300;
    let longest = carries - 34;
    for tagged in [false, true] {
        let mut world = connected(8, carries);
        let sent = v4(0, tagged, 17, true, 1400);
        assert_eq!(world.send(0, VNI, &sent), Err(Dropped::PathTooNarrow));
        let network = if tagged { 18 } else { 14 };
        let told = world.nodes[0].told.pop().unwrap();
        assert_eq!(told[..6], mac_of(0).0, "to the sender");
        assert_eq!(told[12..network], sent[12..network]);
        let ip = &told[network..];
        assert_eq!(
            (ip[9], &ip[12..16], &ip[16..20]),
            (1, &V4[1][..], &V4[0][..])
        );
        assert_eq!((sum(&ip[..20]), sum(&ip[20..])), (0xffff, 0xffff));
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
        assert_eq!(ip[20..22], [3, 4]);
        let mtu = usize::from(u16::from_be_bytes([ip[26], ip[27]]));
        assert_eq!(mtu, longest - network);
        assert_eq!(ip[28..], sent[network..network + ip.len() - 28]);
        // What obeys arrives.
        world.send(0, VNI, &v4(0, tagged, 17, true, mtu)).unwrap();
        world.run(seconds(1));
        assert_eq!(world.delivered.len(), 2);

        for _ in 0..1000 {
            let refused = world.send(0, VNI, &sent);
            assert_eq!(refused, Err(Dropped::PathTooNarrow));
            world.run(Duration::from_millis(1));
        }
        assert!(
            (150..=201).contains(&world.nodes[0].told.len()),
            "{}",
            world.nodes[0].told.len()
        );
        assert_eq!(world.drops(Dropped::PathTooNarrow), 1001);
    }
}

#[test]
fn ipv6_is_told_too_and_divided_where_its_sender_cannot_send_less() {
    let mut world = connected(9, 1340);
    let sent = v6(0, 17, 1400);
    assert_eq!(world.send(0, VNI, &sent), Err(Dropped::PathTooNarrow));
    let told = world.nodes[0].told.pop().unwrap();
    let ip = &told[14..];
    assert_eq!(
        (ip[6], &ip[8..24], &ip[24..40]),
        (58, &sent[38..54], &sent[22..38])
    );
    let mut pseudo = ip[8..40].to_vec();
    pseudo.extend((ip.len() as u32 - 40).to_be_bytes());
    pseudo.extend([0, 0, 0, 58]);
    pseudo.extend(&ip[40..]);
    assert_eq!(sum(&pseudo), 0xffff);
    assert_eq!(ip[40..42], [2, 0]);
    assert_eq!(ip[44..48], (1340 - 34 - 14_u32).to_be_bytes());

    let mut world = connected(9, BASE);
    assert_eq!(mtu_of(&world, 0), Some(BASE - AROUND));
    let before = world.delivered.len();
    world.send(0, VNI, &v6(0, 17, 1280)).unwrap();
    world.run(seconds(1));
    assert_eq!(world.delivered.len() - before, 2, "two fragments");
    assert!(world.nodes[0].told.is_empty());
    assert_eq!(
        world.send(0, VNI, &v6(0, 17, 1281)),
        Err(Dropped::PathTooNarrow)
    );
    assert_eq!(
        world.nodes[0].told.pop().unwrap()[58..62],
        1280_u32.to_be_bytes()
    );
}

#[test]
fn nobody_is_told_of_what_must_not_be_answered() {
    let mut world = connected(10, 1300);
    let mut error = v4(0, false, 1, true, 1400);
    error[34] = 3;
    let mut group = v4(0, false, 17, true, 1400);
    group[..6].copy_from_slice(&[0xff; 6]);
    let mut later = v4(0, false, 17, true, 1400);
    later[21] = 9;
    let mut error6 = v6(0, 58, 1400);
    error6[54] = 1;
    let mut unknown = v4(0, false, 17, true, 1400);
    unknown[12..14].copy_from_slice(&[0x88, 0xb5]);
    for frame in [error, group, later, error6, unknown] {
        let _dropped = world.send(0, VNI, &frame);
        world.run(Duration::from_millis(10));
    }
    assert_eq!(world.nodes[0].told, [] as [Vec<u8>; 0]);
    assert_eq!(world.drops(Dropped::PathTooNarrow), 5);
}

#[test]
fn ipv4_that_may_be_divided_is() {
    let mut world = connected(11, 1300);
    world.send(0, VNI, &v4(0, true, 17, false, 1400)).unwrap();
    world.run(seconds(1));
    let kept = world.nodes[1].kept.take().unwrap();
    assert_eq!(kept.len(), 1 + 2);
    assert!(world.nodes[0].told.is_empty());
}

#[test]
fn what_waits_for_a_session_fits_the_path_too() {
    let mut world = connected(15, 1300);
    world.run(seconds(400));
    world.recorded = Some(Vec::new());
    let (header, superframe) = tcp(0, 1348, 20_000);
    world.send_offloaded(0, VNI, header, &superframe).unwrap();
    world.send(0, VNI, &v4(0, true, 17, false, 1400)).unwrap();
    let refused = world.send(0, VNI, &v4(0, false, 17, true, 1400));
    assert_eq!(refused, Err(Dropped::PathTooNarrow));
    world.run(Duration::from_millis(100));
    assert_eq!(payloads(&world, 1), 20_000);
    let sent = world.recorded.take().unwrap();
    let longest = sent.iter().map(|(_, _, datagram)| datagram.len()).max();
    assert_eq!(longest, Some(1300));
}

#[test]
fn a_syn_learns_in_both_directions_what_the_path_carries() {
    let mut world = connected(12, 1300);
    for from in [0, 1] {
        let mut syn = v4(from, false, 6, true, 44);
        syn[34 + 12] = 0x60;
        syn[34 + 13] = 2;
        syn[34 + 20..].copy_from_slice(&[2, 4, 0x05, 0x50]);
        world.send(from, VNI, &syn).unwrap();
        world.run(Duration::from_millis(100));
        let kept = world.nodes[1 - from].kept.as_ref().unwrap();
        let mss = kept.last().unwrap()[34 + 22..].to_vec();
        assert_eq!(
            usize::from(u16::from_be_bytes([mss[0], mss[1]])),
            1300 - 34 - 54
        );
    }
}

#[test]
fn a_bundle_fits_the_path_too() {
    let mut world = connected(13, BASE);
    world.recorded = Some(Vec::new());
    let mut octets: Vec<Vec<u8>> = (0..8).map(|_| v4(0, false, 17, true, 300)).collect();
    world.send_many(0, VNI, &mut octets).unwrap();
    world.run(seconds(1));
    let sent = world.recorded.take().unwrap();
    let longest = sent.iter().map(|(_, _, datagram)| datagram.len()).max();
    assert!(longest > Some(900) && longest <= Some(BASE), "{longest:?}");
    assert_eq!(world.delivered.len(), 1 + 8);
}

/// Makes a gateway of node 0, whose LAN may have a larger MTU, and lets it forward.
fn bridge(world: &mut World) {
    world.change(0, |state| state.vsubnets[0].role = Role::Gateway);
    world.change(1, |state| state.vsubnets[0].peers[0].role = Role::Gateway);
    let core = &mut world.nodes[0].core;
    core.set_gate(VNI, 1, Time::from_nanos(u64::MAX)).unwrap();
}

fn gateway(seed: u64, carries: usize) -> World {
    let mut world = connected(seed, carries);
    bridge(&mut world);
    world.nodes[1].kept = Some(Vec::new());
    world
}

/// The MTU that a too-big message tells, of IPv4 or IPv6, tagged or not.
fn told_mtu(answer: &[u8]) -> u16 {
    let packet = if answer[12] == 0x81 { 18 } else { 14 };
    let at = if answer[packet] >> 4 == 4 {
        20 + 6
    } else {
        40 + 6
    };
    u16::from_be_bytes([answer[packet + at], answer[packet + at + 1]])
}

#[test]
fn a_station_of_a_jumbo_lan_is_told_the_mtu_of_the_vsubnet() {
    for (carries, mtu) in [(usize::MAX, 1400), (1300, 1300 - AROUND as u16)] {
        let mut world = gateway(20, carries);
        let frames = [
            v4(0, false, 17, true, 9000),
            v4(0, true, 17, true, 9000),
            v6(0, 17, 9000),
            v4(0, false, 17, true, 1500),
            v4(0, false, 17, true, 1404),
        ];
        for (at, jumbo) in frames.into_iter().enumerate() {
            let refused = world.send(0, VNI, &jumbo);
            assert_eq!(refused, Err(Dropped::PathTooNarrow));
            world.run(Duration::from_millis(20));
            assert_eq!(world.nodes[0].told.len(), at + 1);
            let tagged = jumbo[12] == 0x81;
            // The path has room for one tag, which an untagged frame doesn't need.
            let spare = if carries == usize::MAX || tagged {
                0
            } else {
                4
            };
            let told = told_mtu(world.nodes[0].told.last().unwrap());
            let least = if jumbo[12] == 0x86 { 1280 } else { 0 };
            assert_eq!(told, (mtu + spare).max(least));
        }
        assert!(world.nodes[1].kept.as_ref().unwrap().is_empty());
    }
}

#[test]
fn a_jumbo_packet_that_may_be_divided_arrives_whole() {
    for carries in [usize::MAX, 1300] {
        let mut world = gateway(21, carries);
        world.send(0, VNI, &v4(0, false, 17, false, 9000)).unwrap();
        world.run(seconds(1));
        let kept = world.nodes[1].kept.take().unwrap();
        assert!(kept.iter().all(|frame| frame.len() <= 1414));
        let octets: usize = kept.iter().map(|frame| frame.len() - 34).sum();
        assert_eq!(octets, 9000 - 20);
        assert!(world.nodes[0].told.is_empty());
    }
}

#[test]
fn a_jumbo_packet_is_not_lost_while_nothing_is_known_of_the_path() {
    let mut world = World::new(22, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    world.nodes[1].kept = Some(Vec::new());
    bridge(&mut world);
    let refused = world.send(0, VNI, &v4(0, false, 17, true, 9000));
    assert_eq!(refused, Err(Dropped::PathTooNarrow));
    world.send(0, VNI, &v4(0, false, 17, false, 9000)).unwrap();
    world.run(seconds(1));
    assert_eq!(told_mtu(&world.nodes[0].told[0]), 1400);
    let kept = world.nodes[1].kept.take().unwrap();
    let octets: usize = kept.iter().map(|frame| frame.len() - 34).sum();
    assert_eq!(octets, 9000 - 20);
}

#[test]
fn what_is_no_ip_and_too_long_is_counted() {
    let mut world = gateway(23, usize::MAX);
    let mut ipx = ethernet(0, false, 0x8137);
    ipx.resize(9014, 0);
    assert_eq!(world.send(0, VNI, &ipx), Err(Dropped::PathTooNarrow));
    assert_eq!(world.drops(Dropped::PathTooNarrow), 1);
}

#[test]
fn a_syn_of_a_jumbo_lan_and_one_to_it_offer_what_the_vsubnet_carries() {
    for tagged in [false, true] {
        let mut world = gateway(24, usize::MAX);
        world.nodes[0].kept = Some(Vec::new());
        for from in [0, 1] {
            let mut syn = v4(from, tagged, 6, true, 44);
            let tcp = if tagged { 38 } else { 34 };
            syn[tcp + 12] = 0x60;
            syn[tcp + 13] = 2;
            syn[tcp + 20..].copy_from_slice(&[2, 4, 0x23, 0]);
            world.send(from, VNI, &syn).unwrap();
            world.run(Duration::from_millis(100));
            let kept = world.nodes[1 - from].kept.as_ref().unwrap();
            let mss = &kept.last().unwrap()[tcp + 22..];
            assert_eq!(u16::from_be_bytes([mss[0], mss[1]]), 1360);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_packet_of_a_jumbo_lan_arrives_or_its_sender_is_told(
        seed in any::<u64>(),
        carries in prop_oneof![Just(usize::MAX), BASE..1500_usize],
        packets in proptest::collection::vec(
            (64..9_000_usize, any::<bool>(), any::<bool>(), any::<bool>()),
            1..12,
        ),
    ) {
        let mut world = gateway(seed, carries);
        for (length, tagged, is_v6, dont_fragment) in packets {
            let packet = if is_v6 {
                v6(0, 17, length)
            } else {
                v4(0, tagged, 17, dont_fragment, length)
            };
            let told = world.nodes[0].told.len();
            let came = world.nodes[1].kept.as_ref().unwrap().len();
            let sent = world.send(0, VNI, &packet);
            world.run(Duration::from_millis(50));
            let arrived = &world.nodes[1].kept.as_ref().unwrap()[came..];
            prop_assert_eq!(sent.is_ok(), !arrived.is_empty());
            prop_assert_eq!(sent.is_err(), world.nodes[0].told.len() > told);
            if let [whole] = arrived {
                prop_assert_eq!(whole, &packet);
            }
            let most = 1400 + if tagged && !is_v6 { 18 } else { 14 };
            prop_assert!(arrived.iter().all(|frame| frame.len() <= most));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tcp_of_any_size_crosses_any_path_and_no_datagram_is_too_large(
        seed in any::<u64>(),
        carries in BASE..1500_usize,
        frames in proptest::collection::vec((1..1360_usize, 1..20_000_usize), 1..20),
    ) {
        let mut world = connected(seed, carries);
        let mut sent = 0;
        world.recorded = Some(Vec::new());
        for (size, payload) in frames {
            let (header, superframe) = tcp(0, size.max(payload / 40), payload);
            world.send_offloaded(0, VNI, header, &superframe).unwrap();
            sent += payload;
        }
        world.run(seconds(1));
        prop_assert_eq!(payloads(&world, 1), sent);
        let recorded = world.recorded.take().unwrap();
        prop_assert!(recorded.iter().all(|(_, _, datagram)| datagram.len() <= carries.max(WANTED)));
        prop_assert_eq!(mtu_of(&world, 0), Some(carries.min(WANTED) - AROUND));
    }
}
