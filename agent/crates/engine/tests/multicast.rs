//! Multicast goes to all but those whose hosts surely don't listen, and never misses one that does.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cairn_engine::testing::{World, mac_of, node_id};
use cairn_engine::{Role, Suite, Time};
use cairn_wire::Mac;
use proptest::prelude::*;

mod frames;
use frames::{IPV4, IPV6, frame, ipv4, ipv6};

const VNI: u32 = 7;
const GROUP: Mac = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
const OTHER: Mac = Mac([0x33, 0x33, 0, 1, 0, 3]);

fn network(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, nodes);
    world.join(VNI, Suite::X25519, &(0..nodes).collect::<Vec<_>>());
    world
}

fn to_group(from: usize, group: Mac, id: u64) -> Vec<u8> {
    frame(
        group,
        mac_of(from),
        0x88b5,
        &[&id.to_be_bytes()[..], &[0; 38]].concat(),
    )
}

/// IGMPv3: "I listen to more or less than before"; to which groups isn't read.
fn report(from: usize) -> Vec<u8> {
    let message = [0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 2, 3];
    let to = Ipv4Addr::new(224, 0, 0, 22);
    let packet = ipv4(Ipv4Addr::new(10, 7, 0, 1), to, 2, &message);
    frame(Mac([0x01, 0, 0x5e, 0, 0, 22]), mac_of(from), IPV4, &packet)
}

/// MLDv2 behind a router alert, as hosts send it.
fn report6(from: usize) -> Vec<u8> {
    let options = [58, 0, 5, 2, 0, 0, 1, 0];
    let message = [&options[..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat();
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let packet = ipv6(source, to, 0, &message);
    frame(
        Mac([0x33, 0x33, 0, 0, 0, 0x16]),
        mac_of(from),
        IPV6,
        &packet,
    )
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Sends one frame and returns whom it reached within half a second.
fn reached(world: &mut World, from: usize, group: Mac, id: u64) -> Vec<usize> {
    world
        .send(from, VNI, &to_group(from, group, id))
        .expect("sent");
    world.run(Duration::from_millis(500));
    world.deliveries(id).into_keys().collect()
}

fn spared(world: &World, node: usize) -> u64 {
    let counters = world.nodes[node].core.stats(world.now).vsubnets[0]
        .counters
        .clone();
    let mut spared = counters
        .iter()
        .filter(|(name, _)| *name == "multicast_spared");
    spared.next().map_or(0, |(_, copies)| *copies)
}

/// Node 1's host listens to the group, node 2's to nothing, of node 3's nobody knows.
fn four() -> World {
    let mut world = network(1, 4);
    world.nodes[1].listens_to = Some(vec![GROUP]);
    world.nodes[2].listens_to = Some(vec![]);
    assert_eq!(
        reached(&mut world, 0, GROUP, 1),
        [1, 2, 3],
        "nothing is known yet"
    );
    world
}

#[test]
fn who_surely_does_not_listen_is_spared_and_nobody_else() {
    let mut world = four();
    for id in 2..12 {
        assert_eq!(reached(&mut world, 0, GROUP, id), [1, 3]);
    }
    assert_eq!(spared(&world, 0), 10);
    assert_eq!(
        reached(&mut world, 0, OTHER, 12),
        [1, 2, 3],
        "another group"
    );
    assert_eq!(
        reached(&mut world, 3, GROUP, 13),
        [0, 1, 2],
        "another sender"
    );
}

#[test]
fn who_begins_to_listen_and_reports_it_misses_nothing() {
    for report in [report(2), report6(2)] {
        let mut world = four();
        assert_eq!(reached(&mut world, 0, GROUP, 2), [1, 3]);
        world.nodes[2].listens_to = Some(vec![GROUP]);
        world.send(2, VNI, &report).expect("sent");
        world.run(Duration::from_millis(20));
        assert_eq!(reached(&mut world, 0, GROUP, 3), [1, 2, 3]);
    }
}

#[test]
fn who_begins_to_listen_in_silence_is_served_within_ten_seconds() {
    let mut world = four();
    world.nodes[2].listens_to = Some(vec![GROUP]);
    assert_eq!(reached(&mut world, 0, GROUP, 2), [1, 3]);
    world.run(seconds(10));
    for id in 3..6 {
        assert_eq!(reached(&mut world, 0, GROUP, id), [1, 2, 3]);
    }
}

#[test]
fn a_stream_that_nobody_wants_costs_a_frame_in_ten_seconds() {
    let mut world = network(2, 2);
    world.nodes[1].listens_to = Some(vec![]);
    let reached = (0..200).filter(|id| !reached(&mut world, 0, GROUP, *id).is_empty());
    assert!((8..=12).contains(&reached.count()), "100 s of a stream");
}

#[test]
fn what_was_said_ends_with_a_restart_of_either() {
    for restarted in [0, 2] {
        let mut world = four();
        assert_eq!(reached(&mut world, 0, GROUP, 2), [1, 3]);
        world.nodes[2].listens_to = Some(vec![GROUP]);
        world.restart(restarted);
        world
            .send(restarted, VNI, &to_group(restarted, Mac::BROADCAST, 3))
            .expect("sent");
        world.run(seconds(2));
        assert_eq!(reached(&mut world, 0, GROUP, 4), [1, 2, 3], "{restarted}");
    }
}

/// Makes a gateway of a node, and lets it forward.
fn bridge(world: &mut World, gateway: usize) {
    for node in 0..world.nodes.len() {
        let id = node_id(gateway);
        world.change(node, |state| {
            let vsubnet = &mut state.vsubnets[0];
            let peers = vsubnet.peers.iter_mut().filter(|peer| peer.id == id);
            peers.for_each(|peer| peer.role = Role::Gateway);
            if node == gateway {
                vsubnet.role = Role::Gateway;
            }
        });
    }
    let core = &mut world.nodes[gateway].core;
    core.set_gate(VNI, 1, Time::from_nanos(u64::MAX))
        .expect("a gateway");
}

/// A station behind node 2's gateway joins a group that only it wants, and one in the vSubnet
/// asks who listens.
#[test]
fn what_a_lan_listens_to_comes_to_its_gateway_and_its_reports_and_queries_cross() {
    let mut world = network(4, 4);
    bridge(&mut world, 2);
    for node in [1, 3] {
        world.nodes[node].listens_to = Some(vec![]);
    }
    world.nodes[2].listens_to = Some(vec![]);
    for node in &mut world.nodes {
        node.kept = Some(Vec::new());
    }
    reached(&mut world, 0, GROUP, 1);
    assert_eq!(
        reached(&mut world, 0, GROUP, 2),
        [2],
        "the kernel's bridge decides there"
    );

    let station = [0, 0x11, 0x22, 0x33, 0x44, 0x55];
    for mut report in [report(2), report6(2)] {
        report[6..12].copy_from_slice(&station);
        world.send(2, VNI, &report).expect("sent");
        world.run(Duration::from_millis(100));
        for node in [0, 1, 3] {
            let kept = world.nodes[node].kept.as_ref().expect("kept");
            assert!(kept.contains(&report), "at {node}");
        }
    }

    let query = [0x11, 100, 0, 0, 0, 0, 0, 0];
    let to = Ipv4Addr::new(224, 0, 0, 1);
    let packet = ipv4(Ipv4Addr::new(10, 7, 0, 1), to, 2, &query);
    let query = frame(Mac([0x01, 0, 0x5e, 0, 0, 1]), mac_of(0), IPV4, &packet);
    world.send(0, VNI, &query).expect("sent");
    world.run(Duration::from_millis(100));
    assert!(world.nodes[2].kept.as_ref().expect("kept").contains(&query));
}

#[test]
fn gateways_and_newcomers_get_everything() {
    let mut world = four();
    bridge(&mut world, 2);
    world.run(seconds(11));
    for id in 2..6 {
        assert_eq!(reached(&mut world, 0, GROUP, id), [1, 2, 3]);
    }

    let mut world = network(3, 3);
    world.nodes[1].listens_to = Some(vec![]);
    world.remove_member(VNI, 2);
    reached(&mut world, 0, GROUP, 1);
    assert_eq!(reached(&mut world, 0, GROUP, 2), [0_usize; 0]);
    world.join(VNI, Suite::X25519, &[0, 1, 2]);
    assert_eq!(reached(&mut world, 0, GROUP, 3), [2]);
}

#[test]
fn what_others_rely_on_goes_to_everybody() {
    let mut world = four();
    for (id, group) in (10..).zip([
        Mac::BROADCAST,
        Mac([0x01, 0, 0x5e, 0, 0, 251]),
        Mac([0x33, 0x33, 0, 0, 0, 1]),
        Mac([0x33, 0x33, 0xff, 0, 0, 1]),
        Mac([0x03, 0, 0, 0, 0, 7]),
    ]) {
        for id in [id, id + 10] {
            assert_eq!(reached(&mut world, 0, group, id), [1, 2, 3], "{group}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize, bool),
    Listen(usize, bool, bool),
    Forget(usize),
    Restart(usize),
    Wait(u64),
}

const NODES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        6 => (node(), any::<bool>()).prop_map(|(node, other)| Step::Send(node, other)),
        3 => (node(), any::<bool>(), any::<bool>())
            .prop_map(|(node, group, other)| Step::Listen(node, group, other)),
        1 => node().prop_map(Step::Forget),
        1 => node().prop_map(Step::Restart),
        2 => (0_u64..15).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_host_that_listens_and_reported_it_gets_every_frame(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut world = network(5, NODES);
        for (id, step) in (1..).zip(steps) {
            match step {
                Step::Send(from, other) => {
                    let group = if other { OTHER } else { GROUP };
                    let got: BTreeSet<_> = reached(&mut world, from, group, id).into_iter().collect();
                    for (node, known) in world.nodes.iter().enumerate() {
                        let listens = known.listens_to.as_ref().is_none_or(|all| all.contains(&group));
                        prop_assert!(node == from || !listens || got.contains(&node), "{node}");
                    }
                }
                Step::Listen(node, group, other) => {
                    let groups = [(group, GROUP), (other, OTHER)];
                    let wanted = groups.iter().filter(|(wanted, _)| *wanted);
                    world.nodes[node].listens_to = Some(wanted.map(|(_, group)| *group).collect());
                    world.send(node, VNI, &report(node)).expect("sent");
                    world.run(Duration::from_millis(300));
                }
                Step::Forget(node) => {
                    world.nodes[node].listens_to = None;
                    world.send(node, VNI, &report6(node)).expect("sent");
                    world.run(Duration::from_millis(300));
                }
                Step::Restart(node) => {
                    world.restart(node);
                    world.send(node, VNI, &to_group(node, Mac::BROADCAST, 1 << 40)).expect("sent");
                    world.run(seconds(3));
                }
                Step::Wait(time) => world.run(seconds(time)),
            }
        }
    }
}
