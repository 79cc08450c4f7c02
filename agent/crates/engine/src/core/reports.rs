//! What `Core` shows of itself.

use std::sync::atomic::Ordering;

use crate::core::Core;
use crate::core::apply::VSubnet;
use crate::core::peer::Peer;
use crate::link::read;
use crate::stats::{GateStats, LearnedStats, PeerStats, SessionState, Stats, VSubnetStats};
use crate::switch::{Gate, Standing};
use crate::time::Time;

impl Core {
    /// Counters and states.
    pub fn stats(&self, now: Time) -> Stats {
        let counters = &self.fx.counters;
        Stats {
            counters: vec![
                ("inits_sent", counters.inits_sent),
                ("inits_accepted", counters.inits_accepted),
                ("handshakes_completed", counters.handshakes_completed),
                ("cookies_received", counters.cookies_received),
                ("clones_seen", counters.clones_seen),
                ("events_lost", counters.events_lost),
                ("too_large_answered", counters.too_large_answered),
                ("path_mtu_fell", counters.path_mtu_fell),
                (
                    "sessions",
                    self.fx.shared.snapshot.load().sessions.len() as u64,
                ),
            ],
            drops: self.fx.shared.drops.occurred(),
            vsubnets: self
                .vsubnets
                .values()
                .map(|each| self.vsubnet_stats(each, now))
                .collect(),
        }
    }

    fn vsubnet_stats(&self, vsubnet: &VSubnet, now: Time) -> VSubnetStats {
        let peers = vsubnet.by_node.values().filter_map(|id| self.peers.get(id));
        let mut peers: Vec<PeerStats> = peers.map(|peer| peer_stats(peer, vsubnet, now)).collect();
        peers.sort_by_key(|peer| peer.id);
        let total = |count: fn(&PeerStats) -> u64| peers.iter().map(count).sum();
        VSubnetStats {
            vni: vsubnet.config.vni,
            tap: vsubnet.config.tap.clone(),
            tx_frames: total(|peer| peer.tx_frames),
            tx_octets: total(|peer| peer.tx_octets),
            rx_frames: total(|peer| peer.rx_frames),
            rx_octets: total(|peer| peer.rx_octets),
            counters: occurred(vsubnet.switch.counters()),
            refused: vsubnet.switch.refusals().filter(|(_, n)| *n > 0).collect(),
            gate: vsubnet.switch.gate().map(|gate| gate_stats(gate, now)),
            learned: self.learned_stats(vsubnet, now),
            peers,
        }
    }

    fn learned_stats(&self, vsubnet: &VSubnet, now: Time) -> Vec<LearnedStats> {
        let learned = vsubnet.switch.learned(now).into_iter();
        let known = learned.filter_map(|entry| {
            let peer = self.peers.get(&entry.peer)?.link.node;
            Some(LearnedStats {
                mac: entry.mac,
                peer,
                age: entry.age,
            })
        });
        known.collect()
    }
}

fn gate_stats(gate: &Gate, now: Time) -> GateStats {
    let Standing { term, until } = gate.standing();
    GateStats {
        term,
        is_open: gate.is_open(now),
        until,
    }
}

fn occurred(counters: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    counters.into_iter().filter(|(_, n)| *n > 0).collect()
}

fn peer_stats(peer: &Peer, vsubnet: &VSubnet, now: Time) -> PeerStats {
    let traffic = &peer.link.traffic;
    let current = peer.usable(now);
    let session = match (&current, &peer.attempt) {
        (Some(_), _) => SessionState::Up,
        (None, Some(_)) => SessionState::Handshaking,
        (None, None) => SessionState::Down,
    };
    let current_is_up = current.is_some();
    PeerStats {
        id: peer.link.node,
        endpoint: peer.link.endpoint(),
        session,
        rtt: peer.rtt,
        session_age: current.map(|session| now.since(session.established)),
        last_received: read(&traffic.received).map(|at| now.since(at)),
        tx_octets: traffic.tx_octets.load(Ordering::Relaxed),
        rx_octets: traffic.rx_octets.load(Ordering::Relaxed),
        tx_frames: traffic.tx_frames.load(Ordering::Relaxed),
        rx_frames: traffic.rx_frames.load(Ordering::Relaxed),
        handshakes: peer.handshakes,
        mtu: peer
            .path_mtu()
            .filter(|_| current_is_up)
            .map(|mtu| mtu.min(usize::from(vsubnet.config.mtu))),
    }
}
