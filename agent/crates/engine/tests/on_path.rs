//! KT-4 and more: somebody on the path replays, cuts, flips and swaps; nothing comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use cairn_engine::testing::{World, frame, node_id};
use cairn_engine::{DownReason, Dropped, Fact, SessionState, Suite};

const VNI: u32 = 7;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Two vSubnets over the same two nodes, in session, with a recording of all that was said.
fn recorded() -> (World, Vec<(usize, SocketAddr, Vec<u8>)>) {
    let mut world = World::new(1, 2);
    world.recorded = Some(Vec::new());
    world.join(VNI, Suite::X25519, &[0, 1]);
    world.join(VNI + 1, Suite::X25519, &[0, 1]);
    for second in 0..60 {
        for vni in [VNI, VNI + 1] {
            let id = u64::from(vni) * 1000 + second;
            let _ = world.send(0, vni, &frame(0, 1, id));
            let _ = world.send(1, vni, &frame(1, 0, id));
        }
        world.run(seconds(1));
    }
    let recording = world.recorded.take().expect("recorded");
    world.recorded = Some(Vec::new());
    world.delivered.clear();
    (world, recording)
}

/// What the attacker got out of it: nothing delivered, nothing answered, sessions alive.
fn assert_unharmed(world: &mut World, what: &str) {
    assert_eq!(world.delivered, [], "{what}: delivered");
    let replies = world.recorded.as_ref().expect("recording").len();
    assert_eq!(replies, 0, "{what}: {replies} replies");
    for (from, to) in [(0, 1), (1, 0)] {
        for vni in [VNI, VNI + 1] {
            world
                .send(from, vni, &frame(from, to, 1))
                .expect("in session");
        }
    }
    world.run(Duration::from_millis(20));
    assert_eq!(world.delivered.len(), 4, "{what}: sessions harmed");
    world.run(seconds(1));
    world.delivered.clear();
    world.recorded = Some(Vec::new());
}

#[test]
fn kt_4_replaying_every_packet_from_the_same_and_from_another_source_does_nothing() {
    let (mut world, recording) = recorded();
    assert!(recording.iter().any(|(_, _, datagram)| datagram[0] == 0x11));
    assert!(recording.len() > 240);
    let stranger: SocketAddr = "203.0.113.1:8002".parse().expect("an endpoint");
    for (from, to, datagram) in &recording {
        let target = world
            .nodes
            .iter()
            .position(|node| node.address == *to)
            .expect("a node");
        let same = world.nodes[*from].address;
        world.inject(target, same, datagram);
        world.inject(target, stranger, datagram);
    }
    assert_unharmed(&mut world, "replay");
    assert!(world.drops(Dropped::Replayed) > 0 && world.drops(Dropped::ReplayedInit) > 0);
}

#[test]
fn kt_4_truncated_and_flipped_packets_do_nothing() {
    let (mut world, recording) = recorded();
    // Fresh packets that never arrived, so that only the damage keeps them out.
    world.nodes[1].up = false;
    for id in 0..4 {
        let _ = world.send(0, VNI, &frame(0, 1, id));
    }
    let fresh: Vec<_> = world.recorded.replace(Vec::new()).expect("recording");
    world.run(Duration::from_millis(20));
    world.nodes[1].up = true;
    world.recorded = Some(Vec::new());
    world.delivered.clear();
    let source = world.nodes[0].address;
    // One of each type: more INITs at once would be load, under which a COOKIE is the right answer
    // to a damaged mac2.
    let old = (0x11..=0x15).filter_map(|first| {
        let mut all = recording.iter();
        all.find(|(from, _, datagram)| *from == 0 && datagram[0] == first)
    });
    let packets = fresh.iter().chain(old);
    for (_, _, datagram) in packets {
        for len in 0..datagram.len() {
            world.inject(1, source, &datagram[..len]);
        }
        for bit in 0..datagram.len() * 8 {
            let mut flipped = datagram.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            world.inject(1, source, &flipped);
        }
    }
    assert_unharmed(&mut world, "damage");
    // Undamaged, one of them still is good: the damage hasn't used its counter up.
    world.inject(1, source, &fresh[3].2);
    assert_eq!(world.delivered.len(), 1);
}

#[test]
fn kt_4_packets_of_another_direction_session_or_vsubnet_do_nothing() {
    let (mut world, recording) = recorded();
    let sealed = |datagram: &[u8]| datagram[0] == 0x14 || datagram[0] == 0x15;
    let mut receivers: Vec<[u8; 3]> = Vec::new();
    for (_, _, datagram) in recording.iter().filter(|(_, _, datagram)| sealed(datagram)) {
        let receiver = [datagram[1], datagram[2], datagram[3]];
        if !receivers.contains(&receiver) {
            receivers.push(receiver);
        }
    }
    assert!(receivers.len() >= 4, "two sessions of two directions");
    for (from, to, datagram) in &recording {
        // Back to where it came from, and under each other session's index, at a counter that
        // nobody has used.
        let origin = *to;
        world.inject(*from, origin, datagram);
        if !sealed(datagram) {
            continue;
        }
        for receiver in &receivers {
            let mut swapped = datagram.clone();
            swapped[1..4].copy_from_slice(receiver);
            swapped[10] = 1;
            world.inject(0, origin, &swapped);
            world.inject(1, origin, &swapped);
        }
    }
    assert_unharmed(&mut world, "swap");
}

#[test]
fn a_stranger_gets_no_octet_back_whatever_is_sent() {
    let (mut world, recording) = recorded();
    let stranger: SocketAddr = "203.0.113.1:8002".parse().expect("an endpoint");
    for len in 0..=2000 {
        for first in [0x00, 0x11, 0x12, 0x13, 0x14, 0x15, 0xff] {
            let mut datagram = vec![0; len];
            for octet in &mut datagram {
                *octet = u8::try_from(world.roll(256)).expect("a byte");
            }
            if let Some(octet) = datagram.first_mut() {
                *octet = first;
            }
            world.inject(0, stranger, &datagram);
        }
    }
    let (_, _, init) = recording
        .iter()
        .find(|(_, _, d)| d[0] == 0x11)
        .expect("an INIT");
    let mut forged = init.clone();
    forged[150] ^= 1;
    world.inject(1, stranger, &forged);
    assert_unharmed(&mut world, "garbage");
}

#[test]
fn a_forged_resp_does_not_take_the_place_of_the_real_one() {
    let mut world = World::new(2, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    world.recorded = Some(Vec::new());
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(Duration::from_millis(5));
    let recording = world.recorded.take().expect("recording");
    let (_, _, resp) = recording
        .iter()
        .find(|(_, _, d)| d[0] == 0x12)
        .expect("a RESP");
    let source = world.nodes[1].address;
    for at in 16..72 {
        // Somebody on the path knows our public key and makes mac1 right; here it is enough that
        // the Noise message is wrong in each place, with and without a right mac1.
        let mut forged = resp.clone();
        forged[at] ^= 0x55;
        world.inject(0, source, &forged);
    }
    world.run(seconds(1));
    assert_eq!(world.deliveries(1).get(&1), Some(&1));
}

#[test]
fn rule_2_under_a_flood_of_inits_a_cookie_is_asked_and_a_new_peer_still_gets_in() {
    let mut world = World::new(3, 3);
    world.join(VNI, Suite::X25519, &[0, 1, 2]);
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(seconds(1));
    // INITs with a right mac1 from spoofed sources: recorded from node 2, replayed by others.
    world.recorded = Some(Vec::new());
    world.nodes[1].up = false;
    world.send(2, VNI, &frame(2, 1, 2)).expect("queued");
    world.run(Duration::from_millis(1));
    let recording = world.recorded.replace(Vec::new()).expect("recording");
    let (_, _, init) = recording
        .iter()
        .find(|(_, _, d)| d[0] == 0x11)
        .expect("an INIT")
        .clone();
    world.nodes[1].up = true;
    world.restart(2);

    world.recorded = Some(Vec::new());
    let mut asked = None;
    for tick in 0..3000u32 {
        for n in 0..5 {
            let source = SocketAddr::from((
                [203, 0, 113, 7],
                1000 + u16::try_from(tick * 5 + n).expect("small"),
            ));
            world.inject(1, source, &init);
        }
        if tick == 1500 {
            world.send(2, VNI, &frame(2, 1, 3)).expect("queued");
            asked = Some(world.now);
        }
        if tick % 10 == 0 {
            let _ = world.send(0, VNI, &frame(0, 1, 1000 + u64::from(tick)));
        }
        world.run(Duration::from_millis(1));
    }

    let delivery = world
        .delivered
        .iter()
        .find(|delivery| delivery.id == 3)
        .expect("delivered");
    assert!(delivery.at.since(asked.expect("asked")) < seconds(2));
    let flowed = world
        .delivered
        .iter()
        .filter(|delivery| delivery.id >= 1000)
        .count();
    assert!(
        flowed >= 299,
        "{flowed} of 300 frames of the established flow"
    );
    assert!(world.drops(Dropped::CookieRequired) > 10_000);
    let recording = world.recorded.take().expect("recording");
    let to_strangers = recording.iter().filter(|(_, to, _)| to.port() != 8002);
    assert!(
        to_strangers
            .clone()
            .all(|(_, _, datagram)| datagram.len() <= init.len())
    );
    let cookies = world.nodes[2].core.stats(world.now);
    let cookies = cookies
        .counters
        .iter()
        .find(|(name, _)| *name == "cookies_received");
    assert!(cookies.expect("counted").1 >= 1);
}

#[test]
fn a_clone_that_continues_the_counters_under_another_salt_ends_the_session_and_is_reported() {
    use cairn_engine::{OpenKey, SealKey};
    // Two executions of one machine: here the same frames sealed twice under the same keys and
    // counters, once more with another salt, by an attacker's view of the engine's own primitive.
    let key = SealKey::new(&[9; 32]);
    let mut first = vec![0; 16 + 20 + 16];
    let mut second = first.clone();
    key.seal_in_place(cairn_engine::Kind::Data, 5, [1; 6], 77, &mut first);
    key.seal_in_place(cairn_engine::Kind::Data, 5, [2; 6], 77, &mut second);
    assert_ne!(first[16..], second[16..]);
    assert!(OpenKey::new(&[9; 32]).open_in_place(&mut first).is_some());

    let mut world = World::new(4, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(seconds(1));
    world.clone_and_send(0, VNI, &frame(0, 1, 2), &frame(0, 1, 3));
    world.run(seconds(1));

    let seen = |event: &cairn_engine::Event| matches!(event.fact, Fact::CloneSeen { .. });
    assert_eq!(
        world.nodes[1]
            .events
            .iter()
            .filter(|event| seen(event))
            .count(),
        1
    );
    assert_eq!(world.drops(Dropped::Cloned), 1);
    let ended = Fact::SessionDown {
        vni: VNI,
        peer: node_id(0),
        reason: DownReason::Cloned,
    };
    let mut events = world.nodes[1].events.iter();
    assert!(events.any(|event| event.fact == ended), "it has ended");
    let peer = &world.nodes[1].core.stats(world.now).vsubnets[0].peers[0];
    assert_eq!((peer.session, peer.handshakes), (SessionState::Up, 2));
}
