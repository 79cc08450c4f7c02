//! One vSubnet's Ethernet switch, as this node sees it.
//!
//! Pure: frames and `now` in, verdicts out. Everything takes `&self`; nothing on the packet
//! path locks or allocates. What the netmap binds is authoritative; addresses are learned
//! behind gateways only, and never one that is bound.
//!
//! What the users of an Ethernet get:
//! - A frame to a bound or learned address goes to that one member.
//! - Broadcast and multicast go to every member; but a host's question who has an address that
//!   the netmap binds is answered here (RFC 9161).
//! - A frame to an address nobody knows goes to the gateways: all stations of hosts are bound,
//!   so that only a LAN can hold an unknown one. Without gateways it is refused, and counted.
//! - The three kinds of copies share one budget per sending member, kept by the sender and,
//!   because that might be hostile, again by each receiver. A gateway has a larger one, of which
//!   no station behind it can use up more than a part, and one for what goes to its LAN.
//! - A gateway carries nothing but loop probes while its gate is closed, which it is until
//!   somebody opens it for a short time.
//! - A frame is never sent back to where it came from, nor passed on between peers.
//! - Any EtherType, tagged or not, passes; checks look through two VLAN tags and SNAP.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_wire::ethernet::Frame;
use cairn_wire::{Error, Mac};

use crate::{PeerId, Time};

mod answer;
mod bindings;
mod edge;
mod gate;
mod keyed;
mod learned;
mod policer;
mod probe;
mod refused;
mod sender;

pub use answer::{Answer, Asked};
pub use gate::{Gate, OlderTerm, Standing};
pub use probe::{GROUP as PROBE_GROUP, is_loop_probe};
pub use refused::Refused;

use answer::{Counters, Question};
use bindings::{Bindings, Owner};
use edge::{Edge, Heard};
use keyed::Keyed;
use learned::{GatewayNumber, Inserted, LearnedTable};
use policer::{Policer, Rate};
use refused::Refusals;
use sender::Sender;

/// What a member's attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One machine: sends from its own addresses only.
    Host,
    /// A bridge to a LAN: sends from any address that is not bound to another member.
    Gateway,
}

/// A member's role and the addresses bound to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the attachment is.
    pub role: Role,
    /// Its MAC addresses, from the netmap.
    pub macs: Vec<Mac>,
    /// Its IP addresses, from the netmap; link-local ones need not be listed.
    pub ips: Vec<IpAddr>,
}

/// What the members of a vSubnet enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Broadcast, unknown unicast and multicast frames per second and sending host; 0: none.
    pub bum_pps: u32,
    /// How many of them may come at once; 0: none.
    pub bum_burst: u32,
    /// The most of them that a gateway lets pass in any second, in each direction; 0: none.
    pub gateway_bum_pps: u32,
    /// The same of one station behind this gateway, a second in the long run; a quarter at once.
    pub gateway_source_bum_pps: u32,
    /// How long a learned address lives without a frame from it.
    pub ageing: Duration,
    /// How many addresses are learned at most; rounded up to a multiple of 16.
    pub learned_cap: usize,
    /// Whether a host may answer as a DHCP server. Then members' addresses come from there, the
    /// netmap can't know them all, and a host may claim any that is bound to nobody.
    pub dhcp_server_from_hosts: bool,
    /// Whether a host may send IPv6 router advertisements and redirects (RFC 6105).
    pub ra_from_hosts: bool,
    /// Addresses that are bound to nobody and that any member may claim, one after the other:
    /// virtual ones, as of VRRP.
    pub shared_ips: Vec<IpAddr>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            bum_pps: 200,
            bum_burst: 400,
            gateway_bum_pps: 1_000,
            gateway_source_bum_pps: 200,
            ageing: Duration::from_secs(300),
            learned_cap: 4096,
            dhcp_server_from_hosts: true,
            ra_from_hosts: false,
            shared_ips: Vec::new(),
        }
    }
}

/// All that a switch is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's own attachment.
    pub local: Member,
    /// The other members, each once.
    pub peers: Vec<(PeerId, Member)>,
    /// What is enforced.
    pub policy: Policy,
    /// Any secret number: keys the hashes of addresses, so that nobody can aim at a bucket.
    pub hash_seed: u64,
}

/// Where a frame from the TAP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress<'a> {
    /// To one peer.
    Unicast(PeerId),
    /// A copy to each of these; never empty.
    Flood(&'a [PeerId]),
    /// Nowhere: this answer goes back to the TAP.
    Answer(Answer),
}

/// A frame from a peer that says nothing it may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Hand this to [`Switch::learn`] (by the slow path's owner): the address is new behind the
    /// peer. `None` for nearly all frames.
    pub learn: Option<Mac>,
    /// Its source was heard on this gateway's own LAN a moment ago.
    pub reflected: bool,
    /// Why it doesn't go to the TAP all the same; counted already.
    pub withheld: Option<Refused>,
}

/// What became of an address that was to be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learning {
    /// Not known before, or aged out.
    New,
    /// Moved here from this peer.
    Moved(PeerId),
    /// Known already.
    Known,
    /// Not learned: the netmap binds it, the peer is no gateway, or the table is full of
    /// stations that talk.
    Refused,
}

/// A learned address, for `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The address.
    pub mac: Mac,
    /// Behind which peer.
    pub peer: PeerId,
    /// Since its last frame; up to a second too long.
    pub age: Duration,
}

/// How often a peer sent from, or claimed, addresses that are not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoofing {
    /// Who.
    pub peer: PeerId,
    /// The source address of the last such frame.
    pub mac: Mac,
    /// Such frames since the peer is known.
    pub count: u64,
}

/// One vSubnet's switch: a snapshot of the bindings, with the learned addresses, policers and
/// counters that live on across [`Switch::rebuild`].
#[derive(Debug)]
pub struct Switch {
    local: Member,
    peers: HashMap<PeerId, Peer, Keyed>,
    policy: Policy,
    host_rate: Rate,
    gateway_rate: Rate,
    source_rate: Rate,
    bindings: Bindings,
    /// Where this node is a gateway.
    edge: Option<Arc<Edge>>,
    /// Whether a host may have an IPv4 or an IPv6 address of which the netmap doesn't know.
    unlisted: Unlisted,
    everybody: Box<[PeerId]>,
    gateways: Box<[PeerId]>,
    /// Whom a gateway's number in `learned` means.
    numbers: Vec<Option<PeerId>>,
    learned: Arc<LearnedTable>,
    local_bum: Arc<Policer>,
    local_probes: Arc<Policer>,
    refusals: Arc<Refusals>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Peer {
    member: Member,
    /// Only gateways are learned from.
    number: Option<GatewayNumber>,
    record: Arc<Record>,
}

/// What is kept of a peer for as long as it is a member.
#[derive(Debug, Default)]
struct Record {
    bum: Policer,
    probes: Policer,
    spoofed: AtomicU64,
    spoofed_mac: AtomicU64,
}

impl Switch {
    /// Builds a switch that has learned nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::build(config, None)
    }

    /// Builds the switch of a newer config. What was learned behind peers that stay gateways,
    /// policers and counters are shared with `self`, which readers may still use meanwhile.
    /// For the caller of [`Switch::learn`].
    #[must_use]
    pub fn rebuild(&self, config: Config) -> Self {
        Self::build(config, Some(self))
    }

    /// Decides where a frame that the TAP gave goes.
    ///
    /// `octets` start at the destination address; a superframe's headers will do.
    pub fn egress(&self, octets: &[u8], now: Time) -> Result<Egress<'_>, Refused> {
        self.forward(octets, now)
            .inspect_err(|reason| self.refusals.count(*reason))
    }

    /// Checks a frame that `from` sent, after it was opened (docs/protocol.md 1.4 rule 10).
    pub fn ingress(&self, octets: &[u8], from: PeerId, now: Time) -> Result<Accepted, Refused> {
        self.accept(octets, from, now)
            .inspect_err(|reason| self.refusals.count(*reason))
    }

    /// The gate of a gateway; a host has none.
    #[must_use]
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.edge.as_ref().map(|edge| &edge.gate)
    }

    /// Forgets what was learned behind a peer; returns how many addresses that were.
    pub fn forget_behind(&self, peer: PeerId) -> u64 {
        let number = self.peers.get(&peer).and_then(|known| known.number);
        number.map_or(0, |number| self.learned.forget_behind(number))
    }

    /// Learns an address that [`Switch::ingress`] asked for. One caller at a time.
    pub fn learn(&self, mac: Mac, peer: PeerId, now: Time) -> Learning {
        let number = self.peers.get(&peer).and_then(|known| known.number);
        let Some(number) = number.filter(|_| mac.is_station()) else {
            return Learning::Refused;
        };
        if self.bindings.mac(mac).is_some() {
            return Learning::Refused;
        }
        match self.learned.insert(mac, number, now, self.policy.ageing) {
            Inserted::New => Learning::New,
            Inserted::Known => Learning::Known,
            Inserted::Full => Learning::Refused,
            Inserted::Moved(from) => self.gateway(from).map_or(Learning::New, Learning::Moved),
        }
    }

    /// The learned addresses that have not aged out, in no order.
    #[must_use]
    pub fn learned(&self, now: Time) -> Vec<Learned> {
        let entries = self.learned.entries(now, self.policy.ageing);
        let of_peers = entries.filter_map(|entry| {
            self.gateway(entry.gateway).map(|peer| Learned {
                mac: entry.mac,
                peer,
                age: entry.age,
            })
        });
        of_peers.collect()
    }

    /// Learned addresses that made room for others before their time.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.learned.evicted()
    }

    /// Frames refused so far, by reason; in the order of [`Refused::ALL`], zero ones too.
    pub fn refusals(&self) -> impl Iterator<Item = (Refused, u64)> + use<'_> {
        Refused::ALL
            .into_iter()
            .map(|reason| (reason, self.refusals.get(reason)))
    }

    /// Counts an answer of [`Switch::egress`] that went to the TAP.
    pub fn note_answered(&self, asked: Asked) {
        self.counters.count(asked);
    }

    /// Counts copies of multicast that were not sent, because nobody there listens.
    pub fn note_spared(&self, copies: u64) {
        self.counters.spared.fetch_add(copies, Ordering::Relaxed);
    }

    /// What else was done so far, by its names in `stats`.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 6] {
        self.counters.named()
    }

    /// What this node's own attachment is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.local.role
    }

    /// The peers that sent from, or claimed, addresses not their own; in no order.
    #[must_use]
    pub fn spoofing(&self) -> Vec<Spoofing> {
        let all = self.peers.iter().map(|(peer, known)| Spoofing {
            peer: *peer,
            mac: Mac::from_bits(known.record.spoofed_mac.load(Ordering::Relaxed)),
            count: known.record.spoofed.load(Ordering::Relaxed),
        });
        all.filter(|spoofing| spoofing.count > 0).collect()
    }

    fn build(config: Config, before: Option<&Self>) -> Self {
        let hash = Keyed(config.hash_seed);
        let bindings = Bindings::new(&config);
        let numbers = number_gateways(&config.peers, before);
        let source_pps = config.policy.gateway_source_bum_pps;
        let mut switch = Self {
            host_rate: Rate::new(config.policy.bum_pps, config.policy.bum_burst),
            gateway_rate: Rate::capped(config.policy.gateway_bum_pps),
            // Less at once than the LAN as a whole may: one station leaves room for others.
            source_rate: Rate::new(source_pps, source_pps.div_ceil(4)),
            bindings,
            edge: edge_of(&config, hash, before),
            unlisted: Unlisted::of(&config.peers),
            everybody: config.peers.iter().map(|(peer, _)| *peer).collect(),
            gateways: gateways_of(&config.peers).collect(),
            learned: Arc::new(LearnedTable::new(0, hash)),
            local_bum: before.map_or_else(Arc::default, |old| Arc::clone(&old.local_bum)),
            local_probes: before.map_or_else(Arc::default, |old| Arc::clone(&old.local_probes)),
            refusals: before.map_or_else(Arc::default, |old| Arc::clone(&old.refusals)),
            counters: before.map_or_else(Arc::default, |old| Arc::clone(&old.counters)),
            peers: HashMap::with_hasher(hash),
            local: config.local,
            policy: config.policy,
            numbers,
        };
        for (id, member) in config.peers {
            let number = switch.numbers.iter().position(|known| *known == Some(id));
            let record = before.and_then(|old| old.peers.get(&id));
            let peer = Peer {
                member,
                number: number.and_then(|number| GatewayNumber::try_from(number).ok()),
                record: record.map_or_else(Arc::default, |known| Arc::clone(&known.record)),
            };
            switch.peers.insert(id, peer);
        }
        switch.learned = switch.inherit_learned(hash, before);
        switch
    }

    /// The table of before, or a new one of the right size with what was in it; without the
    /// addresses that the netmap binds now and those behind peers that are gateways no longer.
    fn inherit_learned(&self, hash: Keyed, before: Option<&Self>) -> Arc<LearnedTable> {
        let cap = if self.gateways.is_empty() {
            0
        } else {
            self.policy.learned_cap
        };
        let Some(old) = before else {
            return Arc::new(LearnedTable::new(cap, hash));
        };
        old.learned.retain(|mac, number| {
            self.gateway(number).is_some() && self.bindings.mac(mac).is_none()
        });
        if old.learned.has_cap(cap) {
            return Arc::clone(&old.learned);
        }
        let table = LearnedTable::new(cap, hash);
        old.learned.copy_to(&table);
        Arc::new(table)
    }

    fn forward(&self, octets: &[u8], now: Time) -> Result<Egress<'_>, Refused> {
        let frame = parse(octets)?;
        if probe::is_one(&frame) {
            return self.forward_probe(&frame, now);
        }
        if let Some(edge) = &self.edge
            && !edge.gate.is_open(now)
        {
            return Err(Refused::GateClosed);
        }
        self.sender(Owner::Local, &self.local).check(&frame)?;
        if let Some(edge) = &self.edge {
            self.note_station(edge, frame.source(), now)?;
        }
        let (source, destination) = (frame.source(), frame.destination());
        if destination.is_group() {
            // Where members give out addresses the netmap doesn't know whose they are.
            let is_managed = !self.policy.dhcp_server_from_hosts;
            let question = is_managed.then(|| Question::of(octets, &frame)).flatten();
            if let Some(answer) = question.and_then(|question| self.answer(&question)) {
                return Ok(Egress::Answer(answer));
            }
            if question.is_some_and(|question| self.is_for_lans(question.ip())) {
                return self.flood(&self.gateways, source, Refused::UnknownDestination, now);
            }
            return self.flood(&self.everybody, source, Refused::NoPeer, now);
        }
        match self.bindings.mac(destination) {
            Some(Owner::Peer(peer)) => return Ok(Egress::Unicast(peer)),
            Some(Owner::Local) => return Err(Refused::SameSide),
            None => {}
        }
        let number = self.learned.lookup(destination, now, self.policy.ageing);
        if let Some(peer) = number.and_then(|number| self.gateway(number)) {
            return Ok(Egress::Unicast(peer));
        }
        if let Some(edge) = &self.edge
            && edge.has_station(destination, now)
        {
            return Err(Refused::SameSide);
        }
        self.flood(&self.gateways, source, Refused::UnknownDestination, now)
    }

    /// A station of this gateway's LAN talks on this side: its old place would get what is meant
    /// for it.
    #[inline(never)]
    fn note_station(&self, edge: &Edge, source: Mac, now: Time) -> Result<(), Refused> {
        if self.local.macs.contains(&source) {
            return Ok(());
        }
        if !edge.note_station(source, now, self.policy.ageing) {
            return Err(Refused::NewStationLimit);
        }
        if self.learned.forget(source) {
            self.counters.moved_here.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// To everybody, for hosts that bridge their TAP to a LAN must show it, too.
    #[cold]
    fn forward_probe(&self, frame: &Frame<'_>, now: Time) -> Result<Egress<'_>, Refused> {
        if self.local.role == Role::Host || frame.destination() != probe::GROUP {
            return Err(Refused::LoopProbe);
        }
        self.sender(Owner::Local, &self.local).check_source(frame)?;
        if self.everybody.is_empty() {
            return Err(Refused::NoPeer);
        }
        if !self.local_probes.admit(probe::PER_SECOND, now) {
            return Err(Refused::LoopProbeLimit);
        }
        Ok(Egress::Flood(&self.everybody))
    }

    /// What the only member to which the asked address is bound would answer.
    fn answer(&self, question: &Question<'_>) -> Option<Answer> {
        let Owner::Peer(peer) = self.bindings.sole_owner_of_ip(question.ip())? else {
            return None;
        };
        let member = &self.peers.get(&peer)?.member;
        let [mac] = member.macs[..] else { return None };
        let is_certain = member.ips.contains(&question.ip())
            && self.bindings.sole_owner_of_mac(mac) == Some(Owner::Peer(peer));
        // Whoever takes a router for a host drops it from its routers (RFC 4861 section 7.2.5).
        let may_be_router = member.role == Role::Gateway || self.policy.ra_from_hosts;
        let may_answer = is_certain && !(may_be_router && question.asked() == Asked::Nd);
        may_answer.then(|| question.answer(peer, mac))
    }

    /// Whether only a station on another LAN can have the address for which this gateway's LAN
    /// asks. Hosts have but those that are bound to them, shared and link-local ones.
    fn is_for_lans(&self, ip: IpAddr) -> bool {
        self.edge.is_some()
            && self.bindings.ip(ip).is_none()
            && !sender::is_link_local(ip)
            && !self.unlisted.may_have(ip)
            && !self.policy.shared_ips.contains(&ip)
    }

    fn flood<'a>(
        &self,
        to: &'a [PeerId],
        source: Mac,
        nobody: Refused,
        now: Time,
    ) -> Result<Egress<'a>, Refused> {
        if to.is_empty() {
            return Err(nobody);
        }
        if let Some(edge) = &self.edge
            && !edge.admit_source(source, self.source_rate, now)
        {
            return Err(Refused::SourceStormLimit);
        }
        if !self.local_bum.admit(self.rate_of(self.local.role), now) {
            return Err(Refused::StormLimit);
        }
        self.counters.flooded.fetch_add(1, Ordering::Relaxed);
        Ok(Egress::Flood(to))
    }

    #[inline(always)]
    fn accept(&self, octets: &[u8], from: PeerId, now: Time) -> Result<Accepted, Refused> {
        let peer = self.peers.get(&from).ok_or(Refused::UnknownPeer)?;
        let frame = parse(octets)?;
        if probe::is_one(&frame) {
            return self.accept_probe(octets, from, peer, now);
        }
        self.sender(Owner::Peer(from), &peer.member)
            .check(&frame)
            .inspect_err(|reason| peer.record.note(*reason, frame.source()))?;
        if frame.destination().is_group() {
            if !peer.record.bum.admit(self.rate_of(peer.member.role), now) {
                return Err(Refused::StormLimit);
            }
        } else if !self.is_here(frame.destination()) {
            return Err(Refused::NotHere);
        }
        let accepted = Accepted {
            learn: self.to_learn(frame.source(), peer, now),
            ..Accepted::default()
        };
        let Some(edge) = &self.edge else {
            return Ok(accepted);
        };
        let is_group = frame.destination().is_group();
        Ok(self.to_lan(edge, frame.source(), is_group, accepted, now))
    }

    /// Reads the frame again: a reference to one would keep that of all others in memory.
    #[cold]
    fn accept_probe(
        &self,
        octets: &[u8],
        from: PeerId,
        peer: &Peer,
        now: Time,
    ) -> Result<Accepted, Refused> {
        let frame = parse(octets)?;
        if peer.member.role == Role::Host || frame.destination() != probe::GROUP {
            return Err(Refused::LoopProbe);
        }
        self.sender(Owner::Peer(from), &peer.member)
            .check_source(&frame)
            .inspect_err(|reason| peer.record.note(*reason, frame.source()))?;
        let admitted = peer.record.probes.admit(probe::PER_SECOND, now);
        admitted
            .then(Accepted::default)
            .ok_or(Refused::LoopProbeLimit)
    }

    /// What a gateway does with a frame for its LAN. One that stands by learns where everything
    /// is, so that it knows when it takes over.
    #[inline(never)]
    fn to_lan(
        &self,
        edge: &Edge,
        source: Mac,
        is_group: bool,
        accepted: Accepted,
        now: Time,
    ) -> Accepted {
        if !edge.gate.is_open(now) {
            self.refusals.count(Refused::GateClosed);
            return Accepted {
                withheld: Some(Refused::GateClosed),
                ..accepted
            };
        }
        let reflected = edge.note_elsewhere(source, now) == Heard::JustNow;
        if reflected {
            self.counters.reflected.fetch_add(1, Ordering::Relaxed);
        }
        let is_too_much = is_group && !edge.towards_lan.admit(self.gateway_rate, now);
        if is_too_much {
            self.refusals.count(Refused::LanStormLimit);
        }
        Accepted {
            reflected,
            withheld: is_too_much.then_some(Refused::LanStormLimit),
            ..accepted
        }
    }

    fn rate_of(&self, role: Role) -> Rate {
        match role {
            Role::Host => self.host_rate,
            Role::Gateway => self.gateway_rate,
        }
    }

    /// Whether a unicast frame to `mac` may go to the TAP: to this node itself or, behind a
    /// gateway, to any station that isn't a member.
    fn is_here(&self, mac: Mac) -> bool {
        match self.local.role {
            Role::Host => self.local.macs.contains(&mac),
            Role::Gateway => !matches!(self.bindings.mac(mac), Some(Owner::Peer(_))),
        }
    }

    fn to_learn(&self, source: Mac, peer: &Peer, now: Time) -> Option<Mac> {
        let number = peer.number?;
        if peer.member.macs.contains(&source) || self.bindings.mac(source).is_some() {
            return None;
        }
        let known = self.learned.touch(source, number, now, self.policy.ageing);
        (!known).then_some(source)
    }

    fn gateway(&self, number: GatewayNumber) -> Option<PeerId> {
        self.numbers.get(usize::from(number)).copied().flatten()
    }

    fn sender<'a>(&'a self, who: Owner, member: &'a Member) -> Sender<'a> {
        Sender {
            who,
            member,
            bindings: &self.bindings,
            policy: &self.policy,
        }
    }
}

impl Record {
    fn note(&self, reason: Refused, source: Mac) {
        if reason.is_spoofing() {
            self.spoofed.fetch_add(1, Ordering::Relaxed);
            self.spoofed_mac.store(source.to_bits(), Ordering::Relaxed);
        }
    }
}

fn parse(octets: &[u8]) -> Result<Frame<'_>, Refused> {
    let frame = Frame::parse(octets).map_err(|error| match error {
        Error::TooDeep => Refused::Concealed,
        Error::Truncated | Error::Invalid => Refused::Malformed,
    })?;
    if frame.destination().is_bridge_local() {
        return Err(Refused::BridgeLocal);
    }
    Ok(frame)
}

/// What is kept of the LAN for as long as this node is its gateway.
fn edge_of(config: &Config, hash: Keyed, before: Option<&Switch>) -> Option<Arc<Edge>> {
    if config.local.role == Role::Host {
        return None;
    }
    let known = before.and_then(|old| old.edge.as_ref());
    Some(known.map_or_else(
        || Arc::new(Edge::new(config.policy.learned_cap, hash)),
        Arc::clone,
    ))
}

/// Whether there are hosts that may claim addresses that are bound to nobody.
#[derive(Clone, Copy, Debug)]
struct Unlisted {
    v4: bool,
    v6: bool,
}

impl Unlisted {
    fn of(peers: &[(PeerId, Member)]) -> Self {
        let lacks = |is_kind: fn(&IpAddr) -> bool| {
            let mut hosts = peers.iter().filter(|(_, peer)| peer.role == Role::Host);
            hosts.any(|(_, host)| !host.ips.iter().any(is_kind))
        };
        Self {
            v4: lacks(IpAddr::is_ipv4),
            v6: lacks(IpAddr::is_ipv6),
        }
    }

    fn may_have(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

fn gateways_of(peers: &[(PeerId, Member)]) -> impl Iterator<Item = PeerId> {
    let gateways = peers
        .iter()
        .filter(|(_, member)| member.role == Role::Gateway);
    gateways.map(|(peer, _)| *peer)
}

/// Gives each gateway a number: the one it had, or one that nobody had, for entries of the one
/// who had it may be in the table until it is purged.
fn number_gateways(peers: &[(PeerId, Member)], before: Option<&Switch>) -> Vec<Option<PeerId>> {
    let old = before.map_or(&[][..], |switch| &switch.numbers);
    let mut numbers = vec![None; old.len()];
    let mut newcomers = Vec::new();
    for peer in gateways_of(peers) {
        match old.iter().position(|known| *known == Some(peer)) {
            Some(number) => numbers[number] = Some(peer),
            None => newcomers.push(peer),
        }
    }
    let free = (0..).filter(|number| old.get(*number).copied().flatten().is_none());
    for (peer, number) in newcomers.into_iter().zip(free) {
        if number >= numbers.len() {
            numbers.push(None);
        }
        numbers[number] = Some(peer);
    }
    numbers
}
