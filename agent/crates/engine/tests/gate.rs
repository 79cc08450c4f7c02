//! The gate of a gateway, in whole nodes: closed at first, told of when its time is over, the same
//! through changes of the state, and in force for what waited meanwhile.

use std::time::Duration;

use cairn_engine::testing::{World, broadcast_frame, frame, mac_of, node_id};
use cairn_engine::{Dropped, Event, Fact, GateRefused, GateStats, PeerState, Role, Suite, Time};
use cairn_wire::Mac;

mod frames;
use frames::loop_probe;

const VNI: u32 = 7;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Node 0 is a gateway, nodes 1 and 2 are hosts.
fn network() -> World {
    let mut world = World::new(1, 3);
    world.join(VNI, Suite::X25519, &[0, 1, 2]);
    world.change(0, |state| state.vsubnets[0].role = Role::Gateway);
    for node in [1, 2] {
        world.change(node, |state| {
            let peers = state.vsubnets[0].peers.iter_mut();
            let is_gateway = |peer: &&mut PeerState| peer.id == node_id(0);
            peers
                .filter(is_gateway)
                .for_each(|peer| peer.role = Role::Gateway);
        });
    }
    world
}

fn open_for(world: &mut World, term: u64, time: Duration) -> Result<(), GateRefused> {
    let until = world.now + time;
    world.nodes[0].core.set_gate(VNI, term, until)
}

fn gate(world: &World) -> GateStats {
    let stats = world.nodes[0].core.stats(world.now);
    stats.vsubnets[0].gate.expect("a gateway")
}

/// Whom a frame from the LAN and one to it reach.
fn crosses(world: &mut World, id: u64) -> [bool; 2] {
    let _dropped = world.send(0, VNI, &frame(0, 1, id));
    world.send(1, VNI, &frame(1, 0, id + 1)).expect("sent");
    world.run(millis(300));
    [(id, 1), (id + 1, 0)].map(|(id, node)| world.deliveries(id).contains_key(&node))
}

fn closings(world: &World) -> Vec<&Event> {
    let events = world.nodes[0].events.iter();
    events
        .filter(|event| matches!(event.fact, Fact::GateClosed { .. }))
        .collect()
}

#[test]
fn it_opens_for_a_time_and_its_end_is_told_once() {
    let mut world = network();
    assert_eq!(crosses(&mut world, 10), [false, false]);
    open_for(&mut world, 3, millis(1_500)).expect("the first term");
    assert_eq!(crosses(&mut world, 20), [true, true]);
    assert!(closings(&world).is_empty());

    let until = gate(&world).until;
    world.run(millis(2_000));
    assert_eq!(crosses(&mut world, 30), [false, false]);
    let told = closings(&world);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].at, &told[0].fact),
        (until, &Fact::GateClosed { vni: VNI, term: 3 })
    );
    assert!(!gate(&world).is_open);
}

#[test]
fn while_it_is_held_open_and_when_it_is_closed_on_purpose_nothing_is_told() {
    let mut world = network();
    for _ in 0..20 {
        open_for(&mut world, 3, millis(1_500)).expect("the same term");
        world.run(millis(500));
    }
    assert!(gate(&world).is_open);
    world.nodes[0]
        .core
        .set_gate(VNI, 3, Time::ZERO)
        .expect("closed");
    assert_eq!(crosses(&mut world, 10), [false, false]);
    world.run(millis(5_000));
    assert!(closings(&world).is_empty());
}

#[test]
fn an_older_term_and_a_vsubnet_without_gateway_are_refused() {
    let mut world = network();
    open_for(&mut world, 5, millis(1_000)).expect("the first term");
    let refused = open_for(&mut world, 4, millis(9_000));
    assert!(matches!(refused, Err(GateRefused::OlderTerm(_))));
    assert_eq!(gate(&world).term, 5);
    let until = world.now + millis(1_000);
    for (node, vni) in [(1, VNI), (0, 8)] {
        let refused = world.nodes[node].core.set_gate(vni, 9, until);
        assert_eq!(refused, Err(GateRefused::NoGateway));
    }
}

#[test]
fn a_newer_state_changes_nothing_and_another_role_ends_it() {
    let mut world = network();
    open_for(&mut world, 3, millis(60_000)).expect("the first term");
    world.change(0, |state| state.vsubnets[0].mtu = 1_300);
    assert_eq!(crosses(&mut world, 10), [true, true]);
    world.change(0, |state| state.vsubnets[0].role = Role::Host);
    world.change(0, |state| state.vsubnets[0].role = Role::Gateway);
    assert_eq!(crosses(&mut world, 20), [false, false]);
    assert!(closings(&world).is_empty());
}

#[test]
fn what_waited_for_a_session_stays_here_when_the_gate_closes_meanwhile() {
    let mut world = network();
    world.impairment.loss = 1_000;
    open_for(&mut world, 3, millis(500)).expect("the first term");
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(millis(700));
    world.impairment.loss = 0;
    world.run(millis(1_200));
    assert_eq!(world.deliveries(1).len(), 0);
    assert_eq!(world.drops(Dropped::GateClosed), 1);
}

#[test]
fn loop_probes_pass_a_closed_gate_and_nothing_else_does() {
    let mut world = network();
    for node in &mut world.nodes {
        node.kept = Some(Vec::new());
    }
    let probe = loop_probe(mac_of(0));
    world.send(0, VNI, &probe).expect("queued");
    let other = world.send(0, VNI, &broadcast_frame(0, 1));
    assert_eq!(other, Err(Dropped::RefusedBySwitch));
    world.run(millis(300));
    for node in [1, 2] {
        assert_eq!(
            world.nodes[node].kept.as_deref(),
            Some(&[probe.clone()][..])
        );
    }
}

#[test]
fn a_station_of_the_lan_that_speaks_from_the_vsubnet_is_told_of_once_a_second() {
    let mut world = network();
    open_for(&mut world, 1, millis(60_000)).expect("the first term");
    world.change(0, |state| state.vsubnets[0].peers[0].role = Role::Gateway);
    world.change(1, |state| state.vsubnets[0].role = Role::Gateway);
    let until = world.now + millis(60_000);
    world.nodes[1]
        .core
        .set_gate(VNI, 1, until)
        .expect("a gateway");
    let station = Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55]);
    let mut looping = broadcast_frame(0, 1);
    looping[6..12].copy_from_slice(&station.0);
    for _ in 0..30 {
        world.send(0, VNI, &looping).expect("from the LAN");
        world.send(1, VNI, &looping).expect("from another LAN");
        world.run(millis(50));
    }
    let events = world.nodes[0].events.iter();
    let told: Vec<_> = events
        .filter_map(|event| match event.fact {
            Fact::Reflected {
                peer, mac, count, ..
            } => Some((peer, mac, count)),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 2);
    assert!(
        told.iter()
            .all(|(peer, mac, _)| (*peer, *mac) == (node_id(1), station))
    );
    assert!(told[1].2 >= 15, "{told:?}");
}
