//! KT-3: the replay window against a naive set.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use cairn_engine::offload::Coalescer;
use cairn_engine::testing::{SeededEntropy, World, frame};
use cairn_engine::{ReplayWindow, Seen, Suite, Verdict, WINDOW};

mod proof;
use proof::Proof;

const OPERATIONS: u64 = 10_000_000;

/// The window as its definition says it.
#[derive(Default)]
struct Model {
    highest: Option<u64>,
    seen: HashSet<u64>,
}

impl Model {
    fn accept(&mut self, counter: u64) -> Seen {
        let verdict = match self.highest {
            None => Seen::Newest,
            Some(highest) if counter > highest => Seen::Newest,
            Some(highest) if highest - counter >= WINDOW => Seen::TooOld,
            Some(_) if self.seen.contains(&counter) => Seen::Duplicate,
            Some(_) => Seen::Fresh,
        };
        if matches!(verdict, Seen::Newest | Seen::Fresh) {
            self.seen.insert(counter);
        }
        if verdict == Seen::Newest {
            self.highest = Some(counter);
            if self.seen.len() > 4 * WINDOW as usize {
                self.seen.retain(|seen| counter - seen < WINDOW);
            }
        }
        verdict
    }
}

/// Steps that a counter takes: near, at the window's edges, and far.
fn step(dice: &SeededEntropy, highest: u64) -> u64 {
    let near = dice.below(64);
    match dice.below(16) {
        0..6 => highest + near % 4,
        6..10 => highest.saturating_sub(near),
        10 => highest.saturating_sub(8190 + near % 4),
        11 => highest + 8190 + near % 4,
        12 => highest.saturating_sub(dice.below(9000)),
        13 => highest + dice.below(300),
        14 => highest + near * 64,
        _ => highest.saturating_sub(near * 130),
    }
}

#[test]
fn kt_3_the_window_agrees_with_a_naive_set_around_every_edge() {
    let starts = [
        0,
        1,
        8191,
        8192,
        8193,
        1 << 32,
        (1 << 48) - (1 << 20) - 9000,
    ];
    let mut wrong = 0;
    for (run, start) in starts.into_iter().enumerate() {
        let dice = SeededEntropy::new(run as u64);
        let (mut window, mut model) = (ReplayWindow::default(), Model::default());
        let mut highest = start;
        for _ in 0..OPERATIONS.div_ceil(starts.len() as u64) {
            let counter = step(&dice, highest).min((1 << 48) - 1);
            let expected = model.accept(counter);
            let right = window.check(counter) == expected && window.accept(counter) == expected;
            wrong += u64::from(!right);
            highest = highest.max(counter);
        }
    }
    assert!(proof::record(&Proof {
        id: "KT-3",
        what: "the replay window against a naive set, around 0, 8191/8192, 2^32, 2^48-2^20",
        bar: "0 of 10^7 operations differ",
        value: wrong as f64,
        unit: "operations",
        holds: wrong == 0,
        test: "replay_window",
    }));
}

#[test]
fn kt_3_of_four_receiving_threads_exactly_one_delivers_each_packet() {
    const PACKETS: u64 = 100_000;
    let mut world = World::new(1, 2);
    world.join(7, Suite::X25519, &[0, 1]);
    world.send(0, 7, &frame(0, 1, 0)).expect("queued");
    world.run(Duration::from_secs(1));
    world.nodes[1].up = false;
    world.recorded = Some(Vec::new());
    for id in 0..PACKETS {
        world.send(0, 7, &frame(0, 1, id)).expect("sent");
    }
    let packets = Arc::new(world.recorded.take().expect("recorded"));
    let (now, from) = (world.now, world.nodes[0].address);
    let start = Arc::new(Barrier::new(4));
    let threads = (0..4).map(|_| {
        let (packets, start) = (Arc::clone(&packets), Arc::clone(&start));
        let mut inbound = world.nodes[1].core.inbound();
        std::thread::spawn(move || {
            start.wait();
            let mut slow = Vec::new();
            let delivers = |(_, _, datagram): &&(usize, SocketAddr, Vec<u8>)| {
                let mut datagram = datagram.clone();
                let mut frames: Vec<(u32, Vec<u8>)> = Vec::new();
                let mut coalescer = Coalescer::new(&mut frames);
                let verdict = inbound.begin(now).handle_datagram(
                    from,
                    &mut datagram,
                    &mut slow,
                    &mut coalescer,
                );
                matches!(verdict, Verdict::Frames(1))
            };
            packets.iter().filter(delivers).count()
        })
    });
    let threads: Vec<_> = threads.collect();
    let delivered = threads
        .into_iter()
        .map(|thread| thread.join().expect("ran"));
    // Never twice; and never none: whoever falls a whole window behind meets packets that
    // another thread has delivered.
    assert_eq!(delivered.sum::<usize>() as u64, PACKETS);
}
