//! What single steps of the packet path cost on one core, without system calls: `make bench-micro`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use cairn_engine::offload::{
    Coalescer, Content, Host, Incoming, MOST_HEADERS, Run, Split, VnetHeader,
};
use cairn_engine::switch::{Config, Member, Switch};
use cairn_engine::testing::{World, broadcast_frame, mac_of, public_key};
use cairn_engine::{
    Kind, Message, OpenKey, PeerId, PeerState, Policy, ReplayWindow, Role, SealKey, Suite,
    TapFrame, Time, Underlay, VSubnetState, Vni,
};
use cairn_wire::Mac;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const VNI: Vni = 7;
const NOW: Time = Time::from_millis(1_000);
const PEERS: usize = 1_000;
/// Header and tag of a datagram.
const AROUND: usize = 16 + 16;

fn main() {
    divan::main();
}

/// AES-256-GCM as this engine uses it, and the same by `ring`.
mod aead {
    use super::{AROUND, Bencher, BytesCount, Kind, OpenKey, SealKey, black_box};

    const OCTETS: [usize; 2] = [64, 1_400];

    #[divan::bench(args = OCTETS, sample_size = 1_000)]
    fn seal(bencher: Bencher<'_, '_>, octets: usize) {
        let key = SealKey::new(&[7; 32]);
        let frame = vec![1; octets];
        let mut datagram = vec![0; octets + AROUND];
        let mut counter = 0;
        bencher.counter(BytesCount::new(octets)).bench_local(|| {
            counter += 1;
            key.seal_gathered(
                Kind::Data,
                1,
                [2; 6],
                counter,
                &mut datagram,
                0,
                black_box(&frame),
            );
        });
    }

    /// Its own sealing comes first each time, and is subtracted by the reader.
    #[divan::bench(args = OCTETS, sample_size = 1_000)]
    fn seal_and_open(bencher: Bencher<'_, '_>, octets: usize) {
        let (seal, open) = (SealKey::new(&[7; 32]), OpenKey::new(&[7; 32]));
        let mut datagram = vec![0; octets + AROUND];
        let mut counter = 0;
        bencher.counter(BytesCount::new(octets)).bench_local(|| {
            counter += 1;
            seal.seal_in_place(Kind::Data, 1, [2; 6], counter, &mut datagram);
            open.open_in_place(black_box(&mut datagram)).is_some()
        });
    }

    #[divan::bench(args = OCTETS, sample_size = 1_000)]
    fn seal_in_place_by_aws_lc_rs(bencher: Bencher<'_, '_>, octets: usize) {
        use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key");
        let key = LessSafeKey::new(key);
        let mut plaintext = vec![1; octets];
        bencher.counter(BytesCount::new(octets)).bench_local(|| {
            let nonce = Nonce::assume_unique_for_key(black_box([3; 12]));
            key.seal_in_place_separate_tag(nonce, Aad::from(&[4; 16]), &mut plaintext)
        });
    }

    #[divan::bench(args = OCTETS, sample_size = 1_000)]
    fn seal_in_place_by_ring(bencher: Bencher<'_, '_>, octets: usize) {
        use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key");
        let key = LessSafeKey::new(key);
        let mut plaintext = vec![1; octets];
        bencher.counter(BytesCount::new(octets)).bench_local(|| {
            let nonce = Nonce::assume_unique_for_key(black_box([3; 12]));
            key.seal_in_place_separate_tag(nonce, Aad::from(&[4; 16]), &mut plaintext)
        });
    }
}

/// A TCP superframe of 40 segments of 1,340 octets.
mod superframe {
    use super::*;

    const SEGMENTS: usize = 40;
    const SIZE: usize = 1_340;
    const HEADERS: usize = 54;

    fn superframe() -> (VnetHeader, Vec<u8>) {
        let total = u16::try_from(40 + SEGMENTS * SIZE).expect("below 64 KiB");
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        frame.extend_from_slice(&total.to_be_bytes());
        frame.extend_from_slice(&[0, 1, 0x40, 0, 64, 6, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]);
        frame.extend_from_slice(&[0, 80, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0]);
        frame.resize(HEADERS + SEGMENTS * SIZE, 0);
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type: VnetHeader::TCP4,
            hdr_len: 54,
            gso_size: 1_340,
            csum_start: 34,
            csum_offset: 16,
        };
        (header, frame)
    }

    fn segment(split: &Split, frame: &[u8], index: usize, out: &mut [u8]) -> usize {
        let (headers, rest) = out.split_at_mut(HEADERS);
        split.put_headers(frame, index, headers);
        let payload = split.payload(frame, index);
        rest[..payload.len()].copy_from_slice(payload);
        HEADERS + payload.len()
    }

    #[divan::bench]
    fn split(bencher: Bencher<'_, '_>) {
        let (header, frame) = superframe();
        let mut out = [0; 2_048];
        bencher.counter(ItemsCount::new(SEGMENTS)).bench_local(|| {
            let split = Split::new(black_box(&frame), header).expect("a superframe");
            (0..split.count())
                .map(|index| segment(&split, &frame, index, &mut out))
                .sum::<usize>()
        });
    }

    struct Nowhere;

    impl Host for Nowhere {
        fn take(&mut self, run: &Run<'_, '_>) {
            let mut room = [0; MOST_HEADERS];
            if let Some((header, headers, payloads)) = run.superframe(&mut room) {
                black_box((header, headers, payloads.count()));
            }
        }
    }

    #[divan::bench]
    fn coalesce(bencher: Bencher<'_, '_>) {
        let (header, frame) = superframe();
        let split = Split::new(&frame, header).expect("a superframe");
        let mut segments = vec![vec![0; HEADERS + SIZE]; SEGMENTS];
        for (index, out) in segments.iter_mut().enumerate() {
            segment(&split, &frame, index, out);
        }
        let contents: Vec<Content> = (0..SEGMENTS).map(|index| split.content(index)).collect();
        bencher.counter(ItemsCount::new(SEGMENTS)).bench_local(|| {
            let mut host = Nowhere;
            let mut frames = Coalescer::new(&mut host);
            for (counter, (frame, content)) in (0..).zip(segments.iter().zip(&contents)) {
                let incoming = Incoming {
                    vni: VNI,
                    session: 1,
                    counter,
                    content: *content,
                    frame: black_box(frame),
                };
                if !frames.join(&incoming) {
                    assert!(frames.start(incoming));
                }
            }
            frames.finish();
        });
    }
}

/// The switch among 1,000 members, one frame a time.
mod switch {
    use super::*;

    const LEARNED: u32 = 4_000;

    fn member(number: usize, role: Role) -> Member {
        Member {
            role,
            macs: vec![mac_of(number)],
            ips: Vec::new(),
        }
    }

    fn peer(number: usize) -> PeerId {
        PeerId(u32::try_from(number).expect("few"))
    }

    /// Member 0 here, hosts as peers, and a gateway as the last, with many stations behind it.
    fn switch() -> Switch {
        switch_of(Role::Host)
    }

    fn switch_of(local: Role) -> Switch {
        let role = |number| {
            if number == PEERS {
                Role::Gateway
            } else {
                Role::Host
            }
        };
        let peers = (1..=PEERS).map(|number| (peer(number), member(number, role(number))));
        let switch = Switch::new(Config {
            local: member(0, local),
            peers: peers.collect(),
            policy: cairn_engine::switch::Policy {
                learned_cap: 8_192,
                ..cairn_engine::switch::Policy::default()
            },
            hash_seed: 7,
        });
        for number in 0..LEARNED {
            switch.learn(station(number), peer(PEERS), NOW);
        }
        if let Some(gate) = switch.gate() {
            let opened = gate.set(1, NOW + Duration::from_secs(1));
            opened.expect("the first term");
        }
        switch
    }

    fn station(number: u32) -> Mac {
        Mac::from_bits(0x0011_2200_0000 + u64::from(number))
    }

    fn frame(destination: Mac, source: Mac) -> Vec<u8> {
        [&destination.0[..], &source.0, &[0x81, 0x37], &[0; 46]].concat()
    }

    #[divan::bench]
    fn egress_to_a_bound_address(bencher: Bencher<'_, '_>) {
        let switch = switch();
        let frames: Vec<_> = (1..PEERS).map(|to| frame(mac_of(to), mac_of(0))).collect();
        let mut next = frames.iter().cycle();
        bencher.bench_local(|| switch.egress(next.next().expect("endless"), NOW).is_ok());
    }

    #[divan::bench]
    fn egress_to_a_learned_address(bencher: Bencher<'_, '_>) {
        let switch = switch();
        let frames: Vec<_> = (0..LEARNED)
            .map(|to| frame(station(to), mac_of(0)))
            .collect();
        let mut next = frames.iter().cycle();
        bencher.bench_local(|| switch.egress(next.next().expect("endless"), NOW).is_ok());
    }

    /// Of a gateway: the gate, and the stations of its LAN.
    #[divan::bench]
    fn egress_of_a_lan_to_a_bound_address(bencher: Bencher<'_, '_>) {
        let switch = switch_of(Role::Gateway);
        let frames: Vec<_> = (1..PEERS)
            .map(|to| {
                frame(
                    mac_of(to),
                    station(LEARNED + u32::try_from(to).expect("few")),
                )
            })
            .collect();
        // They begin to talk before it is measured.
        assert!(frames.iter().all(|frame| switch.egress(frame, NOW).is_ok()));
        let mut next = frames.iter().cycle();
        bencher.bench_local(|| switch.egress(next.next().expect("endless"), NOW).is_ok());
    }

    #[divan::bench]
    fn ingress_to_a_lan(bencher: Bencher<'_, '_>) {
        let switch = switch_of(Role::Gateway);
        let frames: Vec<_> = (1..PEERS)
            .map(|from| (peer(from), frame(station(LEARNED + 1), mac_of(from))))
            .collect();
        let mut next = frames.iter().cycle();
        bencher.bench_local(|| {
            let (from, frame) = next.next().expect("endless");
            switch.ingress(frame, *from, NOW).is_ok()
        });
    }

    #[divan::bench]
    fn ingress_from_a_bound_address(bencher: Bencher<'_, '_>) {
        let switch = switch();
        let frames: Vec<_> = (1..PEERS)
            .map(|from| (peer(from), frame(mac_of(0), mac_of(from))))
            .collect();
        let mut next = frames.iter().cycle();
        bencher.bench_local(|| {
            let (from, frame) = next.next().expect("endless");
            switch.ingress(frame, *from, NOW).is_ok()
        });
    }
}

mod replay_window {
    use super::{Bencher, ReplayWindow, black_box};

    #[divan::bench]
    fn in_order(bencher: Bencher<'_, '_>) {
        let mut window = ReplayWindow::default();
        let mut counter = 0;
        bencher.bench_local(|| {
            counter += 1;
            window.accept(black_box(counter))
        });
    }

    /// Pairs that have changed places, now and then by hundreds.
    #[divan::bench]
    fn reordered(bencher: Bencher<'_, '_>) {
        let mut window = ReplayWindow::default();
        let mut counter = 0_u64;
        bencher.bench_local(|| {
            counter += 1;
            let distance = if counter.is_multiple_of(64) { 512 } else { 1 };
            window.accept(black_box(counter ^ distance))
        });
    }
}

/// One frame for each of 1,000 peers in session: looked up, sealed, collected as an outbox does.
mod flood {
    use super::*;

    /// Room for so many datagrams, again and again.
    struct Collected {
        octets: Vec<u8>,
        used: usize,
    }

    impl Underlay for Collected {
        fn datagram(&mut self, to: SocketAddr, len: usize) -> &mut [u8] {
            black_box(to);
            if self.used + len > self.octets.len() {
                self.used = 0;
            }
            let start = self.used;
            self.used += len;
            &mut self.octets[start..self.used]
        }
    }

    fn described(world: &World, node: usize) -> PeerState {
        let described = &world.nodes[node];
        PeerState {
            id: described.state.node.id,
            name: format!("node-{node}"),
            public_key: public_key(Suite::X25519, &described.state.node.private_key.0),
            role: Role::Host,
            macs: vec![mac_of(node)],
            ips: Vec::new(),
            endpoints: vec![described.address],
            warm: node == 0,
        }
    }

    /// Node 0 knows all others, and they know it alone.
    fn star() -> World {
        let mut world = World::new(1, PEERS + 1);
        for node in 0..=PEERS {
            let others = if node == 0 { 1..=PEERS } else { 0..=0 };
            let peers = others.map(|other| described(&world, other)).collect();
            world.change(node, |state| {
                state.vsubnets = vec![VSubnetState {
                    vni: VNI,
                    suite: Suite::X25519,
                    tap: "cairn7".into(),
                    mtu: 1400,
                    psks: Vec::new(),
                    role: Role::Host,
                    macs: vec![mac_of(node)],
                    ips: Vec::new(),
                    policy: Policy {
                        bum_pps: 1_000_000,
                        bum_burst: 1_000_000,
                        ..Policy::default()
                    },
                    peers,
                }];
            });
        }
        world.run(Duration::from_secs(3));
        world
    }

    #[divan::bench(sample_count = 200)]
    fn to_1000_peers(bencher: Bencher<'_, '_>) {
        let mut world = star();
        let now = world.now;
        let mut frame = broadcast_frame(0, 1);
        let mut underlay = Collected {
            octets: vec![0; 128 * 1024],
            used: 0,
        };
        let mut slow: Vec<Message> = Vec::new();
        let mut back: Vec<(Vni, Vec<u8>)> = Vec::new();
        let outbound = &mut world.nodes[0].outbound;
        bencher.counter(ItemsCount::new(PEERS)).bench_local(|| {
            let frame = TapFrame::new(VnetHeader::default(), &mut frame);
            outbound.handle_frames(VNI, &mut [frame], now, &mut underlay, &mut slow, &mut back)
        });
        let sent = world.nodes[0].core.stats(now).vsubnets[0].tx_frames;
        assert!(sent >= 200 * PEERS as u64, "all are in session");
    }
}
