//! One node under attack (BI-1, BI-2): a script of datagrams, frames, waits and netmap changes
//! against a whole engine with deterministic entropy.
//!
//! The attacker is a stranger who knows the node's public key, somebody on the path who repeats
//! and damages, and a member ("Mallory") with keys of its own and an independent implementation
//! of the handshake, so that packets are valid up to the point where the input damages them.
//!
//! What must hold, whatever the script:
//! - nothing panics, and no timer stays due (that would spin);
//! - a frame comes out only if Mallory sealed exactly these octets, once, for this node, from an
//!   address of its own, while it is a member;
//! - who proves nothing gets no answer, and no address but the netmap's gets more than three
//!   times what came from it;
//! - afterwards a proper handshake still succeeds.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use cairn_engine::offload::{Bundled, Coalescer, Content};
use cairn_engine::{
    Core, Entropy, Identity, Inbound, Kind, Message, NodeId, Outbound, PeerState, Policy, Psk,
    Role, SealKey, Secret, State, Suite, Time, Timers, VSubnetState, Verdict, Vni,
};
use cairn_wire::Mac;
use cairn_wire::header::{self, Datagram, HEADER_LEN, MAC_LEN, TAG_LEN};
use libfuzzer_sys::fuzz_target;
use snow::{Builder, HandshakeState};

const CLUSTER: [u8; 16] = [0xc1; 16];
const VNI: u32 = 7;
const EPOCH: u16 = 3;
const PSK: [u8; 32] = [0x5a; 32];
const PATTERN: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";
/// A script does no more than this; longer ones only take longer.
const MAX_STEPS: usize = 64;
const MAX_SESSIONS: usize = 8;

const NODE: u8 = 1;
const MALLORY: u8 = 2;
const BYSTANDER: u8 = 3;

static NODE_PUBLIC: LazyLock<[u8; 32]> = LazyLock::new(|| public_of(NODE));
static MALLORY_PUBLIC: LazyLock<[u8; 32]> = LazyLock::new(|| public_of(MALLORY));
static BYSTANDER_PUBLIC: LazyLock<[u8; 32]> = LazyLock::new(|| public_of(BYSTANDER));

fuzz_target!(|octets: &[u8]| {
    let mut input = Input(octets);
    let mut attack = Attack::new();
    for _ in 0..MAX_STEPS {
        let Some(step) = input.octet() else {
            break;
        };
        attack.step(step, &mut input);
    }
    if octets.first().is_some_and(|choice| choice & 0x80 != 0) {
        attack.proper_handshake_succeeds();
    }
});

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> usize {
        usize::from(self.octet().unwrap_or(0))
    }

    fn octets(&mut self) -> Vec<u8> {
        let len = self.number().min(self.0.len());
        let (octets, rest) = self.0.split_at(len);
        self.0 = rest;
        octets.to_vec()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.octet().unwrap_or(0))
    }

    /// Damages up to three octets, then perhaps the length.
    fn damage(&mut self, octets: &mut Vec<u8>) {
        let choice = self.number();
        for _ in 0..choice & 3 {
            let at = self.number();
            let with = self.number();
            if let Some(octet) = octets.get_mut(at) {
                *octet ^= u8::try_from(with).expect("an octet");
            }
        }
        match choice >> 2 & 3 {
            1 => octets.truncate(self.number()),
            2 => octets.extend(self.octets()),
            _ => {}
        }
    }
}

/// Deterministic: the digest of a counter.
struct Counted(AtomicU64);

impl Entropy for Counted {
    fn fill_secret(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            let block = digest::digest(&digest::SHA256, &number.to_be_bytes());
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
        }
    }

    fn salt(&self) -> [u8; 6] {
        let mut salt = [0; 6];
        self.fill_secret(&mut salt);
        salt
    }

    fn has_cpu_rng(&self) -> bool {
        true
    }
}

/// A session as Mallory has it.
struct Sealing {
    key: SealKey,
    receiver: u32,
    next: u64,
    /// Where the node sent the RESP without which nobody has the key.
    offered_to: Option<SocketAddr>,
}

struct Attack {
    core: Core,
    inbound: Inbound,
    outbound: Outbound,
    now: Time,
    is_member: bool,
    drawn: u64,
    /// Mallory's INITs that wait for an answer, by its index; whether with the right PSK, which
    /// only the answer shows (psk2).
    pending: HashMap<u32, (HandshakeState, bool)>,
    sessions: Vec<Sealing>,
    /// All that Mallory sent, for repeating.
    history: Vec<Vec<u8>>,
    /// The node's INITs to Mallory.
    inits: Vec<Vec<u8>>,
    /// DATA that is authentic, with its frame; taken out when it is delivered.
    authentic: HashMap<Vec<u8>, Vec<u8>>,
    /// All messages of Mallory's, as far as they are authentic.
    genuine: HashSet<Vec<u8>>,
    /// What proves that Mallory is where the RESP of its session went, if it comes from there.
    proofs: HashMap<Vec<u8>, SocketAddr>,
    /// Where Mallory has proved to be: as much as the node likes may be sent there (rule 9).
    proved: HashSet<SocketAddr>,
    received: HashMap<SocketAddr, usize>,
    sent: HashMap<SocketAddr, usize>,
}

impl Attack {
    fn new() -> Self {
        let mut core = Core::new(Arc::new(Counted(AtomicU64::new(0))));
        let now = Time::from_millis(60_000);
        core.apply(state(true), now).expect("a valid state");
        Self {
            inbound: core.inbound(),
            outbound: core.outbound(),
            core,
            now,
            is_member: true,
            drawn: 0,
            pending: HashMap::new(),
            sessions: Vec::new(),
            history: Vec::new(),
            inits: Vec::new(),
            authentic: HashMap::new(),
            genuine: HashSet::new(),
            proofs: HashMap::new(),
            proved: HashSet::new(),
            received: HashMap::new(),
            sent: HashMap::new(),
        }
    }

    fn step(&mut self, step: u8, input: &mut Input<'_>) {
        let from = address(step >> 4 & 3);
        match step & 15 {
            0 => self.deliver(from, input.octets()),
            1 | 2 => self.send_init(from, input),
            3..=5 => self.send_data(from, input),
            6 | 7 => self.send_control(from, input),
            8 => self.repeat(from, input),
            9 => self.answer_init(from, input),
            10 => self.send_cookie(from, input),
            11 => self.send_with_mac1(from, input),
            12 => self.wait(input),
            13 => self.frame_from_the_tap(input),
            14 => self.change_netmap(input),
            _ => self.core.note_waiting(input.number() * 8),
        }
        self.settle();
    }

    /// An INIT of Mallory's: its payload, its header or its octets may be the input's.
    fn send_init(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let choice = input.number();
        let (mut vni, mut epoch, mut psk) = (VNI, EPOCH, PSK);
        let mut payload = [0; header::INIT_PAYLOAD_LEN];
        payload[..8].copy_from_slice(&node_id(MALLORY).agent_id());
        match choice & 7 {
            1 => vni = u32::from_be_bytes(input.array()),
            2 => epoch = u16::from_be_bytes(input.array()),
            3 => psk = [0; 32],
            4 => payload = input.array(),
            5 => payload[8..].copy_from_slice(&input.array::<16>()),
            _ => {}
        }
        let datagram = self.make_init(vni, epoch, &psk, &payload);
        self.send(from, datagram, input);
    }

    fn make_init(&mut self, vni: u32, epoch: u16, psk: &[u8; 32], payload: &[u8]) -> Vec<u8> {
        self.drawn += 1;
        let index = u32::try_from(self.drawn).expect("few");
        let head = header::init(index, vni, epoch, 1);
        let mut state = noise(&head, vni, psk, self.drawn, |builder| {
            builder
                .remote_public_key(&*NODE_PUBLIC)
                .expect("once")
                .build_initiator()
        });
        let mut message = [0; 256];
        let len = state.write_message(payload, &mut message).expect("fits");
        let mut datagram = [&head[..], &message[..len], &[0; 2 * MAC_LEN]].concat();
        fill_mac1(&mut datagram);
        self.pending.insert(index, (state, *psk == PSK));
        datagram
    }

    fn send_data(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let choice = input.number();
        let mut frame = [&[0, 0][..], &frame(choice & 7)].concat();
        if choice & 8 != 0 {
            frame.extend(input.octets());
        }
        if choice & 32 != 0 {
            frame[..2].copy_from_slice(&input.array::<2>());
        }
        if choice & 64 != 0 {
            let len = u16::try_from(frame.len() - 2).expect("short").to_be_bytes();
            frame = [&[0xc0, 0, len[0], len[1]][..], &frame].concat();
        }
        if choice & 16 != 0 {
            input.damage(&mut frame);
        }
        if let Some(datagram) = self.seal(Kind::Data, &frame, input) {
            self.authentic.insert(datagram.clone(), frame);
            self.send(from, datagram, input);
        }
    }

    fn send_control(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let plaintext = input.octets();
        if let Some(datagram) = self.seal(Kind::Control, &plaintext, input) {
            self.send(from, datagram, input);
        }
    }

    /// Seals on one of the sessions, mostly with the next counter.
    fn seal(&mut self, kind: Kind, plaintext: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
        let choice = input.number();
        let at = (choice & 15).checked_rem(self.sessions.len())?;
        let session = &mut self.sessions[at];
        let counter = match choice >> 4 {
            1 => session.next.saturating_sub(1),
            2 => session.next + 9_000,
            3 => u64::from_be_bytes(input.array()) % header::COUNTER_LIMIT,
            _ => session.next,
        };
        session.next = session.next.max(counter + 1) % header::COUNTER_LIMIT;
        let salt = [u8::try_from(choice).expect("an octet"); 6];
        let mut datagram = vec![0; HEADER_LEN + plaintext.len() + TAG_LEN];
        datagram[HEADER_LEN..HEADER_LEN + plaintext.len()].copy_from_slice(plaintext);
        session
            .key
            .seal_in_place(kind, session.receiver, salt, counter, &mut datagram);
        if let Some(offered_to) = session.offered_to {
            self.proofs.insert(datagram.clone(), offered_to);
        }
        Some(datagram)
    }

    fn repeat(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let Some(at) = input.number().checked_rem(self.history.len()) else {
            return;
        };
        let mut datagram = self.history[at].clone();
        input.damage(&mut datagram);
        self.deliver(from, datagram);
    }

    /// Mallory answers the node's INIT: its payload or its octets may be the input's.
    fn answer_init(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let Some(init) = self.inits.pop() else {
            return;
        };
        let Ok(Datagram::Init(view)) = Datagram::parse(&init) else {
            panic!("the node sent an INIT that can't be parsed");
        };
        self.drawn += 1;
        let mut state = noise(&view.header(), VNI, &PSK, self.drawn, |builder| {
            builder.build_responder()
        });
        let mut message = [0; 256];
        state
            .read_message(view.noise(), &mut message)
            .expect("the node's INIT is sound");
        let index = u32::try_from(self.drawn).expect("few");
        let mut payload = [0; header::RESP_PAYLOAD_LEN];
        payload[4..7].copy_from_slice(&index.to_be_bytes()[1..]);
        if input.number() & 7 == 1 {
            payload = input.array();
        }
        let len = state.write_message(&payload, &mut message).expect("fits");
        let head = header::resp(index, view.sender());
        let mut datagram = [&head[..], &message[..len], &[0; 2 * MAC_LEN]].concat();
        fill_mac1(&mut datagram);
        let (_, to_initiator) = state.dangerously_get_raw_split();
        self.keep_session(&to_initiator, view.sender(), None);
        self.send(from, datagram, input);
    }

    /// A COOKIE of a hostile responder, sealed as it should be.
    fn send_cookie(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let Some(init) = self.inits.last() else {
            return;
        };
        let Ok(Datagram::Init(view)) = Datagram::parse(init) else {
            panic!("the node sent an INIT that can't be parsed");
        };
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"cookie");
        context.update(&*MALLORY_PUBLIC);
        context.update(&view.macs().mac1());
        let key = UnboundKey::new(&AES_256_GCM, context.finish().as_ref()).expect("32 octets");
        let head = header::cookie(view.sender(), input.array());
        let mut value = input.array::<16>();
        let nonce = Nonce::try_assume_unique_for_key(&head[4..]).expect("12 octets");
        let tag = LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce, Aad::from(&head), &mut value)
            .expect("short");
        let datagram = [&head[..], &value, tag.as_ref()].concat();
        self.send(from, datagram, input);
    }

    /// What a stranger can do who knows the node's public key: any INIT or RESP with a right mac1.
    fn send_with_mac1(&mut self, from: SocketAddr, input: &mut Input<'_>) {
        let choice = input.number();
        let mut datagram = if choice & 1 == 0 {
            vec![0; header::init_len(32 + (choice >> 1 & 1))]
        } else {
            vec![0; header::resp_len(32 + (choice >> 1 & 1))]
        };
        let content = input.octets();
        let len = content.len().min(datagram.len());
        datagram[..len].copy_from_slice(&content[..len]);
        datagram[0] = 0x11 + (datagram[0] & 1);
        fill_mac1(&mut datagram);
        self.deliver(from, datagram);
    }

    fn wait(&mut self, input: &mut Input<'_>) {
        const WAITS_MS: [u64; 8] = [1, 60, 250, 1_000, 3_000, 10_000, 125_000, 200_000];
        let until = self.now + Duration::from_millis(WAITS_MS[input.number() % 8]);
        // In the steps that the engine asks for, as its owner does; a long wait is cut short.
        for _ in 0..200 {
            match self.core.next_timeout().filter(|next| *next < until) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
            self.settle();
        }
        self.now = until;
    }

    fn frame_from_the_tap(&mut self, input: &mut Input<'_>) {
        let choice = input.number();
        let mut frame = frame(choice & 7);
        if frame.len() >= 12 && choice & 8 == 0 {
            let (to, from) = frame.split_at_mut(6);
            to.swap_with_slice(&mut from[..6]);
        }
        input.damage(&mut frame);
        let mut datagrams: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
        let mut messages: Vec<Message> = Vec::new();
        let mut back: Vec<(Vni, Vec<u8>)> = Vec::new();
        let _ = self.outbound.handle_frame(
            VNI,
            &frame,
            self.now,
            &mut datagrams,
            &mut messages,
            &mut back,
        );
        for (to, datagram) in datagrams {
            self.note_sent(to, datagram);
        }
        for message in messages {
            self.core.handle(message, self.now);
        }
    }

    fn change_netmap(&mut self, input: &mut Input<'_>) {
        self.is_member = input.number() & 1 == 0;
        self.core
            .apply(state(self.is_member), self.now)
            .expect("a valid state");
    }

    /// Sends what Mallory made, perhaps damaged on the way.
    fn send(&mut self, from: SocketAddr, datagram: Vec<u8>, input: &mut Input<'_>) {
        self.genuine.insert(authentic_part(&datagram).to_vec());
        self.history.push(datagram.clone());
        let mut arrives = datagram;
        input.damage(&mut arrives);
        self.deliver(from, arrives);
    }

    fn deliver(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        *self.received.entry(from).or_default() += datagram.len();
        if self.proofs.get(&datagram) == Some(&from) {
            self.proved.insert(from);
        }
        let sent_before = self.sent.get(&from).copied().unwrap_or(0);
        let mut opened = datagram.clone();
        let mut messages: Vec<Message> = Vec::new();
        let mut frames: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut coalescer = Coalescer::new(&mut frames);
        let verdict = self.inbound.begin(self.now).handle_datagram(
            from,
            &mut opened,
            &mut messages,
            &mut coalescer,
        );
        coalescer.finish();
        let mut reply = None;
        match verdict {
            Verdict::Frames(number) => {
                assert_eq!(number, frames.len());
                let sealed = self.authentic.remove(&datagram);
                let sealed = sealed.expect("never sealed, or seen before");
                assert!(self.is_member, "from a removed member");
                let mut sealed = frames_of(&sealed).into_iter();
                for (vni, frame) in frames {
                    assert_eq!(vni, VNI);
                    assert!(sealed.any(|one| one == frame), "never sealed");
                    assert_eq!(frame[6..12], mac(MALLORY).0, "from another's address");
                    let to_us = frame[..6] == mac(NODE).0 || frame[0] & 1 == 1;
                    assert!(to_us, "for another node");
                }
            }
            Verdict::Reply(cookie) => reply = Some(cookie),
            Verdict::Consumed | Verdict::Dropped(_) => {}
        }
        if let Some(cookie) = reply {
            assert_eq!(cookie.to, from);
            self.note_sent(cookie.to, cookie.datagram.to_vec());
        }
        for message in messages {
            self.core.handle(message, self.now);
        }
        self.drain();
        let answered = self.sent.get(&from).copied().unwrap_or(0) - sent_before;
        if is_in_netmap(from) || self.genuine.contains(authentic_part(&datagram)) {
            return;
        }
        if !has_mac1(&datagram) {
            assert_eq!(answered, 0, "a stranger got an answer");
        } else {
            assert!(
                answered <= datagram.len(),
                "an answer of {answered} to {} octets from {from}",
                datagram.len()
            );
        }
    }

    /// Runs what is due and takes what the node sends.
    fn settle(&mut self) {
        self.core.handle_timeout(self.now);
        self.drain();
        assert!(
            self.core.next_timeout().is_none_or(|next| next > self.now),
            "a timer stays due"
        );
        let _ = self.core.stats(self.now);
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.core.poll_transmit() {
            self.note_sent(transmit.to, transmit.datagram);
        }
        while self.core.poll_event().is_some() {}
    }

    fn note_sent(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        let sent = self.sent.entry(to).or_default();
        *sent += datagram.len();
        let received = self.received.get(&to).copied().unwrap_or(0);
        assert!(
            is_in_netmap(to) || self.proved.contains(&to) || *sent <= 3 * received,
            "{sent} octets to {to} for {received}"
        );
        match Datagram::parse(&datagram) {
            Err(_) => panic!("the node sent what is no datagram"),
            Ok(Datagram::Resp(resp)) => {
                let waiting = self.pending.remove(&resp.receiver());
                let Some((mut state, right_psk)) = waiting else {
                    return;
                };
                let mut payload = [0; 256];
                let read = state.read_message(resp.noise(), &mut payload);
                assert_eq!(read.is_ok(), right_psk, "the node's RESP");
                let Ok(len) = read else { return };
                assert_eq!(len, header::RESP_PAYLOAD_LEN);
                let (to_responder, _) = state.dangerously_get_raw_split();
                self.keep_session(&to_responder, resp.sender(), Some(to));
            }
            Ok(Datagram::Init(init)) => {
                if init.vni() == VNI && to == address(1) {
                    self.inits.push(datagram);
                }
            }
            Ok(_) => {}
        }
    }

    fn keep_session(&mut self, key: &[u8; 32], receiver: u32, offered_to: Option<SocketAddr>) {
        if self.sessions.len() == MAX_SESSIONS {
            self.sessions.remove(0);
        }
        self.sessions.push(Sealing {
            key: SealKey::new(key),
            receiver,
            next: 0,
            offered_to,
        });
    }

    fn proper_handshake_succeeds(&mut self) {
        if !self.is_member {
            self.is_member = true;
            self.core.apply(state(true), self.now).expect("valid");
        }
        self.core.note_waiting(0);
        self.now = self.now + Duration::from_secs(3);
        self.settle();
        let mut payload = [0; header::INIT_PAYLOAD_LEN];
        payload[..8].copy_from_slice(&node_id(MALLORY).agent_id());
        let init = self.make_init(VNI, EPOCH, &PSK, &payload);
        self.genuine.insert(authentic_part(&init).to_vec());
        self.sessions.clear();
        self.deliver(address(1), init);
        assert_eq!(self.sessions.len(), 1, "a proper INIT was not answered");

        let frame = [&[0, 0][..], &frame(0)].concat();
        let data = self.seal(Kind::Data, &frame, &mut Input(&[]));
        let data = data.expect("there is a session");
        self.genuine.insert(authentic_part(&data).to_vec());
        self.authentic.insert(data.clone(), frame);
        self.deliver(address(1), data.clone());
        assert!(
            !self.authentic.contains_key(&data),
            "a proper frame was not delivered"
        );
    }
}

/// The node with Mallory, or without, and a bystander.
fn state(with_mallory: bool) -> State {
    let peer = |number: u8, public: &[u8; 32]| PeerState {
        id: node_id(number),
        name: format!("peer-{number}"),
        public_key: public.to_vec(),
        role: Role::Host,
        macs: vec![mac(number)],
        ips: vec![ip(number)],
        endpoints: vec![address(number - 1)],
        warm: false,
    };
    let mut peers = vec![peer(BYSTANDER, &BYSTANDER_PUBLIC)];
    if with_mallory {
        peers.push(peer(MALLORY, &MALLORY_PUBLIC));
    }
    State {
        cluster_id: CLUSTER,
        node: Identity {
            id: node_id(NODE),
            private_key: Secret([NODE; 32]),
        },
        port: 8002,
        revision: 1,
        behind_nat: false,
        timers: Timers::default(),
        vsubnets: vec![VSubnetState {
            vni: VNI,
            suite: Suite::X25519,
            tap: "cairn7".to_owned(),
            mtu: 1400,
            psks: vec![Psk {
                epoch: EPOCH,
                key: Secret(PSK),
            }],
            role: Role::Host,
            macs: vec![mac(NODE)],
            ips: vec![ip(NODE)],
            policy: Policy::default(),
            peers,
        }],
    }
}

/// What a plaintext holds.
fn frames_of(plaintext: &[u8]) -> Vec<Vec<u8>> {
    match Content::split(plaintext) {
        None => Vec::new(),
        Some((Content::Bundle, rest)) => Bundled::new(rest)
            .flatten()
            .map(|(_, frame)| frame.to_vec())
            .collect(),
        Some((_, frame)) => vec![frame.to_vec()],
    }
}

/// Frames of Mallory's to start from.
fn frame(number: usize) -> Vec<u8> {
    let head = |to: Mac, ethertype: u16, payload: &[u8]| {
        [
            &to.0[..],
            &mac(MALLORY).0,
            &ethertype.to_be_bytes(),
            payload,
        ]
        .concat()
    };
    let arp = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &mac(MALLORY).0,
        &[10, 7, 0, MALLORY],
        &[0; 6],
        &[10, 7, 0, NODE],
    ]
    .concat();
    match number {
        0 => head(mac(NODE), 0x8137, b"payload"),
        1 => head(Mac::BROADCAST, 0x0806, &arp),
        2 => head(mac(BYSTANDER), 0x8137, b"payload"),
        3 => head(mac(NODE), 0x0800, &[0x45; 40]),
        4 => head(mac(NODE), 0x86dd, &[0x60; 60]),
        5 => head(Mac::BROADCAST, 0x8100, &[0, 5, 8, 6]),
        6 => head(mac(200), 0x88b5, &[]),
        _ => Vec::new(),
    }
}

/// 1 and 2 are the netmap's endpoints of Mallory and the bystander.
fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 8002))
}

fn is_in_netmap(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(ip) if matches!(ip.octets()[3], 1 | 2))
}

fn node_id(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn ip(number: u8) -> IpAddr {
    IpAddr::from([10, 7, 0, number])
}

fn public_of(number: u8) -> [u8; 32] {
    use aws_lc_rs::agreement::{PrivateKey, X25519};
    let key = PrivateKey::from_private_key(&X25519, &[number; 32]).expect("32 octets");
    let public = key.compute_public_key().expect("a valid key");
    public.as_ref().try_into().expect("32 octets")
}

fn noise(
    head: &[u8; HEADER_LEN],
    vni: u32,
    psk: &[u8; 32],
    ephemeral: u64,
    build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> HandshakeState {
    let prologue = [b"VSN1", &[1][..], &CLUSTER, &vni.to_be_bytes(), head].concat();
    let mut secret = [0xee; 32];
    secret[..8].copy_from_slice(&ephemeral.to_be_bytes());
    let builder = Builder::new(PATTERN.parse().expect("a known pattern"))
        .local_private_key(&[MALLORY; 32])
        .and_then(|builder| builder.prologue(&prologue))
        .and_then(|builder| builder.psk(2, psk))
        .expect("each is given once")
        .fixed_ephemeral_key_for_testing_only(&secret);
    build(builder).expect("all that is needed is there")
}

/// A handshake message but for mac2, which proves an address and nothing of the content.
fn authentic_part(datagram: &[u8]) -> &[u8] {
    match Datagram::parse(datagram) {
        Ok(Datagram::Init(init)) => init.macs().before_mac2(),
        Ok(Datagram::Resp(resp)) => resp.macs().before_mac2(),
        _ => datagram,
    }
}

fn mac1_key() -> &'static hmac::Key {
    static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
        let material = [&b"mac1"[..], &*NODE_PUBLIC].concat();
        let digest = digest::digest(&digest::SHA256, &material);
        hmac::Key::new(hmac::HMAC_SHA256, digest.as_ref())
    });
    &KEY
}

fn mac1_of(datagram: &[u8]) -> Option<([u8; MAC_LEN], usize)> {
    let at = datagram.len().checked_sub(2 * MAC_LEN)?;
    let tag = hmac::sign(mac1_key(), &datagram[..at]);
    let mac1 = *tag.as_ref().first_chunk()?;
    Some((mac1, at))
}

fn fill_mac1(datagram: &mut [u8]) {
    if let Some((mac1, at)) = mac1_of(datagram) {
        datagram[at..at + MAC_LEN].copy_from_slice(&mac1);
    }
}

fn has_mac1(datagram: &[u8]) -> bool {
    mac1_of(datagram).is_some_and(|(mac1, at)| datagram[at..at + MAC_LEN] == mac1)
}
