//! The switch against a naive model of it, against garbage, and in a network of its own kind.
//!
//! The model never sees octets: it decides from what a frame was meant to say, with plain maps,
//! lists and a bucket of tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cairn_engine::switch::{Accepted, Config, Egress, Learning, Member, Refused, Role, Switch};
use cairn_engine::{PeerId, Time};
use cairn_wire::Mac;
use proptest::prelude::*;

mod frames;
use frames::*;

const PEERS: u8 = 4;
/// Addresses 0 to 4 belong to members, 5 to 7 to nobody.
const NUMBERS: u8 = 8;

/// A frame by its meaning.
#[derive(Clone, Debug)]
struct Meant {
    destination: Option<u8>,
    source: u8,
    tags: usize,
    snap: bool,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Other,
    Arp {
        mac: u8,
        ip: Option<u8>,
        target: u8,
    },
    /// A neighbour solicitation as it should be, from the frame's source if it goes to a group.
    Question {
        from: u8,
        target: u8,
    },
    Solicitation {
        from: Option<u8>,
        mac: Option<u8>,
    },
    Advertisement {
        from: u8,
        target: u8,
        mac: Option<u8>,
    },
    Router {
        from: u8,
    },
    DhcpServer {
        v6: bool,
    },
    DhcpClient,
    LoopProbe,
}

impl Meant {
    fn octets(&self) -> Vec<u8> {
        let destination = self.destination.map_or(Mac::BROADCAST, mac);
        let (ethertype, payload) = self.body.octets();
        let mut octets = frame(destination, mac(self.source), ethertype, &payload);
        if let Body::Question { from, target } = self.body {
            let by = (mac(self.source), ip6(from));
            octets = neighbour_question(by, ip6(target), Some(mac(self.source)));
            if let Some(number) = self.destination {
                octets[..6].copy_from_slice(&mac(number).0);
            }
        }
        if self.is_probe() && self.destination.is_none() {
            octets = loop_probe(mac(self.source));
        }
        if self.snap {
            octets = snap(&octets);
        }
        for _ in 0..self.tags {
            octets = tagged(&octets, VLAN, 5);
        }
        octets
    }

    fn is_concealed(&self) -> bool {
        self.tags > 2
    }

    fn is_probe(&self) -> bool {
        matches!(self.body, Body::LoopProbe)
    }

    /// For whom it asks, if it plainly asks everybody.
    fn asks_for(&self) -> Option<IpAddr> {
        let is_plain = self.destination.is_none() && !self.snap;
        let ip = match self.body {
            Body::Arp {
                mac,
                ip: Some(ip),
                target,
            } if mac == self.source && ip != target => IpAddr::V4(ip4(target)),
            Body::Question { target, .. } => IpAddr::V6(ip6(target)),
            _ => return None,
        };
        is_plain.then_some(ip)
    }
}

impl Body {
    fn octets(&self) -> (u16, Vec<u8>) {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let discovery = |from: Option<u8>, message: &[u8]| {
            let from = from.map_or(Ipv6Addr::UNSPECIFIED, ip6);
            (IPV6, ipv6(from, all, 58, message))
        };
        match self {
            Self::Other => (IPX, b"payload".to_vec()),
            Self::Arp {
                mac: of,
                ip,
                target,
            } => {
                let ip = ip.map_or(Ipv4Addr::UNSPECIFIED, ip4);
                (ARP, arp(1, (mac(*of), ip), (Mac::ZERO, ip4(*target))))
            }
            // Made whole by the frame around it.
            Self::Question { .. } => (IPV6, Vec::new()),
            Self::Solicitation { from, mac: of } => {
                discovery(*from, &solicitation(ip6(1), of.map(mac)))
            }
            Self::Advertisement {
                from,
                target,
                mac: of,
            } => discovery(Some(*from), &advertisement(ip6(*target), of.map(mac))),
            Self::Router { from } => discovery(Some(*from), &router_advertisement(None)),
            Self::DhcpServer { v6: false } => (IPV4, ipv4(ip4(1), ip4(2), 17, &udp(67, 68))),
            Self::DhcpServer { v6: true } => (IPV6, ipv6(ip6(1), all, 17, &udp(547, 546))),
            Self::DhcpClient => (IPV4, ipv4(ip4(1), ip4(2), 17, &udp(68, 67))),
            Self::LoopProbe => (EXPERIMENT, b"CRNp and more".to_vec()),
        }
    }

    fn macs(&self) -> Vec<u8> {
        match self {
            Self::Arp { mac, .. } => vec![*mac],
            Self::Solicitation { mac, .. } | Self::Advertisement { mac, .. } => {
                mac.iter().copied().collect()
            }
            _ => vec![],
        }
    }

    fn ips(&self) -> Vec<IpAddr> {
        let v6 = |number: &u8| IpAddr::V6(ip6(*number));
        match self {
            Self::Question { from, .. } => vec![v6(from)],
            Self::Arp { ip, .. } => ip.iter().map(|ip| IpAddr::V4(ip4(*ip))).collect(),
            Self::Solicitation { from, .. } => from.iter().map(v6).collect(),
            Self::Advertisement { from, target, .. } => vec![v6(from), v6(target)],
            Self::Router { from } => vec![v6(from)],
            _ => vec![],
        }
    }
}

/// What was spent and has not grown again yet, in nanoseconds' worth of frames.
#[derive(Clone, Debug)]
struct Bucket {
    spent: u64,
    at: u64,
}

/// Whose budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Budget {
    Of(Option<PeerId>),
    ProbesOf(Option<PeerId>),
    /// Of a station behind this gateway.
    Source(u8),
    TowardsLan,
}

/// Frames a second, and at once.
type Allowed = (u32, u32);

/// The switch as one would explain it.
#[derive(Debug)]
struct Model {
    config: Config,
    learned: BTreeMap<Mac, (PeerId, Time)>,
    buckets: BTreeMap<Budget, Bucket>,
    /// On this gateway's LAN.
    stations: BTreeMap<Mac, Time>,
    gate_is_open: bool,
}

impl Model {
    fn new(config: Config) -> Self {
        Self {
            config,
            learned: BTreeMap::new(),
            buckets: BTreeMap::new(),
            stations: BTreeMap::new(),
            gate_is_open: false,
        }
    }

    fn rebuild(&mut self, config: Config) {
        self.config = config;
        let members: BTreeSet<_> = self.config.peers.iter().map(|(id, _)| *id).collect();
        let is_gateway = self.is_gateway();
        self.buckets.retain(|budget, _| match budget {
            Budget::Of(who) | Budget::ProbesOf(who) => who.is_none_or(|id| members.contains(&id)),
            Budget::Source(_) | Budget::TowardsLan => is_gateway,
        });
        if !is_gateway {
            self.stations.clear();
            self.gate_is_open = false;
        }
        let gateways = self.gateways();
        let bound: BTreeSet<_> = (0..NUMBERS)
            .map(mac)
            .filter(|mac| self.owner(*mac).is_some())
            .collect();
        self.learned
            .retain(|mac, (peer, _)| gateways.contains(peer) && !bound.contains(mac));
    }

    fn member(&self, who: Option<PeerId>) -> &Member {
        match who {
            None => &self.config.local,
            Some(id) => {
                let mut peers = self.config.peers.iter();
                &peers.find(|(known, _)| *known == id).expect("a member").1
            }
        }
    }

    fn is_gateway(&self) -> bool {
        self.config.local.role == Role::Gateway
    }

    fn everybody(&self) -> Vec<PeerId> {
        self.config.peers.iter().map(|(id, _)| *id).collect()
    }

    fn gateways(&self) -> Vec<PeerId> {
        let peers = self.config.peers.iter();
        peers
            .filter(|(_, member)| member.role == Role::Gateway)
            .map(|(id, _)| *id)
            .collect()
    }

    fn members(&self) -> Vec<Option<PeerId>> {
        let peers = self.config.peers.iter().map(|(id, _)| Some(*id));
        [None].into_iter().chain(peers).collect()
    }

    fn owner(&self, mac: Mac) -> Option<Option<PeerId>> {
        let mut members = self.members().into_iter();
        members.find(|who| self.member(*who).macs.contains(&mac))
    }

    fn ip_owner(&self, ip: IpAddr) -> Option<Option<PeerId>> {
        let mut members = self.members().into_iter();
        members.find(|who| self.member(*who).ips.contains(&ip))
    }

    fn may_use(&self, who: Option<PeerId>, mac: Mac) -> bool {
        match self.member(who).role {
            Role::Host => self.owner(mac) == Some(who),
            Role::Gateway => self.owner(mac).is_none_or(|owner| owner == who),
        }
    }

    fn may_claim(&self, who: Option<PeerId>, ip: IpAddr) -> bool {
        match self.ip_owner(ip) {
            Some(owner) => owner == who,
            None => {
                let ips = &self.member(who).ips;
                self.member(who).role == Role::Gateway
                    || self.config.policy.dhcp_server_from_hosts
                    || self.config.policy.shared_ips.contains(&ip)
                    || !ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4())
            }
        }
    }

    fn check(&self, who: Option<PeerId>, meant: &Meant) -> Result<(), Refused> {
        if meant.is_concealed() {
            return Err(Refused::Concealed);
        }
        if !self.may_use(who, mac(meant.source)) {
            return Err(Refused::ForeignSource);
        }
        let is_host = self.member(who).role == Role::Host;
        let policy = &self.config.policy;
        match meant.body {
            Body::Router { .. } if is_host && !policy.ra_from_hosts => {
                return Err(Refused::Router);
            }
            Body::DhcpServer { .. } if is_host && !policy.dhcp_server_from_hosts => {
                return Err(Refused::DhcpServer);
            }
            _ => {}
        }
        let macs = meant.body.macs();
        let ips = meant.body.ips();
        if macs.iter().all(|number| self.may_use(who, mac(*number)))
            && ips.iter().all(|ip| self.may_claim(who, *ip))
        {
            Ok(())
        } else {
            Err(Refused::ForeignClaim)
        }
    }

    fn admit(&mut self, budget: Budget, (pps, burst): Allowed, now: Time) -> bool {
        let interval = 1_000_000_000 / u64::from(pps);
        let bucket = self.buckets.entry(budget).or_insert(Bucket {
            spent: 0,
            at: now.as_nanos(),
        });
        bucket.spent = bucket.spent.saturating_sub(now.as_nanos() - bucket.at);
        bucket.at = now.as_nanos();
        if bucket.spent > interval * u64::from(burst - 1) {
            return false;
        }
        bucket.spent += interval;
        true
    }

    fn gateways_may(&self) -> Allowed {
        let most = self.config.policy.gateway_bum_pps;
        (most - most / 10, most.div_ceil(10))
    }

    fn allowed(&self, who: Option<PeerId>) -> Allowed {
        let policy = &self.config.policy;
        match self.member(who).role {
            Role::Host => (policy.bum_pps, policy.bum_burst),
            Role::Gateway => self.gateways_may(),
        }
    }

    fn is_on_lan(&self, mac: Mac, now: Time, within: Duration) -> bool {
        let seen = self.stations.get(&mac);
        seen.is_some_and(|seen| now.since(*seen) < within)
    }

    /// Whether a LAN's question concerns other LANs only.
    fn is_for_lans(&self, meant: &Meant) -> bool {
        let Some(ip) = meant.asks_for() else {
            return false;
        };
        let hosts = self.config.peers.iter().map(|(_, peer)| peer);
        let mut hosts = hosts.filter(|peer| peer.role == Role::Host);
        self.is_gateway()
            && !self.config.policy.dhcp_server_from_hosts
            && self.ip_owner(ip).is_none()
            && !self.config.policy.shared_ips.contains(&ip)
            && hosts.all(|host| host.ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4()))
    }

    fn alive(&self, mac: Mac, now: Time) -> Option<PeerId> {
        let (peer, seen) = self.learned.get(&mac)?;
        (now.since(*seen) < self.config.policy.ageing).then_some(*peer)
    }

    /// For whom this node answers.
    fn answers(&self, meant: &Meant) -> Option<PeerId> {
        let ip = meant.asks_for()?;
        let may_be_router = self.config.policy.ra_from_hosts;
        let peer = self.ip_owner(ip).flatten()?;
        let is_gateway = self.member(Some(peer)).role == Role::Gateway;
        let is_nd = ip.is_ipv6();
        let asks_everybody = self.config.policy.dhcp_server_from_hosts
            || self.member(Some(peer)).macs.len() != 1
            || (is_nd && (may_be_router || is_gateway));
        (!asks_everybody).then_some(peer)
    }

    fn egress(&mut self, meant: &Meant, now: Time) -> Result<Way, Refused> {
        if meant.is_concealed() {
            return Err(Refused::Concealed);
        }
        if meant.is_probe() {
            return self.egress_of_probe(meant, now);
        }
        if self.is_gateway() && !self.gate_is_open {
            return Err(Refused::GateClosed);
        }
        self.check(None, meant)?;
        let source = mac(meant.source);
        if self.is_gateway() && !self.config.local.macs.contains(&source) {
            self.learned.remove(&source);
            self.stations.insert(source, now);
        }
        if let Some(peer) = self.answers(meant) {
            return Ok(Way::Answered(peer));
        }
        let (to, nobody) = match meant.destination {
            None if self.is_for_lans(meant) => (self.gateways(), Refused::UnknownDestination),
            None => (self.everybody(), Refused::NoPeer),
            Some(number) => match (self.owner(mac(number)), self.alive(mac(number), now)) {
                (Some(Some(peer)), _) | (None, Some(peer)) => return Ok(Way::To(vec![peer])),
                (Some(None), _) => return Err(Refused::SameSide),
                (None, None) if self.is_on_lan(mac(number), now, Duration::from_secs(30)) => {
                    return Err(Refused::SameSide);
                }
                (None, None) => (self.gateways(), Refused::UnknownDestination),
            },
        };
        if to.is_empty() {
            return Err(nobody);
        }
        let pps = self.config.policy.gateway_source_bum_pps;
        if self.is_gateway()
            && !self.admit(Budget::Source(meant.source), (pps, pps.div_ceil(4)), now)
        {
            return Err(Refused::SourceStormLimit);
        }
        if !self.admit(Budget::Of(None), self.allowed(None), now) {
            return Err(Refused::StormLimit);
        }
        Ok(Way::To(to))
    }

    fn egress_of_probe(&mut self, meant: &Meant, now: Time) -> Result<Way, Refused> {
        if !self.is_gateway() || meant.destination.is_some() {
            return Err(Refused::LoopProbe);
        }
        self.check(None, meant)?;
        if self.everybody().is_empty() {
            return Err(Refused::NoPeer);
        }
        if !self.admit(Budget::ProbesOf(None), (20, 20), now) {
            return Err(Refused::LoopProbeLimit);
        }
        Ok(Way::To(self.everybody()))
    }

    fn ingress(&mut self, meant: &Meant, from: PeerId, now: Time) -> Result<Accepted, Refused> {
        if !self.everybody().contains(&from) {
            return Err(Refused::UnknownPeer);
        }
        if meant.is_concealed() {
            return Err(Refused::Concealed);
        }
        if meant.is_probe() {
            let is_gateway = self.member(Some(from)).role == Role::Gateway;
            if !is_gateway || meant.destination.is_some() {
                return Err(Refused::LoopProbe);
            }
            self.check(Some(from), meant)?;
            let admitted = self.admit(Budget::ProbesOf(Some(from)), (20, 20), now);
            return admitted
                .then(Accepted::default)
                .ok_or(Refused::LoopProbeLimit);
        }
        self.check(Some(from), meant)?;
        let here = match (meant.destination, self.config.local.role) {
            (None, _) => {
                if !self.admit(Budget::Of(Some(from)), self.allowed(Some(from)), now) {
                    return Err(Refused::StormLimit);
                }
                true
            }
            (Some(number), Role::Host) => self.owner(mac(number)) == Some(None),
            (Some(number), Role::Gateway) => !matches!(self.owner(mac(number)), Some(Some(_))),
        };
        if !here {
            return Err(Refused::NotHere);
        }
        let source = mac(meant.source);
        let mut accepted = Accepted::default();
        if self.owner(source).is_none() {
            let before = self.alive(source, now);
            self.learned.insert(source, (from, now));
            accepted.learn = (before != Some(from)).then_some(source);
        }
        if self.is_gateway() && !self.gate_is_open {
            accepted.withheld = Some(Refused::GateClosed);
        } else if self.is_gateway() {
            accepted.reflected = self.is_on_lan(source, now, Duration::from_secs(2));
            self.stations.remove(&source);
            let is_group = meant.destination.is_none();
            if is_group && !self.admit(Budget::TowardsLan, self.gateways_may(), now) {
                accepted.withheld = Some(Refused::LanStormLimit);
            }
        }
        Ok(accepted)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Egress(Meant),
    Ingress(u8, Meant),
    Wait(u64),
    Gate(bool),
    Rebuild(Shape),
}

/// A config by its choices: who is a member, who a gateway, who has no addresses.
#[derive(Clone, Debug)]
struct Shape {
    local: Role,
    peers: Vec<Option<Role>>,
    without_ips: Vec<bool>,
    bound_to_first: bool,
    dhcp: bool,
    routers: bool,
    shares: bool,
}

impl Shape {
    fn config(&self) -> Config {
        let mut config = config(self.local, &[]);
        for (number, role) in (1..).zip(&self.peers) {
            if let Some(role) = role {
                let mut peer = member(number, *role);
                if self.without_ips[usize::from(number) - 1] {
                    peer.ips.clear();
                }
                if self.bound_to_first && config.peers.is_empty() {
                    peer.macs.push(mac(5));
                }
                config.peers.push((PeerId(u32::from(number)), peer));
            }
        }
        config.policy.bum_pps = 2;
        config.policy.bum_burst = 3;
        config.policy.gateway_bum_pps = 40;
        config.policy.gateway_source_bum_pps = 9;
        config.policy.ageing = Duration::from_secs(20);
        config.policy.dhcp_server_from_hosts = self.dhcp;
        config.policy.ra_from_hosts = self.routers;
        if self.shares {
            // One that is bound where there is such a member, and one that nobody has.
            config.policy.shared_ips = [2, 6].map(|number| ip4(number).into()).to_vec();
            config.policy.shared_ips.push(ip6(6).into());
        }
        config
    }
}

fn number() -> impl Strategy<Value = u8> {
    0..NUMBERS
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Host), Just(Role::Gateway)]
}

fn shape() -> impl Strategy<Value = Shape> {
    let peers =
        proptest::collection::vec(proptest::option::weighted(0.8, role()), usize::from(PEERS));
    let without = proptest::collection::vec(proptest::bool::weighted(0.2), usize::from(PEERS));
    (role(), peers, without, any::<[bool; 4]>()).prop_map(
        |(local, peers, without_ips, [bound_to_first, dhcp, routers, shares])| Shape {
            local,
            peers,
            without_ips,
            bound_to_first,
            dhcp,
            routers,
            shares,
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let maybe = || proptest::option::of(number());
    prop_oneof![
        4 => Just(Body::Other),
        2 => (number(), maybe(), number())
            .prop_map(|(mac, ip, target)| Body::Arp { mac, ip, target }),
        2 => (number(), number()).prop_map(|(from, target)| Body::Question { from, target }),
        1 => (maybe(), maybe()).prop_map(|(from, mac)| Body::Solicitation { from, mac }),
        1 => (number(), number(), maybe())
            .prop_map(|(from, target, mac)| Body::Advertisement { from, target, mac }),
        1 => number().prop_map(|from| Body::Router { from }),
        1 => any::<bool>().prop_map(|v6| Body::DhcpServer { v6 }),
        1 => Just(Body::DhcpClient),
        1 => Just(Body::LoopProbe),
    ]
}

fn meant(source: impl Strategy<Value = u8>) -> impl Strategy<Value = Meant> {
    (
        proptest::option::weighted(0.7, number()),
        source,
        prop_oneof![8 => 0_usize..3, 1 => Just(3)],
        proptest::bool::weighted(0.1),
        body(),
    )
        .prop_map(|(destination, source, tags, snap, body)| Meant {
            destination,
            source,
            tags,
            snap,
            body,
        })
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly from the sender's own address or a station of nobody's, so that much passes.
    let local = meant(prop_oneof![3 => Just(0), 2 => 5..NUMBERS, 1 => number()]);
    let remote = (1..=PEERS).prop_flat_map(|peer| {
        let source = prop_oneof![3 => Just(peer), 2 => 5..NUMBERS, 1 => number()];
        meant(source).prop_map(move |meant| (peer, meant))
    });
    prop_oneof![
        8 => local.prop_map(Step::Egress),
        8 => remote.prop_map(|(peer, meant)| Step::Ingress(peer, meant)),
        2 => (0_u64..25).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::Gate),
        1 => shape().prop_map(Step::Rebuild),
    ]
}

/// What becomes of a frame from the TAP.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    To(Vec<PeerId>),
    Answered(PeerId),
}

fn way(egress: Egress<'_>) -> Way {
    match egress {
        Egress::Unicast(peer) => Way::To(vec![peer]),
        Egress::Flood(peers) => Way::To(peers.to_vec()),
        Egress::Answer(answer) => Way::Answered(answer.peer),
    }
}

/// Of a frame that isn't answered.
fn recipients(egress: Egress<'_>) -> Vec<PeerId> {
    match way(egress) {
        Way::To(peers) => peers,
        Way::Answered(_) => vec![],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_switch_does_what_the_model_does(
        first in shape(),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut switch = Switch::new(first.config());
        let mut model = Model::new(first.config());
        let mut now = Time::from_millis(5_000);
        for step in steps {
            match step {
                Step::Egress(meant) => {
                    let verdict = switch.egress(&meant.octets(), now).map(way);
                    prop_assert_eq!(verdict, model.egress(&meant, now));
                }
                Step::Ingress(peer, meant) => {
                    let peer = PeerId(u32::from(peer));
                    let verdict = switch.ingress(&meant.octets(), peer, now);
                    let expected = model.ingress(&meant, peer, now);
                    prop_assert_eq!(verdict, expected);
                    if let Ok(Accepted { learn: Some(mac), .. }) = verdict {
                        prop_assert_ne!(switch.learn(mac, peer, now), Learning::Refused);
                    }
                }
                Step::Gate(is_open) => {
                    if let Some(gate) = switch.gate() {
                        let until = if is_open { u64::MAX } else { 0 };
                        gate.set(1, Time::from_nanos(until)).expect("the same term");
                        model.gate_is_open = is_open;
                    }
                }
                Step::Wait(seconds) => now = now + Duration::from_secs(seconds),
                Step::Rebuild(shape) => {
                    switch = switch.rebuild(shape.config());
                    model.rebuild(shape.config());
                }
            }
            let learned: BTreeMap<_, _> = switch
                .learned(now)
                .into_iter()
                .map(|known| (known.mac, known.peer))
                .collect();
            let expected: BTreeMap<_, _> = model
                .learned
                .keys()
                .filter_map(|mac| model.alive(*mac, now).map(|peer| (*mac, peer)))
                .collect();
            prop_assert_eq!(learned, expected);
        }
    }

    #[test]
    fn no_learning_changes_where_a_bound_address_is(
        shape in shape(),
        lessons in proptest::collection::vec((number(), 0..=PEERS + 1), 0..60),
    ) {
        let config = shape.config();
        let switch = forwarding(config.clone());
        let now = Time::from_millis(5_000);
        for (number, peer) in lessons {
            switch.learn(mac(number), PeerId(u32::from(peer)), now);
        }
        for (peer, member) in &config.peers {
            for bound in &member.macs {
                let verdict = switch.egress(&frame(*bound, mac(0), IPX, &[]), now);
                prop_assert_eq!(verdict, Ok(Egress::Unicast(*peer)));
            }
        }
    }

    #[test]
    fn garbage_neither_panics_nor_leaves_the_vsubnet(
        shape in shape(),
        octets in proptest::collection::vec(any::<u8>(), 0..200),
        peer in 0..=PEERS + 1,
    ) {
        judge(&shape, &octets, peer)?;
    }

    #[test]
    fn damaged_frames_neither_panic_nor_leave_the_vsubnet(
        shape in shape(),
        meant in meant(number()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        peer in 0..=PEERS + 1,
    ) {
        let mut octets = meant.octets();
        for (at, value) in damage {
            let at = at.index(octets.len());
            octets[at] = value;
        }
        octets.truncate(cut.index(octets.len() + 1));
        judge(&shape, &octets, peer)?;
    }
}

/// Whatever the octets say: copies go to members, once each; what is accepted comes from a
/// member that may use the source, and is for us.
fn judge(shape: &Shape, octets: &[u8], peer: u8) -> Result<(), TestCaseError> {
    let config = shape.config();
    let switch = forwarding(config.clone());
    let model = Model::new(config);
    let now = Time::from_millis(5_000);
    let address = |at: usize| {
        let mut mac = [0; 6];
        mac.copy_from_slice(&octets[at..at + 6]);
        Mac(mac)
    };
    if let Ok(egress) = switch.egress(octets, now) {
        let to = match way(egress) {
            Way::To(peers) => peers,
            Way::Answered(peer) => vec![peer],
        };
        let members = model.everybody();
        prop_assert!(!to.is_empty() && to.iter().all(|peer| members.contains(peer)));
        prop_assert_eq!(to.iter().collect::<BTreeSet<_>>().len(), to.len());
        prop_assert!(model.may_use(None, address(6)));
    }
    let peer = PeerId(u32::from(peer));
    if switch.ingress(octets, peer, now).is_ok() {
        prop_assert!(model.everybody().contains(&peer));
        prop_assert!(model.may_use(Some(peer), address(6)));
        let destination = address(0);
        prop_assert!(
            destination.is_group()
                || model.owner(destination) == Some(None)
                || (shape.local == Role::Gateway && model.owner(destination).is_none())
        );
    }
    Ok(())
}

/// A vSubnet of `roles`: each member's own switch, and frames that go from one to the other.
struct Network {
    switches: Vec<Switch>,
}

impl Network {
    fn new(roles: &[Role]) -> Self {
        let all = || (0_u8..).zip(roles);
        let switches = all().map(|(own, role)| {
            let mut config = config(*role, &[]);
            config.local = member(own, *role);
            config.peers = all()
                .filter(|(number, _)| *number != own)
                .map(|(number, role)| (PeerId(u32::from(number)), member(number, *role)))
                .collect();
            forwarding(config)
        });
        Self {
            switches: switches.collect(),
        }
    }

    /// Sends from the TAP of member `from`; returns at whose TAPs the frame comes out.
    fn send(&self, from: usize, octets: &[u8], now: Time) -> Vec<usize> {
        let Ok(egress) = self.switches[from].egress(octets, now) else {
            return vec![];
        };
        let sender = PeerId(u32::try_from(from).expect("small"));
        let mut delivered = Vec::new();
        for peer in recipients(egress) {
            let to = usize::try_from(peer.0).expect("small");
            if let Ok(accepted) = self.switches[to].ingress(octets, sender, now) {
                assert_eq!(accepted.withheld, None);
                if let Some(mac) = accepted.learn {
                    self.switches[to].learn(mac, sender, now);
                }
                delivered.push(to);
            }
        }
        delivered
    }
}

proptest! {
    #[test]
    fn in_a_network_each_frame_comes_out_where_it_should_and_nowhere_else(
        roles in proptest::collection::vec(role(), 2..12),
        sends in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()),
            1..30,
        ),
    ) {
        let network = Network::new(&roles);
        let mut now = Time::from_millis(1_000);
        for (from, to, broadcast) in sends {
            now = now + Duration::from_secs(1);
            let (from, to) = (from.index(roles.len()), to.index(roles.len()));
            let others: Vec<_> = (0..roles.len()).filter(|other| *other != from).collect();
            let number = |member: usize| mac(u8::try_from(member).expect("small"));
            let destination = if broadcast { Mac::BROADCAST } else { number(to) };
            let delivered = network.send(from, &frame(destination, number(from), IPX, &[]), now);
            let expected = match (broadcast, from == to) {
                (true, _) => others,
                (false, true) => vec![],
                (false, false) => vec![to],
            };
            prop_assert_eq!(delivered, expected);
        }
    }

    #[test]
    fn a_station_behind_a_gateway_is_found_by_all_after_it_spoke_to_all(
        hosts in 1_usize..8,
        other_gateways in 0_usize..3,
    ) {
        let mut roles = vec![Role::Host; hosts];
        roles.extend(vec![Role::Gateway; other_gateways + 1]);
        let network = Network::new(&roles);
        let gateway = roles.len() - 1;
        let station = mac(200);
        let now = Time::from_millis(1_000);

        let heard_by = network.send(gateway, &frame(Mac::BROADCAST, station, IPX, &[]), now);
        prop_assert_eq!(heard_by.len(), roles.len() - 1);

        for host in 0..hosts {
            let number = u8::try_from(host).expect("small");
            let answer = frame(station, mac(number), IPX, &[]);
            prop_assert_eq!(network.send(host, &answer, now), vec![gateway]);
        }
    }
}
