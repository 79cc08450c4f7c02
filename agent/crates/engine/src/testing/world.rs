//! Many nodes, one process, virtual time, and a network that loses, delays, reorders, duplicates
//! and renumbers; the same seed gives the same run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::Mac;

use crate::core::Core;
use crate::drops::Dropped;
use crate::event::Event;
use crate::ids::{NodeId, Vni};
use crate::inbound::{Inbound, Verdict};
use crate::message::Message;
use crate::offload::{Coalescer, VnetHeader};
use crate::outbound::{Outbound, TapFrame};
use crate::state::{Identity, PeerState, Policy, Secret, State, Suite, Timers, VSubnetState};
use crate::switch::Role;
use crate::testing::{SeededEntropy, public_key};
use crate::time::Time;

/// What the network does to a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    /// Lost, in thousandths.
    pub loss: u64,
    /// Sent twice, in thousandths.
    pub duplication: u64,
    /// Travels at least this long.
    pub delay: Duration,
    /// And up to this much longer, so that datagrams overtake each other.
    pub reorder: Duration,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            loss: 0,
            duplication: 0,
            delay: Duration::from_millis(5),
            reorder: Duration::ZERO,
        }
    }
}

/// A frame that reached a TAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Time,
    /// At which node.
    pub node: usize,
    /// In which vSubnet.
    pub vni: Vni,
    /// The number that `frame` put into it.
    pub id: u64,
}

/// A node.
pub struct Node {
    /// Its slow path.
    pub core: Core,
    /// Its sending half.
    pub outbound: Outbound,
    /// Its receiving half.
    pub inbound: Inbound,
    /// Where the others see it; changing it is a change of IP address or a NAT rebinding.
    pub address: SocketAddr,
    /// Its desired state; apply it with `World::apply` after a change.
    pub state: State,
    /// Frames that its engine wrote to its own TAP.
    pub told: Vec<Vec<u8>>,
    /// Frames that reached its TAP, if they are kept.
    pub kept: Option<Vec<Vec<u8>>>,
    /// Its events so far.
    pub events: Vec<Event>,
    /// The groups that its host listens to; `None`: nobody knows.
    pub listens_to: Option<Vec<Mac>>,
    /// Whether it takes part; a node that is down neither sends nor receives.
    pub up: bool,
}

/// The network and its nodes.
pub struct World {
    /// Now.
    pub now: Time,
    /// What the network does.
    pub impairment: Impairment,
    /// Octets of the largest datagram that passes; larger ones are lost, and nobody is told.
    pub carries: usize,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Frames that reached a TAP.
    pub delivered: Vec<Delivery>,
    /// Frames that a node answered from its bindings, to its own TAP.
    pub answered: Vec<(usize, Vni, Vec<u8>)>,
    /// Every datagram that was sent, with the node that sent it, if recorded.
    pub recorded: Option<Vec<(usize, SocketAddr, Vec<u8>)>>,
    flying: BinaryHeap<Reverse<Flying>>,
    dice: SeededEntropy,
    sequence: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: Time,
    sequence: u64,
    from: SocketAddr,
    to: SocketAddr,
    datagram: Vec<u8>,
}

/// The ID of a node by its number.
pub fn node_id(node: usize) -> NodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(node as u64 + 1).to_be_bytes());
    id[15] = 1;
    NodeId(id)
}

/// The MAC of a node by its number.
pub fn mac_of(node: usize) -> Mac {
    let [a, b] = u16::try_from(node).unwrap_or(u16::MAX).to_be_bytes();
    Mac([0x02, 0, 0, 0, a, b])
}

/// A frame of a local experimental EtherType that carries a number.
pub fn frame(from: usize, to: usize, id: u64) -> Vec<u8> {
    raw_frame(mac_of(from), mac_of(to), id)
}

/// The same to everybody.
pub fn broadcast_frame(from: usize, id: u64) -> Vec<u8> {
    raw_frame(mac_of(from), Mac::BROADCAST, id)
}

fn raw_frame(from: Mac, to: Mac, id: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&[0x88, 0xb5]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.resize(60, 0);
    frame
}

impl World {
    /// `count` nodes with no vSubnets, at 10.0.x.y:8002.
    pub fn new(seed: u64, count: usize) -> Self {
        let dice = SeededEntropy::new(seed);
        let nodes = (0..count)
            .map(|number| Node::new(number, dice.draw()))
            .collect();
        Self {
            now: Time::from_millis(1000),
            impairment: Impairment::default(),
            carries: usize::MAX,
            nodes,
            delivered: Vec::new(),
            answered: Vec::new(),
            recorded: None,
            flying: BinaryHeap::new(),
            dice,
            sequence: 0,
        }
    }

    /// A number below `limit`, from the world's own dice.
    pub fn roll(&self, limit: u64) -> u64 {
        self.dice.below(limit)
    }

    /// Makes these nodes the members of a vSubnet and applies it at all of them.
    pub fn join(&mut self, vni: Vni, suite: Suite, members: &[usize]) {
        for node in members.iter().copied() {
            let peers = members.iter().filter(|peer| **peer != node);
            let peers = peers.map(|peer| self.describe(*peer, suite)).collect();
            let vsubnet = VSubnetState {
                vni,
                suite,
                tap: format!("cairn{vni}"),
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
            };
            let state = &mut self.nodes[node].state;
            state.vsubnets.retain(|other| other.vni != vni);
            state.vsubnets.push(vsubnet);
            self.apply(node);
        }
    }

    fn describe(&self, node: usize, suite: Suite) -> PeerState {
        let described = &self.nodes[node];
        PeerState {
            id: described.state.node.id,
            name: format!("node-{node}"),
            public_key: public_key(suite, &described.state.node.private_key.0),
            role: Role::Host,
            macs: vec![mac_of(node)],
            ips: Vec::new(),
            endpoints: vec![described.address],
            warm: false,
        }
    }

    /// Changes the state of a node and applies it.
    pub fn change(&mut self, node: usize, change: impl FnOnce(&mut State)) {
        change(&mut self.nodes[node].state);
        self.apply(node);
    }

    /// Applies a node's state.
    ///
    /// # Panics
    /// If the state can't be applied.
    pub fn apply(&mut self, node: usize) {
        let now = self.now;
        let node_ref = &mut self.nodes[node];
        node_ref.state.revision += 1;
        let state = node_ref.state.clone();
        node_ref
            .core
            .apply(state, now)
            .expect("a state that can be applied");
        self.drain(node);
    }

    /// Removes a node from the states of all others, as its removal by the service does.
    pub fn remove_member(&mut self, vni: Vni, removed: usize) {
        let id = self.nodes[removed].state.node.id;
        for node in (0..self.nodes.len()).filter(|node| *node != removed) {
            let vsubnets = &mut self.nodes[node].state.vsubnets;
            let Some(vsubnet) = vsubnets.iter_mut().find(|vsubnet| vsubnet.vni == vni) else {
                continue;
            };
            vsubnet.peers.retain(|peer| peer.id != id);
            self.apply(node);
        }
    }

    /// Hands a frame to a node as its TAP would.
    pub fn send(&mut self, node: usize, vni: Vni, frame: &[u8]) -> Result<(), Dropped> {
        self.send_offloaded(node, vni, VnetHeader::default(), frame)
    }

    /// Hands a frame with its virtio-net header to a node as its TAP would.
    pub fn send_offloaded(
        &mut self,
        node: usize,
        vni: Vni,
        header: VnetHeader,
        frame: &[u8],
    ) -> Result<(), Dropped> {
        let mut frame = frame.to_vec();
        self.forward(node, vni, &mut [TapFrame::new(header, &mut frame)])
    }

    /// Hands frames that wait together to a node as its TAP would.
    pub fn send_many(
        &mut self,
        node: usize,
        vni: Vni,
        frames: &mut [Vec<u8>],
    ) -> Result<(), Dropped> {
        let frames = frames.iter_mut();
        let mut frames: Vec<TapFrame<'_>> = frames
            .map(|frame| TapFrame::new(VnetHeader::default(), frame))
            .collect();
        self.forward(node, vni, &mut frames)
    }

    fn forward(
        &mut self,
        node: usize,
        vni: Vni,
        frames: &mut [TapFrame<'_>],
    ) -> Result<(), Dropped> {
        let now = self.now;
        let mut sent: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
        let mut slow: Vec<Message> = Vec::new();
        let mut back: Vec<(Vni, Vec<u8>)> = Vec::new();
        let sender = &mut self.nodes[node].outbound;
        let result = sender.handle_frames(vni, frames, now, &mut sent, &mut slow, &mut back);
        let back = back.into_iter().map(|(vni, frame)| (node, vni, frame));
        self.answered.extend(back);
        for (to, datagram) in sent {
            self.launch(node, to, datagram);
        }
        self.tell(node, slow);
        result
    }

    /// Lets a datagram arrive at a node now, from anywhere.
    pub fn inject(&mut self, node: usize, from: SocketAddr, datagram: &[u8]) {
        self.arrive(node, from, datagram.to_vec());
    }

    /// Sends one frame, turns the sender's counters back as a restored snapshot does, and sends
    /// the other.
    ///
    /// # Panics
    /// If the sender has no session.
    pub fn clone_and_send(&mut self, node: usize, vni: Vni, one: &[u8], other: &[u8]) {
        self.send(node, vni, one).expect("in session");
        self.roll_back(node, vni, 1);
        self.send(node, vni, other).expect("in session");
    }

    /// Turns a node's counters back by so many packets, as a restored snapshot does.
    pub fn roll_back(&mut self, node: usize, vni: Vni, packets: u64) {
        self.nodes[node].core.turn_counters_back(vni, packets);
    }

    /// Runs for `span`.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.turn();
        }
        self.now = end;
    }

    /// Runs until `done`, at most for `limit`; returns how long it took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        let end = start + limit;
        while !done(self) {
            let at = self.next_event().filter(|at| *at <= end)?;
            self.now = self.now.max(at);
            self.turn();
        }
        Some(self.now.since(start))
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Time> {
        let flying = self.flying.peek().map(|Reverse(flying)| flying.at);
        let live = self.nodes.iter().filter(|node| node.up);
        let timers = live.filter_map(|node| node.core.next_timeout());
        timers.chain(flying).min()
    }

    /// How often the frame with this number reached each node.
    pub fn deliveries(&self, id: u64) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for delivery in self.delivered.iter().filter(|delivery| delivery.id == id) {
            *counts.entry(delivery.node).or_default() += 1;
        }
        counts
    }

    /// Drops of one kind over all nodes.
    pub fn drops(&self, reason: Dropped) -> u64 {
        let all = self.nodes.iter();
        all.map(|node| node.core.drops().get(reason)).sum()
    }

    /// Makes a node forget everything, as a restarted process does; its state is applied anew.
    pub fn restart(&mut self, node: usize) {
        let seed = self.dice.draw();
        let old = &mut self.nodes[node];
        let core = Core::new(Arc::new(SeededEntropy::new(seed)));
        old.outbound = core.outbound();
        old.inbound = core.inbound();
        old.core = core;
        self.apply(node);
    }

    fn turn(&mut self) {
        while let Some(Reverse(flying)) = self.flying.peek()
            && flying.at <= self.now
        {
            let Some(Reverse(flying)) = self.flying.pop() else {
                return;
            };
            let mut nodes = self.nodes.iter();
            let target = nodes.position(|node| node.up && node.address == flying.to);
            if let Some(target) = target {
                self.arrive(target, flying.from, flying.datagram);
            }
        }
        for node in 0..self.nodes.len() {
            let due = self.nodes[node].core.next_timeout();
            if self.nodes[node].up && due.is_some_and(|at| at <= self.now) {
                self.nodes[node].core.handle_timeout(self.now);
                self.drain(node);
            }
        }
    }

    fn arrive(&mut self, node: usize, from: SocketAddr, mut datagram: Vec<u8>) {
        let now = self.now;
        let mut slow: Vec<Message> = Vec::new();
        let mut reply = None;
        let mut frames: Vec<(Vni, Vec<u8>)> = Vec::new();
        let mut coalescer = Coalescer::new(&mut frames);
        let mut receiving = self.nodes[node].inbound.begin(now);
        match receiving.handle_datagram(from, &mut datagram, &mut slow, &mut coalescer) {
            Verdict::Reply(cookie) => reply = Some(cookie),
            Verdict::Frames(_) | Verdict::Consumed | Verdict::Dropped(_) => {}
        }
        drop(receiving);
        coalescer.finish();
        for (vni, frame) in frames {
            let id = frame.get(14..22).and_then(|id| id.try_into().ok());
            self.delivered.push(Delivery {
                at: now,
                node,
                vni,
                id: id.map_or(u64::MAX, u64::from_be_bytes),
            });
            if let Some(kept) = &mut self.nodes[node].kept {
                kept.push(frame);
            }
        }
        if let Some(cookie) = reply {
            self.launch(node, cookie.to, cookie.datagram.to_vec());
        }
        self.tell(node, slow);
    }

    fn tell(&mut self, node: usize, slow: Vec<Message>) {
        for message in slow {
            self.nodes[node].core.handle(message, self.now);
        }
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        let mut out = VecDeque::new();
        let now = self.now;
        let drained = &mut self.nodes[node];
        while let Some(look) = drained.core.poll_look() {
            let known = drained.listens_to.as_ref();
            if known.is_some_and(|groups| !groups.contains(&look.group)) {
                drained.core.prune(&look, now);
            }
        }
        while let Some(transmit) = drained.core.poll_transmit() {
            out.push_back(transmit);
        }
        while let Some((_, frame)) = drained.core.poll_frame() {
            drained.told.push(frame);
        }
        while let Some(event) = drained.core.poll_event() {
            drained.events.push(event);
        }
        for transmit in out {
            self.launch(node, transmit.to, transmit.datagram);
        }
    }

    fn launch(&mut self, node: usize, to: SocketAddr, datagram: Vec<u8>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push((node, to, datagram.clone()));
        }
        if datagram.len() > self.carries {
            return;
        }
        if !self.nodes[node].up || self.roll(1000) < self.impairment.loss {
            return;
        }
        let copies = 1 + u64::from(self.roll(1000) < self.impairment.duplication);
        for _ in 0..copies {
            let span = u64::try_from(self.impairment.reorder.as_nanos()).unwrap_or(u64::MAX - 1);
            let extra = Duration::from_nanos(self.roll(span + 1));
            self.sequence += 1;
            let flying = Flying {
                at: self.now + self.impairment.delay + extra,
                sequence: self.sequence,
                from: self.nodes[node].address,
                to,
                datagram: datagram.clone(),
            };
            self.flying.push(Reverse(flying));
        }
    }
}

impl Node {
    fn new(number: usize, seed: u64) -> Self {
        let dice = SeededEntropy::new(seed);
        let mut private = [0; 32];
        crate::entropy::Entropy::fill_secret(&dice, &mut private);
        // Below the order of P-256, so that the same octets serve both suites.
        private[0] = 0x40;
        let core = Core::new(Arc::new(dice));
        let [a, b] = u16::try_from(number + 1).unwrap_or(u16::MAX).to_be_bytes();
        Self {
            outbound: core.outbound(),
            inbound: core.inbound(),
            core,
            address: SocketAddr::from((Ipv4Addr::new(10, 0, a, b), 8002)),
            state: State {
                cluster_id: [7; 16],
                node: Identity {
                    id: node_id(number),
                    private_key: Secret(private),
                },
                port: 8002,
                revision: 0,
                behind_nat: false,
                timers: Timers::default(),
                vsubnets: Vec::new(),
            },
            told: Vec::new(),
            kept: None,
            events: Vec::new(),
            listens_to: None,
            up: true,
        }
    }
}
