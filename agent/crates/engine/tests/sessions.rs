//! Handshakes, rekeys, roaming, removal: whole nodes over a simulated network.

use std::time::Duration;

use cairn_engine::testing::{Impairment, World, broadcast_frame, frame};
use cairn_engine::{DownReason, Dropped, Fact, Psk, Secret, SessionState, Suite, Timers};

mod proof;
use proof::Proof;

const VNI: u32 = 7;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn pair(seed: u64) -> World {
    let mut world = World::new(seed, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    world
}

fn connected(seed: u64) -> World {
    let mut world = pair(seed);
    world.send(0, VNI, &frame(0, 1, 0)).expect("queued");
    world.run(seconds(1));
    assert_eq!(world.deliveries(0).get(&1), Some(&1));
    world
}

fn session_of(world: &World, node: usize, peer: usize) -> SessionState {
    let id = cairn_engine::testing::node_id(peer);
    let stats = world.nodes[node].core.stats(world.now);
    let mut peers = stats.vsubnets[0].peers.iter();
    peers.find(|stats| stats.id == id).expect("a peer").session
}

#[test]
fn the_first_frame_to_a_peer_arrives_after_one_round_trip_for_the_handshake() {
    for suite in [Suite::X25519, Suite::P256] {
        let mut world = World::new(1, 2);
        world.join(VNI, suite, &[0, 1]);
        let start = world.now;

        world.send(0, VNI, &frame(0, 1, 5)).expect("queued");
        world.run(seconds(1));

        assert_eq!(world.delivered.len(), 1);
        assert_eq!(
            world.delivered[0].at.since(start),
            Duration::from_millis(15)
        );
        assert_eq!(session_of(&world, 0, 1), SessionState::Up);
        assert_eq!(session_of(&world, 1, 0), SessionState::Up);
    }
}

#[test]
fn frames_that_waited_for_the_handshake_arrive_in_order_and_64_at_most() {
    let mut world = pair(2);
    let accepted = (0..100)
        .filter(|id| world.send(0, VNI, &frame(0, 1, *id)).is_ok())
        .count();
    world.run(seconds(1));

    let ids: Vec<u64> = world.delivered.iter().map(|delivery| delivery.id).collect();
    assert_eq!(accepted, 64);
    assert_eq!(ids, (0..64).collect::<Vec<_>>());
    assert_eq!(world.drops(Dropped::QueueFull), 36);
}

#[test]
fn frames_wait_two_seconds_and_no_longer() {
    let mut world = pair(3);
    world.nodes[1].up = false;
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(Duration::from_millis(2100));
    world.nodes[1].up = true;
    world.run(seconds(10));

    assert_eq!(world.delivered, []);
    assert_eq!(world.drops(Dropped::QueueExpired), 1);
    assert_eq!(session_of(&world, 0, 1), SessionState::Up);
}

#[test]
fn a_broadcast_reaches_every_member_and_nobody_else() {
    let mut world = World::new(4, 10);
    world.join(VNI, Suite::X25519, &[0, 1, 2, 3, 4, 5]);
    world.join(8, Suite::X25519, &[0, 6, 7, 8, 9]);

    world.send(0, VNI, &broadcast_frame(0, 1)).expect("queued");
    world.run(seconds(1));

    assert_eq!(world.deliveries(1), (1..=5).map(|node| (node, 1)).collect());
    assert!(world.delivered.iter().all(|delivery| delivery.vni == VNI));
}

#[test]
fn an_idle_network_sets_no_timer_under_ten_seconds_and_sends_nothing() {
    let mut world = connected(5);
    world.run(seconds(15));
    world.recorded = Some(Vec::new());
    let quiet = world.next_event().map(|at| at.since(world.now));
    assert!(quiet.is_none_or(|quiet| quiet > seconds(10)), "{quiet:?}");
    world.run(seconds(400));

    assert_eq!(world.recorded.as_deref(), Some(&[][..]));
    assert_eq!(world.next_event(), None);
    assert_eq!(session_of(&world, 0, 1), SessionState::Down);
    let down = |event: &cairn_engine::Event| {
        matches!(
            event.fact,
            Fact::SessionDown {
                reason: DownReason::Expired,
                ..
            }
        )
    };
    assert!(world.nodes[0].events.iter().any(down));
}

#[test]
fn rule_6_a_session_in_use_is_renewed_and_no_frame_is_lost() {
    let mut world = connected(6);
    for id in 1..=4000 {
        world.send(0, VNI, &frame(0, 1, id)).expect("sent");
        world.run(Duration::from_millis(100));
    }
    world.run(seconds(1));

    for id in 0..=4000 {
        assert_eq!(world.deliveries(id).get(&1), Some(&1), "frame {id}");
    }
    let handshakes = world.nodes[0].core.stats(world.now).vsubnets[0].peers[0].handshakes;
    assert!(
        (3..=4).contains(&handshakes),
        "{handshakes} handshakes in 400 s"
    );
}

#[test]
fn kt_9_rekeys_each_second_under_load_lose_nothing() {
    let mut world = pair(7);
    for node in 0..2 {
        world.change(node, |state| {
            state.timers = Timers {
                rekey_after: seconds(1),
                rekey_jitter: Duration::from_millis(100),
                ..Timers::default()
            };
        });
    }
    world.impairment.reorder = Duration::from_millis(5);
    let mut id = 0;
    for _ in 0..600_000 {
        for (from, to) in [(0, 1), (1, 0)] {
            world.send(from, VNI, &frame(from, to, id)).expect("sent");
            id += 1;
        }
        world.run(Duration::from_millis(1));
    }
    world.run(seconds(1));

    let mut seen = vec![0; usize::try_from(id).expect("small")];
    for delivery in &world.delivered {
        seen[usize::try_from(delivery.id).expect("small")] += 1;
    }
    let wrong = seen.iter().filter(|count| **count != 1).count();
    let handshakes = world.nodes[0].core.stats(world.now).vsubnets[0].peers[0].handshakes;
    assert!(handshakes >= 500, "{handshakes} rekeys in 10 min");
    assert!(proof::record(&Proof {
        id: "KT-9",
        what: "rekey each second: the engine at 2,000 frames/s for 10 min of virtual time",
        bar: "0 frames lost or doubled",
        value: wrong as f64,
        unit: "frames",
        holds: wrong == 0,
        test: "sessions",
    }));
}

#[test]
fn rule_16_crossing_inits_end_in_one_session_for_both_directions() {
    for seed in 0..50 {
        let mut world = pair(seed);
        world.impairment.reorder = Duration::from_millis(10);
        world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
        world.send(1, VNI, &frame(1, 0, 2)).expect("queued");
        world.run(seconds(2));
        assert_eq!(world.deliveries(1).get(&1), Some(&1), "seed {seed}");
        assert_eq!(world.deliveries(2).get(&0), Some(&1), "seed {seed}");

        world.recorded = Some(Vec::new());
        for id in 10..20 {
            world.send(0, VNI, &frame(0, 1, id)).expect("sent");
            world.send(1, VNI, &frame(1, 0, id)).expect("sent");
        }
        world.run(seconds(1));
        let recorded = world.recorded.take().expect("recorded");
        let frames = recorded
            .iter()
            .filter(|(_, _, datagram)| datagram[0] == 0x14);
        assert_eq!(frames.count(), 20, "seed {seed}");
        let delivered = world
            .delivered
            .iter()
            .filter(|delivery| delivery.id >= 10)
            .count();
        assert_eq!(delivered, 20, "seed {seed}");
    }
}

#[test]
fn rule_16_a_peer_that_restarts_soon_after_a_handshake_is_no_crossing() {
    let cases = (0..10).flat_map(|seed| [(seed, 0), (seed, 1)]);
    let cases =
        cases.flat_map(|(seed, node)| [10, 100, 800].map(|after_ms| (seed, node, after_ms)));
    for (seed, restarted, after_ms) in cases {
        let other = 1 - restarted;
        let mut world = pair(seed);
        world
            .send(other, VNI, &frame(other, restarted, 1))
            .expect("queued");
        while world.delivered.is_empty() {
            world.run(Duration::from_millis(1));
        }
        world.run(Duration::from_millis(after_ms));
        world.restart(restarted);
        world
            .send(restarted, VNI, &frame(restarted, other, 2))
            .expect("queued");
        world.run(Duration::from_millis(100));

        world
            .send(other, VNI, &frame(other, restarted, 3))
            .expect("sent");
        world.run(Duration::from_millis(100));

        let delivered = world.deliveries(3);
        assert_eq!(
            delivered.get(&restarted),
            Some(&1),
            "seed {seed}, node {restarted}, {after_ms} ms after"
        );
    }
}

#[test]
fn rule_9_a_peer_that_moves_is_followed_at_once_and_challenged() {
    let mut world = connected(8);
    world.send(1, VNI, &frame(1, 0, 1)).expect("sent");
    world.run(seconds(1));
    let moved = "192.0.2.9:4711".parse().expect("an endpoint");
    world.nodes[0].address = moved;

    world.send(0, VNI, &frame(0, 1, 2)).expect("sent");
    world.run(Duration::from_millis(100));
    world.send(1, VNI, &frame(1, 0, 3)).expect("sent");
    world.run(Duration::from_millis(100));

    assert_eq!(world.deliveries(2).get(&1), Some(&1));
    assert_eq!(world.deliveries(3).get(&0), Some(&1));
    let followed = |event: &cairn_engine::Event| matches!(event.fact, Fact::EndpointChanged { endpoint, .. } if endpoint == moved);
    assert_eq!(
        world.nodes[1]
            .events
            .iter()
            .filter(|event| followed(event))
            .count(),
        1
    );
}

#[test]
fn rule_9_an_endpoint_that_does_not_answer_gets_three_times_its_octets_and_is_left() {
    let mut world = connected(9);
    world.send(1, VNI, &frame(1, 0, 1)).expect("sent");
    world.run(seconds(1));
    // Somebody on the path redirects one packet's source to a victim.
    world.recorded = Some(Vec::new());
    world.send(0, VNI, &frame(0, 1, 2)).expect("sent");
    let (_, _, datagram) = world.recorded.as_ref().expect("recorded")[0].clone();
    let victim = "203.0.113.5:53".parse().expect("an endpoint");
    world.inject(1, victim, &datagram);
    world.recorded = Some(Vec::new());

    for id in 3..100 {
        let _ = world.send(1, VNI, &frame(1, 0, id));
    }
    let to_victim = |world: &World| -> usize {
        let recorded = world.recorded.as_ref().expect("recorded");
        let sent = recorded.iter().filter(|(_, to, _)| *to == victim);
        sent.map(|(_, _, datagram)| datagram.len()).sum()
    };
    let data_and_challenge = to_victim(&world);
    world.run(seconds(10));
    let in_all = to_victim(&world);

    assert!(
        data_and_challenge <= 3 * datagram.len() + 42,
        "{data_and_challenge}"
    );
    assert!(
        in_all <= 3 * datagram.len() + 3 * 42,
        "{in_all} octets to the victim"
    );
    world.send(1, VNI, &frame(1, 0, 200)).expect("sent");
    world.run(seconds(1));
    assert_eq!(world.deliveries(200).get(&0), Some(&1));
}

#[test]
fn b7_behind_a_nat_a_peer_that_is_silent_stays_reachable() {
    let mut world = connected(10);
    world.change(0, |state| state.behind_nat = true);
    world.run(seconds(300));
    // The NAT rebinds; within its next keepalive the inside host is reachable again.
    world.nodes[0].address = "192.0.2.1:61000".parse().expect("an endpoint");
    world.run(seconds(25));

    world.send(1, VNI, &frame(1, 0, 9)).expect("sent");
    world.run(seconds(1));

    assert_eq!(world.deliveries(9).get(&0), Some(&1));
}

#[test]
fn rule_15_a_peer_that_is_gone_is_probed_then_looked_for_at_all_endpoints() {
    let mut world = connected(11);
    world.run(seconds(20));
    world.nodes[1].up = false;
    let start = world.now;
    world.send(0, VNI, &frame(0, 1, 1)).expect("sent");
    let wanted = |event: &cairn_engine::Event| matches!(event.fact, Fact::EndpointWanted { .. });
    let took = world.run_until(seconds(20), |world| {
        world.nodes[0].events.iter().any(wanted)
    });
    assert_eq!(took, Some(seconds(6)), "3 s of silence and three probes");

    let moved = "198.51.100.3:8002".parse().expect("an endpoint");
    world.nodes[1].address = moved;
    world.nodes[1].up = true;
    let now = world.now;
    let peer = cairn_engine::testing::node_id(1);
    world.nodes[0]
        .core
        .add_endpoints(VNI, peer, &[moved], now)
        .expect("a peer");
    world.run(seconds(1));
    world.send(0, VNI, &frame(0, 1, 2)).expect("sent");
    world.run(seconds(1));

    assert_eq!(world.deliveries(2).get(&1), Some(&1));
    assert!(world.now.since(start) < seconds(9));
}

#[test]
fn a_restarted_peer_is_in_session_again_as_soon_as_it_sends() {
    let mut world = connected(12);
    world.restart(1);
    world.send(1, VNI, &frame(1, 0, 1)).expect("queued");
    world.run(Duration::from_millis(100));
    world.send(0, VNI, &frame(0, 1, 2)).expect("sent");
    world.run(Duration::from_millis(100));

    assert_eq!(world.deliveries(1).get(&0), Some(&1));
    assert_eq!(world.deliveries(2).get(&1), Some(&1));
}

#[test]
fn rule_14_warm_peers_get_a_session_without_traffic_128_a_second() {
    let mut world = World::new(13, 257);
    let all: Vec<usize> = (0..257).collect();
    world.join(VNI, Suite::X25519, &all);
    world.restart(0);
    world.change(0, |state| {
        let vsubnet = &mut state.vsubnets[0];
        for peer in &mut vsubnet.peers {
            peer.warm = true;
        }
    });
    // Warmth counts when the peer is first seen, as after a start.
    world.recorded = Some(Vec::new());
    world.restart(0);
    world.run(seconds(1));
    let inits = |world: &World| {
        let recorded = world.recorded.as_ref().expect("recorded");
        recorded
            .iter()
            .filter(|(node, _, datagram)| *node == 0 && datagram[0] == 0x11)
            .count()
    };
    assert!(
        (128..=130).contains(&inits(&world)),
        "{} INITs",
        inits(&world)
    );
    world.run(Duration::from_millis(1100));
    assert_eq!(
        (1..257)
            .filter(|peer| session_of(&world, 0, *peer) == SessionState::Up)
            .count(),
        256
    );
}

#[test]
fn kt_6_a_removed_member_is_cut_off_at_once_while_it_blasts() {
    let mut world = connected(14);
    for id in 1..1000 {
        world.send(1, VNI, &frame(1, 0, id)).expect("sent");
        if id == 500 {
            world.remove_member(VNI, 1);
        }
        let before = world.delivered.len();
        world.run(Duration::from_millis(1));
        if id >= 500 {
            assert_eq!(
                world.delivered.len(),
                before,
                "frame delivered after the removal"
            );
        }
    }
    let down = |event: &cairn_engine::Event| {
        matches!(
            event.fact,
            Fact::SessionDown {
                reason: DownReason::Removed,
                ..
            }
        )
    };
    assert!(world.nodes[0].events.iter().any(down));
    assert_eq!(
        world.send(0, VNI, &frame(0, 1, 5000)),
        Err(Dropped::RefusedBySwitch)
    );
}

#[test]
fn a_removed_member_gets_no_answer_to_its_init() {
    let mut world = pair(15);
    world.remove_member(VNI, 1);
    world.recorded = Some(Vec::new());
    world.send(1, VNI, &frame(1, 0, 1)).expect("queued");
    world.run(seconds(20));

    let recorded = world.recorded.as_ref().expect("recorded");
    assert!(recorded.iter().all(|(node, ..)| *node == 1));
    assert!(world.nodes[0].core.drops().get(Dropped::UnknownPeer) > 0);
}

#[test]
fn psk_epochs_change_without_a_gap_and_an_unknown_one_is_met_with_silence() {
    let mut world = connected(16);
    let psk = |epoch: u16| Psk {
        epoch,
        key: Secret([epoch.to_be_bytes()[1]; 32]),
    };
    for node in 0..2 {
        world.change(node, |state| state.vsubnets[0].psks = vec![psk(1)]);
    }
    // Node 0 learns of epoch 2 first and sends with it; node 1 knows both.
    world.change(1, |state| state.vsubnets[0].psks = vec![psk(1), psk(2)]);
    world.change(0, |state| state.vsubnets[0].psks = vec![psk(2), psk(1)]);
    for node in 0..2 {
        world.restart(node);
        world
            .send(0, VNI, &frame(0, 1, 1 + node as u64))
            .expect("queued or sent");
        world.run(seconds(2));
    }
    assert_eq!(world.deliveries(1).get(&1), Some(&1));

    world.change(1, |state| state.vsubnets[0].psks = vec![psk(3)]);
    world.restart(1);
    world.restart(0);
    let before = world.drops(Dropped::UnknownEpoch);
    world.send(0, VNI, &frame(0, 1, 9)).expect("queued");
    world.run(seconds(5));
    assert_eq!(world.deliveries(9).len(), 0);
    assert!(world.drops(Dropped::UnknownEpoch) > before);
}

#[test]
fn a_wrong_psk_of_the_same_epoch_makes_no_session() {
    let mut world = pair(17);
    world.change(0, |state| {
        state.vsubnets[0].psks = vec![Psk {
            epoch: 1,
            key: Secret([1; 32]),
        }];
    });
    world.change(1, |state| {
        state.vsubnets[0].psks = vec![Psk {
            epoch: 1,
            key: Secret([2; 32]),
        }];
    });
    world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
    world.run(seconds(5));

    assert_eq!(session_of(&world, 0, 1), SessionState::Handshaking);
    assert_eq!(world.delivered, []);
    assert!(world.nodes[0].core.drops().get(Dropped::HandshakeFailed) > 0);
}

#[test]
fn applying_the_same_state_twice_changes_nothing() {
    let mut world = connected(18);
    let now = world.now;
    let state = world.nodes[0].state.clone();
    assert_eq!(world.nodes[0].core.apply(state, now), Ok(false));
    let mut newer = world.nodes[0].state.clone();
    newer.revision += 1;
    assert_eq!(world.nodes[0].core.apply(newer, now), Ok(true));
    assert_eq!(session_of(&world, 0, 1), SessionState::Up);
}

#[test]
fn a_probe_measures_the_round_trip_and_makes_a_session_if_there_is_none() {
    let mut world = pair(19);
    let peer = cairn_engine::testing::node_id(1);
    let now = world.now;
    let token = world.nodes[0]
        .core
        .probe(VNI, peer, seconds(2), now)
        .expect("a peer");
    world.change(0, |_| {});
    world.run(seconds(1));

    let outcome = world.nodes[0]
        .events
        .iter()
        .find_map(|event| match &event.fact {
            Fact::Probed {
                token: answered,
                outcome,
            } if *answered == token => Some(*outcome),
            _ => None,
        });
    let endpoint = world.nodes[1].address;
    let rtt = Duration::from_millis(10);
    assert_eq!(
        outcome,
        Some(cairn_engine::ProbeOutcome::Replied { rtt, endpoint })
    );
}

#[test]
fn b15_with_loss_reordering_and_duplication_handshakes_succeed_within_five_seconds() {
    let impairment = Impairment {
        loss: 200,
        duplication: 100,
        delay: Duration::from_millis(10),
        reorder: Duration::from_millis(50),
    };
    let mut took: Vec<Duration> = (0..1000)
        .map(|seed| {
            let mut world = pair(seed);
            world.impairment = impairment;
            world.send(0, VNI, &frame(0, 1, 1)).expect("queued");
            let up = |world: &World| {
                (0..2).all(|node| session_of(world, node, 1 - node) == SessionState::Up)
            };
            world
                .run_until(seconds(60), up)
                .expect("a session in the end")
        })
        .collect();
    took.sort();
    let p99 = took[989].as_secs_f64();
    assert!(proof::record(&Proof {
        id: "B15-handshake",
        what: "both sides in session, p99 of 1,000 at 20 % loss, 50 ms reorder, 10 % duplication",
        bar: "at most 5 s",
        value: p99,
        unit: "s",
        holds: p99 <= 5.0,
        test: "sessions",
    }));
}

#[test]
fn b15_no_session_is_lost_and_no_duplicate_delivered_on_a_bad_network() {
    let mut world = connected(20);
    world.impairment = Impairment {
        loss: 200,
        duplication: 100,
        delay: Duration::from_millis(10),
        reorder: Duration::from_millis(50),
    };
    for id in 1..=6000 {
        let _ = world.send(0, VNI, &frame(0, 1, id));
        world.run(Duration::from_millis(50));
        assert_eq!(session_of(&world, 0, 1), SessionState::Up);
    }
    world.run(seconds(1));

    assert!((1..=6000).all(|id| world.deliveries(id).get(&1).is_none_or(|times| *times == 1)));
    let delivered = world.delivered.len();
    assert!(
        (4500..=5100).contains(&delivered),
        "{delivered} of 6000 at 20 % loss"
    );
}
