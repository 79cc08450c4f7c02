//! The other members of a large vSubnet in one process: engines without TAPs on real sockets,
//! each with one peer, the data plane that is measured (tests/bench/scale.py).
//!
//! `crowd COUNT NETWORK PEER_KEY PEER_ENDPOINT [FILE]`: member N (from 0) is at the address NETWORK + N
//! (IPv4), port 8002; its node ID is the number N + 1000, which its private key has
//! in octets 1 to 4 (0x40 before them, zero behind), its MAC address 02:00:01:00 and 16 bits of N. The peer has
//! the node ID 1 and the key PEER_KEY (hexadecimal). Members call the peer; with FILE they keep
//! quiet, and each has one frame for the peer as soon as FILE exists. Runs until it is killed.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_device::clock;
use cairn_device::entropy::SystemEntropy;
use cairn_device::readiness::{Epoll, Interest};
use cairn_engine::offload::{Coalescer, VnetHeader};
use cairn_engine::{
    Core, Identity, Inbound, Message, NodeId, Outbound, PeerState, Policy, Role, Secret, State,
    Suite, TapFrame, Timers, VSubnetState, Verdict, Vni,
};
use cairn_wire::Mac;

const VNI: Vni = 7;
const PORT: u16 = 8002;
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// Below what makes the data plane ask for cookies.
const JOINS_PER_SECOND: u32 = 150;
const TICK: Duration = Duration::from_millis(20);
/// Sleeping members are looked at so often: their timers are in seconds.
const TIMERS: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (needed, file) = match &arguments[..] {
        [needed @ .., file] if needed.len() == 4 => (needed, Some(Path::new(file))),
        all => (all, None),
    };
    let [count, network, key, endpoint] = needed else {
        return Err("usage: crowd COUNT NETWORK PEER_KEY PEER_ENDPOINT [FILE]".into());
    };
    let count: u16 = count.parse()?;
    let network: Ipv4Addr = network.parse()?;
    let peer = Peer {
        key: from_hex(key)?,
        endpoint: endpoint.parse()?,
        is_called: file.is_none(),
    };
    let entropy = Arc::new(SystemEntropy::new());
    let epoll = Epoll::new()?;

    let begun = Instant::now();
    let (mut members, mut ready) = (Vec::new(), Vec::new());
    let mut looked = begun;
    let mut awaited = file;
    loop {
        let due = (begun.elapsed().as_secs_f64() * f64::from(JOINS_PER_SECOND)) as usize;
        while members.len() < usize::from(count).min(due) {
            let number = members.len() as u16;
            let member = Member::join(number, network, &peer, &entropy)?;
            let token = u64::from(number);
            epoll.add(member.socket.as_fd(), token, Interest::READ)?;
            members.push(member);
        }
        epoll.wait(&mut ready, Some(TICK))?;
        for one in &ready {
            members[one.token as usize].receive()?;
        }
        if looked.elapsed() >= TIMERS || members.len() < usize::from(count) {
            looked = Instant::now();
            for member in &mut members {
                member.look_at_the_clock()?;
            }
            if awaited.is_some_and(Path::exists) {
                awaited = None;
                for member in &mut members {
                    member.talk()?;
                }
            }
        }
    }
}

struct Peer {
    key: Vec<u8>,
    endpoint: SocketAddr,
    is_called: bool,
}

struct Member {
    core: Core,
    mac: Mac,
    outbound: Outbound,
    inbound: Inbound,
    socket: UdpSocket,
}

impl Member {
    /// Binds the member's socket and lets it call the peer.
    fn join(
        number: u16,
        network: Ipv4Addr,
        peer: &Peer,
        entropy: &Arc<SystemEntropy>,
    ) -> Result<Self, Box<dyn Error>> {
        let address = Ipv4Addr::from_bits(network.to_bits() + u32::from(number));
        let socket = UdpSocket::bind((address, PORT))?;
        socket.set_nonblocking(true)?;
        let mut core = Core::new(Arc::clone(entropy) as _);
        let state = state(number, peer);
        let mac = state.vsubnets[0].macs[0];
        core.apply(state, clock::now())?;
        let mut member = Self {
            mac,
            outbound: core.outbound(),
            inbound: core.inbound(),
            core,
            socket,
        };
        member.look_at_the_clock()?;
        Ok(member)
    }

    fn receive(&mut self) -> Result<(), Box<dyn Error>> {
        let mut room = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut room) {
            let now = clock::now();
            let mut messages: Vec<Message> = Vec::new();
            let mut frames: Vec<(Vni, Vec<u8>)> = Vec::new();
            let mut coalescer = Coalescer::new(&mut frames);
            let datagram = &mut room[..length];
            let mut receiving = self.inbound.begin(now);
            let verdict = receiving.handle_datagram(from, datagram, &mut messages, &mut coalescer);
            drop(receiving);
            if let Verdict::Reply(reply) = verdict {
                self.socket.send_to(&reply.datagram, reply.to)?;
            }
            for message in messages {
                self.core.handle(message, now);
            }
        }
        self.send()
    }

    /// Sends the peer a frame.
    fn talk(&mut self) -> Result<(), Box<dyn Error>> {
        let mut frame = [&PEER_MAC.0[..], &self.mac.0, &EXPERIMENT].concat();
        frame.resize(60, 0);
        let mut frames = [TapFrame::new(VnetHeader::default(), &mut frame)];
        let mut sent = Vec::<(SocketAddr, Vec<u8>)>::new();
        let mut slow = Vec::<Message>::new();
        let mut back = Vec::<(Vni, Vec<u8>)>::new();
        let now = clock::now();
        self.outbound
            .handle_frames(VNI, &mut frames, now, &mut sent, &mut slow, &mut back)
            .map_err(|dropped| format!("a frame was dropped: {dropped:?}"))?;
        for message in slow {
            self.core.handle(message, now);
        }
        for (to, datagram) in sent {
            self.socket.send_to(&datagram, to)?;
        }
        self.send()
    }

    fn look_at_the_clock(&mut self) -> Result<(), Box<dyn Error>> {
        let now = clock::now();
        if self.core.next_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(transmit) = self.core.poll_transmit() {
            self.socket.send_to(&transmit.datagram, transmit.to)?;
        }
        while self.core.poll_event().is_some() {}
        Ok(())
    }
}

fn state(number: u16, peer: &Peer) -> State {
    let [high, low] = number.to_be_bytes();
    let own = u32::from(number) + 1000;
    let mut private = [0; 32];
    private[0] = 0x40;
    private[1..5].copy_from_slice(&own.to_be_bytes());
    State {
        cluster_id: [7; 16],
        node: Identity {
            id: NodeId(u128::from(own).to_be_bytes()),
            private_key: Secret(private),
        },
        port: PORT,
        revision: 1,
        behind_nat: false,
        timers: Timers::default(),
        vsubnets: vec![VSubnetState {
            vni: VNI,
            suite: Suite::X25519,
            tap: "none".into(),
            mtu: 1400,
            psks: Vec::new(),
            role: Role::Host,
            macs: vec![Mac([2, 0, 1, 0, high, low])],
            ips: Vec::new(),
            policy: Policy {
                bum_pps: 1_000_000,
                bum_burst: 1_000_000,
                ..Policy::default()
            },
            peers: vec![PeerState {
                id: NodeId(1_u128.to_be_bytes()),
                name: "measured".into(),
                public_key: peer.key.clone(),
                role: Role::Host,
                macs: vec![PEER_MAC],
                ips: Vec::new(),
                endpoints: vec![peer.endpoint],
                warm: peer.is_called,
            }],
        }],
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let octets = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2).unwrap_or(""), 16));
    Ok(octets.collect::<Result<_, _>>()?)
}
