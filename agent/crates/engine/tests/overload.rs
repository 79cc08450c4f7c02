//! What a flood, a lost message or a path that doesn't answer may not lead to: work for strangers,
//! timers that spin, states that nothing ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use cairn_engine::offload::Coalescer;
use cairn_engine::testing::{World, frame, node_id};
use cairn_engine::{
    Dropped, Inbound, Message, Role, SessionState, SlowPath, Suite, Time, Verdict, Vni,
};

const VNI: u32 = 7;
const INIT: u8 = 0x11;
const CONTROL: u8 = 0x15;

/// Another place than any node's.
const ELSEWHERE: &str = "192.0.2.9:4711";

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn pair(seed: u64) -> World {
    let mut world = World::new(seed, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    world
}

/// Node 0 has the RESP, and node 1 hasn't heard it on the session: the CONTROL packet that would
/// confirm it was lost, and is returned.
fn offered(seed: u64) -> (World, Vec<u8>) {
    let mut world = pair(seed);
    world.recorded = Some(Vec::new());
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(9));
    world.impairment.loss = 1000;
    world.run(millis(3));
    let recorded = world.recorded.take().expect("recorded");
    let control = recorded
        .into_iter()
        .find(|(node, _, datagram)| *node == 0 && datagram[0] == CONTROL);
    (world, control.expect("a probe confirms the session").2)
}

fn elsewhere() -> SocketAddr {
    ELSEWHERE.parse().expect("an endpoint")
}

fn session_at(world: &World, node: usize) -> SessionState {
    let stats = world.nodes[node].core.stats(world.now);
    let mut peers = stats.vsubnets[0].peers.iter();
    let peer = peers.find(|peer| peer.id == node_id(1 - node));
    peer.expect("a peer").session
}

#[test]
fn behind_a_nat_a_path_that_takes_no_keepalive_keeps_nobody_busy() {
    let (mut world, control) = offered(1);
    world.change(1, |state| state.behind_nat = true);
    world.inject(1, elsewhere(), &control);
    world.nodes[0].up = false;

    let mut turns = 0;
    let busy = world.run_until(Duration::from_secs(110), |_| {
        turns += 1;
        turns > 200
    });

    assert_eq!(busy, None, "timers spin");
}

#[test]
fn rule_9_an_endpoint_that_missed_its_challenges_is_challenged_again_when_it_speaks() {
    let (mut world, control) = offered(2);
    world.inject(1, elsewhere(), &control);
    world.nodes[0].up = false;
    world.run(millis(3500));
    world.nodes[0].up = true;
    world.nodes[0].address = elsewhere();
    world.impairment.loss = 0;

    world.send(0, VNI, &frame(0, 1, 1)).expect("in session");
    world.run(millis(500));
    for id in 100..120 {
        world.send(1, VNI, &frame(1, 0, id)).expect("in session");
    }
    world.run(millis(100));

    for id in 100..120 {
        assert_eq!(world.deliveries(id).get(&0), Some(&1), "frame {id}");
    }
}

/// A TAP to which nothing goes here.
fn nowhere() -> Vec<(Vni, Vec<u8>)> {
    Vec::new()
}

#[test]
fn a_sender_that_is_faster_than_the_slow_path_leaves_it_once_there_is_a_session() {
    let mut world = pair(3);
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(9));
    let now = world.now;
    let sender = &mut world.nodes[0];
    let mut slow = Vec::new();
    let mut sent: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for id in 1..64 {
        let frame = frame(0, 1, id);
        let result =
            sender
                .outbound
                .handle_frame(VNI, &frame, now, &mut sent, &mut slow, &mut nowhere());
        result.expect("queued");
    }
    world.run(millis(5));
    assert_eq!(session_at(&world, 0), SessionState::Up);
    assert!(sent.is_empty());

    let mut waiting = VecDeque::from(slow);
    let sender = &mut world.nodes[0];
    for id in 64..1000 {
        let mut slow = Vec::new();
        for _ in 0..2 {
            let frame = frame(0, 1, id);
            // What finds no room is dropped.
            let _ = sender.outbound.handle_frame(
                VNI,
                &frame,
                world.now,
                &mut sent,
                &mut slow,
                &mut nowhere(),
            );
        }
        waiting.extend(slow);
        if let Some(message) = waiting.pop_front() {
            sender.core.handle(message, world.now);
        }
    }

    assert!(sent.len() > 1000, "{} took the fast path", sent.len());
}

#[test]
fn handshake_answers_that_nobody_waits_for_are_no_work_for_the_core() {
    let mut world = pair(4);
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.recorded = Some(Vec::new());
    world.run(millis(100));
    let recorded = world.recorded.take().expect("recorded");
    let resp = recorded.into_iter().find(|(node, _, _)| *node == 1);
    let (_, _, resp) = resp.expect("a RESP");
    let mut cookie = vec![0x5a; 48];
    cookie[0] = 0x13;

    for (mut datagram, reason) in [
        (cookie, Dropped::UnknownCookie),
        (resp, Dropped::UnknownHandshake),
    ] {
        let mut slow: Vec<Message> = Vec::new();
        let now = world.now;
        let verdict = take(
            &mut world.nodes[0].inbound,
            elsewhere(),
            &mut datagram,
            now,
            &mut slow,
        );
        assert!(
            matches!(verdict, Verdict::Dropped(dropped) if dropped == reason),
            "{verdict:?}"
        );
        assert!(slow.is_empty());
    }
}

/// A slow path without room.
struct Full;

impl SlowPath for Full {
    fn submit(&mut self, _: Message) -> bool {
        false
    }
}

#[test]
fn a_session_whose_confirmation_found_no_room_is_confirmed_by_the_next_packet() {
    let mut world = pair(5);
    world.recorded = Some(Vec::new());
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(9));
    world.impairment.loss = 1000;
    world.run(millis(3));
    let recorded = world.recorded.take().expect("recorded");
    let mut packets = recorded
        .into_iter()
        .filter(|(node, _, datagram)| *node == 0 && datagram[0] != INIT);
    let (_, _, mut first) = packets.next().expect("the frame that waited");
    let (_, _, second) = packets.next().expect("the probe");
    let (now, from) = (world.now, world.nodes[0].address);

    take(
        &mut world.nodes[1].inbound,
        from,
        &mut first,
        now,
        &mut Full,
    );
    assert_eq!(session_at(&world, 1), SessionState::Down);
    world.inject(1, from, &second);

    assert_eq!(session_at(&world, 1), SessionState::Up);
}

#[test]
fn a_member_that_floods_with_control_packets_takes_a_small_share_of_the_slow_path() {
    let mut world = pair(6);
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(100));
    world.recorded = Some(Vec::new());
    world.impairment.loss = 1000;
    let now = world.now;
    for _ in 0..60 {
        let asked = world.nodes[0].core.probe(VNI, node_id(1), millis(500), now);
        asked.expect("a peer");
    }
    world.apply(0);
    let (recorded, from) = (
        world.recorded.take().expect("recorded"),
        world.nodes[0].address,
    );
    assert_eq!(recorded.len(), 60);
    let mut recorded = recorded.into_iter().map(|(_, _, datagram)| datagram);

    let mut slow: Vec<Message> = Vec::new();
    let target = &mut world.nodes[1];
    for mut datagram in recorded.by_ref().take(50) {
        take(&mut target.inbound, from, &mut datagram, now, &mut slow);
    }
    assert_eq!(slow.len(), 16);

    for message in slow.drain(..) {
        target.core.handle(message, now);
    }
    for mut datagram in recorded {
        take(&mut target.inbound, from, &mut datagram, now, &mut slow);
    }
    assert_eq!(slow.len(), 10, "there is room again");
}

/// INITs that a stranger may replay: (from, octets).
fn inits_of(recorded: &[(usize, SocketAddr, Vec<u8>)], node: usize) -> Vec<Vec<u8>> {
    let inits = recorded
        .iter()
        .filter(|(from, _, datagram)| *from == node && datagram[0] == INIT);
    inits.map(|(_, _, datagram)| datagram.clone()).collect()
}

#[test]
fn rule_2_under_load_one_source_with_a_cookie_gets_twenty_inits_a_second_and_the_others_theirs() {
    let mut world = World::new(7, 3);
    world.join(VNI, Suite::X25519, &[0, 1, 2]);
    world.recorded = Some(Vec::new());
    world.send(2, VNI, &frame(2, 1, 0)).expect("queued");
    world.run(millis(9));
    let flood = inits_of(world.recorded.as_ref().expect("recorded"), 2).remove(0);
    for _ in 0..300 {
        world.inject(1, elsewhere(), &flood);
    }
    world.recorded = Some(Vec::new());
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(millis(100));
    assert_eq!(session_at(&world, 0), SessionState::Up);
    let inits = inits_of(&world.recorded.take().expect("recorded"), 0);
    let with_cookie = inits.last().expect("an INIT with a cookie");

    let mut slow: Vec<Message> = Vec::new();
    let (now, from) = (world.now, world.nodes[0].address);
    for _ in 0..500 {
        let target = &mut world.nodes[1].inbound;
        take(target, from, &mut with_cookie.clone(), now, &mut slow);
    }
    assert!((10..=20).contains(&slow.len()), "{} reach Core", slow.len());

    world.restart(2);
    world.send(2, VNI, &frame(2, 1, 2)).expect("queued");
    world.run(millis(100));
    assert_eq!(world.deliveries(2).get(&1), Some(&1));
}

#[test]
fn rule_3_no_init_of_a_day_is_accepted_again() {
    let mut world = pair(8);
    for node in 0..2 {
        world.change(node, |state| {
            state.timers.rekey_after = millis(1000);
            state.timers.rekey_jitter = Duration::ZERO;
        });
    }
    world.recorded = Some(Vec::new());
    for id in 0..2300 {
        let _ = world.send(0, VNI, &frame(0, 1, id));
        world.run(millis(500));
    }
    let inits = inits_of(&world.recorded.take().expect("recorded"), 0);
    assert!(inits.len() > 720, "{} INITs", inits.len());
    let before = world.drops(Dropped::ReplayedInit);

    for init in &inits {
        world.inject(1, elsewhere(), init);
        world.run(millis(60));
    }

    let refused = world.drops(Dropped::ReplayedInit) - before;
    assert_eq!(refused, inits.len() as u64);
}

/// Two nodes that know each other's endpoints, and INITs of node 0 that node 1 never saw.
fn with_unseen_inits(seed: u64) -> (World, Vec<Vec<u8>>) {
    let mut world = pair(seed);
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(100));
    world.restart(0);
    world.impairment.loss = 1000;
    world.recorded = Some(Vec::new());
    for id in 1..5 {
        world.send(0, VNI, &frame(0, 1, id)).expect("queued");
        world.run(Duration::from_secs(5));
    }
    let inits = inits_of(&world.recorded.take().expect("recorded"), 0);
    assert!(inits.len() >= 10, "{} INITs", inits.len());
    (world, inits)
}

#[test]
fn rule_3_an_init_from_elsewhere_does_not_delay_one_from_where_the_peer_is() {
    let (mut world, inits) = with_unseen_inits(9);
    let home = world.nodes[0].address;

    for (at, init) in inits.iter().enumerate() {
        let from = if at % 2 == 0 { elsewhere() } else { home };
        world.inject(1, from, init);
        world.run(millis(if at % 2 == 0 { 1 } else { 60 }));
    }

    assert_eq!(world.drops(Dropped::InitTooSoon), 0);
}

#[test]
fn rule_3_inits_from_elsewhere_push_out_no_session_of_the_place_where_the_peer_is() {
    let (mut world, mut inits) = with_unseen_inits(10);
    let home = world.nodes[0].address;
    let last = inits.pop().expect("the INIT under way");
    world.impairment.loss = 0;
    world.impairment.delay = millis(200);
    world.send(0, VNI, &frame(0, 1, 77)).expect("queued");

    world.inject(1, home, &last);
    for init in inits.iter().take(6) {
        world.inject(1, elsewhere(), init);
        world.run(millis(60));
    }
    world.run(millis(100));

    assert_eq!(world.drops(Dropped::InitTooSoon), 0);
    assert_eq!(world.deliveries(77).get(&1), Some(&1));
    assert_eq!(world.drops(Dropped::UnknownSession), 0);
}

#[test]
fn a_gateway_that_shows_a_new_mac_in_each_frame_takes_a_small_share_of_the_slow_path() {
    let mut world = pair(11);
    world.change(0, |state| state.vsubnets[0].role = Role::Gateway);
    world.change(1, |state| {
        state.vsubnets[0].peers[0].role = Role::Gateway;
    });
    let core = &mut world.nodes[0].core;
    core.set_gate(VNI, 1, Time::from_nanos(u64::MAX))
        .expect("a gateway");
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(100));
    world.recorded = Some(Vec::new());
    world.impairment.loss = 1000;
    for source in 0..60 {
        let mut frame = frame(0, 1, 1);
        frame[6..12].copy_from_slice(&[2, 9, 9, 9, 9, source]);
        world.send(0, VNI, &frame).expect("a gateway bridges");
    }
    let recorded = world.recorded.take().expect("recorded");
    let (now, from) = (world.now, world.nodes[0].address);
    let target = &mut world.nodes[1];

    let mut slow: Vec<Message> = Vec::new();
    let frames = recorded.into_iter().map(|(_, _, datagram)| datagram);
    for mut datagram in frames {
        let verdict = take(&mut target.inbound, from, &mut datagram, now, &mut slow);
        assert!(matches!(verdict, Verdict::Frames(1)), "{verdict:?}");
    }

    // One more may be about the sender itself: data was received after a rest.
    assert!((10..=17).contains(&slow.len()), "{} messages", slow.len());
    for message in slow {
        target.core.handle(message, now);
    }
    let learned = target.core.stats(now).vsubnets[0].learned.len();
    assert!((10..=16).contains(&learned), "{learned} learned");
}

#[test]
fn a_probe_during_an_attempt_that_winds_down_without_a_session_sends_an_init() {
    let mut world = pair(12);
    for node in 0..2 {
        world.change(node, |state| {
            state.timers.rekey_after = millis(500);
            state.timers.rekey_jitter = millis(0);
            state.timers.reject_after = millis(1000);
        });
    }
    world.impairment.loss = 1000;
    world.send(1, VNI, &frame(1, 0, 1)).expect("queued");
    world.run(millis(1));
    world.impairment.loss = 0;
    // Node 0's own INIT leads to a session, whose time is over while node 1's attempt winds down.
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(2000));
    assert_ne!(session_at(&world, 1), SessionState::Up);

    world.recorded = Some(Vec::new());
    let now = world.now;
    let asked = world.nodes[1].core.probe(VNI, node_id(0), millis(900), now);
    asked.expect("a peer");
    world.apply(1);
    world.run(millis(100));

    let recorded = world.recorded.take().expect("recorded");
    assert!(!inits_of(&recorded, 1).is_empty());
    assert_eq!(session_at(&world, 1), SessionState::Up);
}

#[test]
fn a_rekey_jitter_of_any_length_is_no_reason_to_stop() {
    let mut world = pair(13);
    for node in 0..2 {
        world.change(node, |state| {
            state.timers.rekey_jitter = millis(1 << 63);
            state.timers.reject_after = millis(u64::MAX);
        });
    }

    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(millis(100));

    assert_eq!(session_at(&world, 0), SessionState::Up);
}

/// Hands a datagram to a node; what it delivers is of no interest here.
fn take(
    inbound: &mut Inbound,
    from: SocketAddr,
    datagram: &mut [u8],
    now: Time,
    slow: &mut impl SlowPath,
) -> Verdict {
    let mut frames: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut coalescer = Coalescer::new(&mut frames);
    inbound
        .begin(now)
        .handle_datagram(from, datagram, slow, &mut coalescer)
}
