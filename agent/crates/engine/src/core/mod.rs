//! The slow path: handshakes, timers, the desired state. One thread owns it.

mod apply;
mod contact;
mod effects;
mod gates;
mod handshakes;
mod path_mtu;
mod peer;
mod reports;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_wire::Mac;

pub use crate::core::gates::GateRefused;

use crate::core::apply::VSubnet;
use crate::core::effects::Effects;
use crate::core::peer::Peer;
use crate::drops::{Dropped, Drops};
use crate::entropy::Entropy;
use crate::event::{Event, Fact};
use crate::ids::{NodeId, PeerId, Vni};
use crate::inbound::Inbound;
use crate::link::{Link, read};
use crate::message::{Kind, Message};
use crate::multicast::Look;
use crate::outbound::Outbound;
use crate::session::Session;
use crate::shared::Shared;
use crate::state::State;
use crate::switch::Learning;
use crate::time::Time;
use crate::timers::{Deadlines, earlier};

/// Sessions are warmed this far apart, 128 INITs a second (rule 14): a thousand peers in 8 s.
const WARM_EVERY: Duration = Duration::from_nanos(1_000_000_000 / 128);
const WARM_LATE: Duration = Duration::from_millis(50);

/// A datagram that `Core` wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub datagram: Vec<u8>,
}

/// There is no such peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such peer in this vSubnet")]
pub struct UnknownPeer;

/// The owner of all that is not per packet. After each call, drain `poll_transmit`, `poll_frame`
/// and `poll_event`, and call `handle_timeout` at `next_timeout`.
pub struct Core {
    fx: Effects,
    state: Option<State>,
    vsubnets: BTreeMap<Vni, VSubnet>,
    peers: HashMap<PeerId, Peer>,
    deadlines: Deadlines,
    next_peer: u32,
    next_token: u64,
    warm: VecDeque<PeerId>,
    warm_at: Option<Time>,
    /// Until when; those that were closed or told of are not in it.
    open_gates: BTreeMap<Vni, Time>,
}

impl Core {
    /// A core with no vSubnets.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self {
            fx: Effects::new(Arc::new(Shared::new(entropy))),
            state: None,
            vsubnets: BTreeMap::new(),
            peers: HashMap::new(),
            deadlines: Deadlines::default(),
            next_peer: 0,
            next_token: 0,
            warm: VecDeque::new(),
            warm_at: None,
            open_gates: BTreeMap::new(),
        }
    }

    /// A sending half for one thread.
    pub fn outbound(&self) -> Outbound {
        Outbound::new(Arc::clone(&self.fx.shared))
    }

    /// A receiving half for one thread.
    pub fn inbound(&self) -> Inbound {
        Inbound::new(Arc::clone(&self.fx.shared))
    }

    /// Takes what the fast path saw.
    pub fn handle(&mut self, message: Message, now: Time) {
        match message.0 {
            Kind::Handshake { from, datagram } => self.handle_handshake(from, &datagram, now),
            Kind::Wanted { link, frame } => self.handle_wanted(&link, frame, now),
            Kind::RekeyDue { session } => self.with_peer(session.link.peer, now, |peer, _, _| {
                peer.rekey(&session, now);
            }),
            Kind::Confirmed { session, from } => self.confirmed(&session, from, now),
            Kind::Roamed {
                session,
                from,
                octets,
            } => {
                self.with_peer(session.link.peer, now, |peer, fx, _| {
                    peer.roam(&session, from, octets, fx, now);
                });
                session.link.roaming.store(false, Ordering::Release);
            }
            Kind::SentData { link } => self.with_peer(link.peer, now, |peer, fx, _| {
                let since = read(&link.traffic.sent_data).unwrap_or(now);
                peer.liveness.watch(since, fx.timers.dead_after);
            }),
            Kind::ReceivedData { link } => self.with_peer(link.peer, now, |peer, fx, _| {
                let since = read(&link.traffic.received_data).unwrap_or(now);
                peer.owe(since, fx);
            }),
            Kind::Control {
                session,
                from,
                plaintext,
            } => {
                session.link.controls.fetch_sub(1, Ordering::AcqRel);
                self.with_peer(session.link.peer, now, |peer, fx, _| {
                    peer.control(&session, from, plaintext.as_slice(), fx, now);
                });
            }
            Kind::SentLarge { link } => self.with_peer(link.peer, now, |peer, _, _| {
                peer.watch_size(now);
            }),
            Kind::TooLarge {
                link,
                frame,
                longest,
            } => self.fx.answer_too_large(&link, &frame, longest),
            Kind::CloneSeen { session } => self.with_peer(session.link.peer, now, |peer, fx, _| {
                peer.cloned(&session, fx, now);
            }),
            Kind::Learn { link, mac } => {
                link.controls.fetch_sub(1, Ordering::AcqRel);
                self.learn(link.vni, mac, link.peer, now);
            }
            Kind::Reflected { link, mac } => {
                link.controls.fetch_sub(1, Ordering::AcqRel);
                self.with_peer(link.peer, now, |peer, fx, _| {
                    peer.report_reflection(mac, fx, now);
                });
            }
            Kind::Multicast { link, group } => {
                link.controls.fetch_sub(1, Ordering::AcqRel);
                self.with_peer(link.peer, now, |peer, fx, vsubnet| {
                    fx.look(Look {
                        peer: peer.link.peer,
                        tap: vsubnet.config.tap.clone(),
                        macs: vsubnet.config.macs.clone(),
                        group,
                    });
                });
            }
            Kind::Reported { vni } => self.graft(vni, now),
            Kind::Spoofed { link, mac } => self.spoofed(&link, mac, now),
        }
    }

    /// Says how many messages still wait for `handle` (rule 2 counts them).
    pub fn note_waiting(&mut self, waiting: usize) {
        self.fx.shared.load.set_waiting(waiting);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        // Each peer once: one that found nothing it could do must not keep this thread from the rest.
        for _ in 0..self.peers.len() {
            let Some(peer) = self.deadlines.pop(now) else {
                break;
            };
            self.with_peer(peer, now, |_, _, _| {});
        }
        self.warm_peers(now);
        self.close_gates(now);
    }

    /// When `handle_timeout` wants to be called; `None`: not before something else happens.
    pub fn next_timeout(&self) -> Option<Time> {
        let timers = earlier(self.deadlines.next(), self.warm_at);
        earlier(timers, self.next_gate())
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.fx.transmits.pop_front()
    }

    /// The next frame for this host itself, to be written to the TAP of a vSubnet.
    pub fn poll_frame(&mut self) -> Option<(Vni, Vec<u8>)> {
        self.fx.frames.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.fx.events.pop_front()
    }

    /// The next multicast of which to find out whether the host listens to it; if it surely
    /// doesn't, [`Core::prune`].
    pub fn poll_look(&mut self) -> Option<Look> {
        self.fx.looks.pop_front()
    }

    /// Tells the sender that this node's host doesn't listen to the group.
    pub fn prune(&mut self, look: &Look, now: Time) {
        self.with_peer(look.peer, now, |peer, fx, _| {
            peer.send_prune(look.group, fx, now);
        });
    }

    /// The host may listen to more than before: all that was told lately is taken back.
    fn graft(&mut self, vni: Vni, now: Time) {
        let peers = self.peers.iter();
        let told: Vec<PeerId> = peers
            .filter(|(_, peer)| peer.link.vni == vni && peer.pruned_until > now)
            .map(|(id, _)| *id)
            .collect();
        for peer in told {
            self.with_peer(peer, now, |peer, fx, _| peer.send_graft(fx, now));
        }
    }

    /// Sends a probe, after a handshake if need be; the outcome comes as `Fact::Probed` with the
    /// returned token.
    pub fn probe(
        &mut self,
        vni: Vni,
        peer: NodeId,
        timeout: Duration,
        now: Time,
    ) -> Result<u64, UnknownPeer> {
        let peer = self.find_peer(vni, peer)?;
        self.next_token += 1;
        let token = self.next_token;
        self.with_peer(peer, now, |peer, fx, _| {
            peer.probe(token, now + timeout, fx, now);
        });
        Ok(token)
    }

    /// Adds candidate endpoints of a peer.
    pub fn add_endpoints(
        &mut self,
        vni: Vni,
        peer: NodeId,
        endpoints: &[SocketAddr],
        now: Time,
    ) -> Result<(), UnknownPeer> {
        let peer = self.find_peer(vni, peer)?;
        self.with_peer(peer, now, |peer, _, _| peer.add_endpoints(endpoints, now));
        Ok(())
    }

    /// This node's own addresses changed: every peer in session gets a probe from the new one,
    /// so that it follows, and so that it is noticed if it doesn't.
    pub fn underlay_changed(&mut self, now: Time) {
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in all {
            self.with_peer(peer, now, |peer, fx, _| {
                peer.probe_liveness(fx, now);
                peer.measure_anew(now);
            });
        }
    }

    /// Gets a session with each peer that there is none with, one after the other: none of them
    /// may know where this node is now, and nobody tells them.
    pub fn warm_all(&mut self, now: Time) {
        let waiting: HashSet<PeerId> = self.warm.iter().copied().collect();
        let peers = self.peers.iter();
        let cold = peers.filter(|(id, peer)| peer.is_cold() && !waiting.contains(id));
        self.warm.extend(cold.map(|(id, _)| *id));
        self.warm_at.get_or_insert(now);
    }

    /// The drop counters of this process.
    pub fn drops(&self) -> &Drops {
        &self.fx.shared.drops
    }

    /// Turns each session's counter in a vSubnet back, as if the machine had been restored from
    /// so many packets ago. Test builds only: it does what must never happen.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn turn_counters_back(&self, vni: Vni, packets: u64) {
        for peer in self.peers.values().filter(|peer| peer.link.vni == vni) {
            if let Some(session) = peer.slots.current() {
                session.turn_counter_back(packets);
            }
        }
    }

    /// Runs `f` on a peer if it is still one, then does what is due for it.
    fn with_peer(
        &mut self,
        id: PeerId,
        now: Time,
        f: impl FnOnce(&mut Peer, &mut Effects, &VSubnet),
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(vsubnet) = self.vsubnets.get(&peer.link.vni) else {
            return;
        };
        f(peer, &mut self.fx, vsubnet);
        peer.step(&mut self.fx, vsubnet, now);
        self.deadlines.set(id, peer.deadline(&self.fx));
    }

    fn find_peer(&self, vni: Vni, node: NodeId) -> Result<PeerId, UnknownPeer> {
        let vsubnet = self.vsubnets.get(&vni).ok_or(UnknownPeer)?;
        vsubnet.by_node.get(&node).copied().ok_or(UnknownPeer)
    }

    fn handle_wanted(&mut self, link: &Arc<Link>, frame: Box<[u8]>, now: Time) {
        if !self.peers.contains_key(&link.peer) {
            self.fx.shared.release_queue(link, frame.len());
            self.fx.shared.drops.count(Dropped::PeerRemoved);
            return;
        }
        self.with_peer(link.peer, now, |peer, fx, _| peer.want(frame, fx, now));
    }

    fn confirmed(&mut self, session: &Arc<Session>, from: SocketAddr, now: Time) {
        self.with_peer(session.link.peer, now, |peer, fx, _| {
            if let Some(session) = peer.slots.take_next(session.local_index) {
                peer.confirm(session, from, fx, now);
            }
        });
    }

    fn warm_peers(&mut self, now: Time) {
        while let Some(at) = self.warm_at.filter(|at| *at <= now) {
            let Some(peer) = self.warm.pop_front() else {
                self.warm_at = None;
                return;
            };
            let cold = self.peers.get(&peer).is_some_and(Peer::is_cold);
            if cold {
                self.with_peer(peer, now, |peer, fx, _| peer.seek(fx, now));
                // Kept up with where this thread is a little late, but not for a second of sleep.
                let since = if now.since(at) > WARM_LATE { now } else { at };
                self.warm_at = Some(since + WARM_EVERY);
            }
        }
    }

    fn learn(&mut self, vni: Vni, mac: Mac, peer: PeerId, now: Time) {
        let (Some(vsubnet), Some(node)) = (
            self.vsubnets.get(&vni),
            self.peers.get(&peer).map(|peer| peer.link.node),
        ) else {
            return;
        };
        match vsubnet.switch.learn(mac, peer, now) {
            Learning::New | Learning::Moved(_) => {
                self.fx.event(
                    Fact::Learned {
                        vni,
                        mac,
                        peer: node,
                    },
                    now,
                );
            }
            _ => {}
        }
    }

    /// Reports spoofed frames of a peer, at most once a second: the flag that lets the fast path
    /// tell again is cleared when the second is over.
    fn spoofed(&mut self, link: &Arc<Link>, mac: Mac, now: Time) {
        let switch = self
            .vsubnets
            .get(&link.vni)
            .map(|vsubnet| Arc::clone(&vsubnet.switch));
        let counted = switch.and_then(|switch| {
            let mut all = switch.spoofing().into_iter();
            all.find(|spoofing| spoofing.peer == link.peer)
        });
        self.with_peer(link.peer, now, |peer, fx, _| {
            let (mac, count) = counted.map_or((mac, 1), |all| (all.mac, all.count));
            peer.report_spoofing(mac, count, fx, now);
        });
    }
}
