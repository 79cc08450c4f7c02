//! A peer whose memory was put back to a snapshot uses its counters a second time.

use std::time::Duration;

use cairn_engine::testing::{World, frame};
use cairn_engine::{Dropped, Event, Fact, Suite};

const VNI: u32 = 7;
const EVERY: Duration = Duration::from_millis(10);

/// Two nodes, of which node 0 has sent so many frames to node 1, and heard of none.
fn one_way(seed: u64, frames: u64) -> World {
    let mut world = World::new(seed, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    send(&mut world, 0..frames);
    assert_eq!(world.delivered.len() as u64, frames);
    world
}

fn send(world: &mut World, ids: std::ops::Range<u64>) {
    for id in ids {
        world.send(0, VNI, &frame(0, 1, id)).expect("in session");
        world.run(EVERY);
    }
}

/// How long node 1 gets nothing from node 0, whose counters go back by so many packets.
fn outage(world: &mut World, packets: u64) -> Duration {
    let begun = world.now;
    world.roll_back(0, VNI, packets);
    world.delivered.clear();
    send(world, 10_000..11_000);
    let first = world.delivered.first().expect("a frame after the rollback");
    let missing = 10_999 - first.id;
    assert_eq!(
        world.delivered.len() as u64,
        missing + 1,
        "each after it once"
    );
    first.at.since(begun)
}

fn clones_seen(world: &World) -> usize {
    let seen = |event: &&Event| matches!(event.fact, Fact::CloneSeen { .. });
    world.nodes[1].events.iter().filter(seen).count()
}

#[test]
fn who_sees_it_makes_a_new_session_at_once_though_it_has_nothing_to_send() {
    let mut world = one_way(1, 100);
    let outage = outage(&mut world, 10);
    assert_eq!(clones_seen(&world), 1);
    assert!(outage < Duration::from_millis(100), "{outage:?}");
}

#[test]
fn counters_that_went_back_so_far_that_nothing_is_proved_cost_about_a_second() {
    // Further than the salts that are kept, and further than the window.
    for packets in [1_000, 9_000] {
        let mut world = one_way(2, 10_000);
        let outage = outage(&mut world, packets);
        assert_eq!(clones_seen(&world), 0);
        assert!(
            outage < Duration::from_millis(1_500),
            "{packets}: {outage:?}"
        );
    }
}

#[test]
fn a_recording_that_is_replayed_into_silence_costs_one_new_session() {
    let mut world = World::new(3, 2);
    world.join(VNI, Suite::X25519, &[0, 1]);
    world.recorded = Some(Vec::new());
    send(&mut world, 0..500);
    let recording = world.recorded.replace(Vec::new()).expect("recorded");
    world.run(Duration::from_secs(5));
    world.delivered.clear();

    for _ in 0..20 {
        let sealed = recording.iter().filter(|(from, _, datagram)| {
            *from == 0 && (datagram[0] == 0x14 || datagram[0] == 0x15)
        });
        for (from, _, datagram) in sealed {
            let source = world.nodes[*from].address;
            world.inject(1, source, datagram);
        }
        world.run(Duration::from_secs(1));
    }

    assert_eq!(world.delivered, []);
    assert_eq!(clones_seen(&world), 0);
    assert!(world.drops(Dropped::Replayed) > 5_000);
    let replies = world.recorded.take().expect("recorded");
    let inits = replies
        .iter()
        .filter(|(from, _, datagram)| *from == 1 && datagram[0] == 0x11);
    assert_eq!(inits.count(), 1);
}
