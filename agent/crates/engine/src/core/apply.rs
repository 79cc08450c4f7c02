//! Making the desired state true.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::core::Core;
use crate::core::peer::Peer;
use crate::event::DownReason;
use crate::ids::{NodeId, PeerId, Vni};
use crate::link::Link;
use crate::mac::MacKey;
use crate::noise::{StaticKey, public_len};
use crate::shared::VSubnetView;
use crate::state::{PeerState, State, StateError, Suite, VSubnetState};
use crate::switch::{Config, Member, Policy, Switch};
use crate::time::Time;

/// VNIs have 24 bits.
const MAX_VNI: Vni = (1 << 24) - 1;

/// One vSubnet as the slow path sees it.
pub(crate) struct VSubnet {
    pub(crate) config: VSubnetState,
    pub(crate) cluster_id: [u8; 16],
    pub(crate) local: NodeId,
    pub(crate) revision: u64,
    pub(crate) key: Arc<StaticKey>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) by_node: HashMap<NodeId, PeerId>,
    pub(crate) by_key: HashMap<Vec<u8>, PeerId>,
    hash_seed: u64,
}

impl VSubnet {
    /// The secret of an epoch that is accepted.
    pub(crate) fn psk(&self, epoch: u16) -> Option<Zeroizing<[u8; 32]>> {
        if self.config.psks.is_empty() {
            return (epoch == 0).then(Zeroizing::default);
        }
        let mut psks = self.config.psks.iter();
        let psk = psks.find(|psk| psk.epoch == epoch)?;
        Some(Zeroizing::new(psk.key.0))
    }

    /// The epoch and secret for what we send.
    pub(crate) fn sending_psk(&self) -> (u16, Zeroizing<[u8; 32]>) {
        match self.config.psks.first() {
            Some(psk) => (psk.epoch, Zeroizing::new(psk.key.0)),
            None => (0, Zeroizing::default()),
        }
    }
}

impl Core {
    /// Makes the desired state true; returns whether anything changed. On an error nothing did.
    pub fn apply(&mut self, state: State, now: Time) -> Result<bool, StateError> {
        let keys = validate(&state)?;
        if self.state.as_ref() == Some(&state) {
            return Ok(false);
        }
        self.fx.timers = state.timers;
        self.fx.behind_nat = state.behind_nat;
        self.remove_departed(&state, now);
        for vsubnet in &state.vsubnets {
            let key = &keys[&vsubnet.suite];
            self.apply_vsubnet(vsubnet, &state, key);
        }
        self.publish(&keys);
        let vsubnets = &self.vsubnets;
        let is_gateway = |vni: &Vni| {
            vsubnets
                .get(vni)
                .is_some_and(|one| one.switch.gate().is_some())
        };
        self.open_gates.retain(|vni, _| is_gateway(vni));
        if self.warm_at.is_none() && !self.warm.is_empty() {
            self.warm_at = Some(now);
        }
        self.state = Some(state);
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in all {
            self.with_peer(peer, now, |_, _, _| {});
        }
        Ok(true)
    }

    /// Ends the sessions of all that is not in the new state, before anything else happens.
    fn remove_departed(&mut self, state: &State, now: Time) {
        let same_node = self.state.as_ref().is_some_and(|old| {
            old.cluster_id == state.cluster_id
                && old.node.id == state.node.id
                && old.node.private_key == state.node.private_key
        });
        let vnis: Vec<Vni> = self.vsubnets.keys().copied().collect();
        for vni in vnis {
            let wanted = state.vsubnets.iter().find(|vsubnet| vsubnet.vni == vni);
            let keeps_suite =
                wanted.is_some_and(|new| new.suite == self.vsubnets[&vni].config.suite);
            match wanted {
                Some(wanted) if same_node && keeps_suite => self.remove_peers(vni, wanted, now),
                Some(_) => self.remove_vsubnet(vni, DownReason::KeyChanged, now),
                None => self.remove_vsubnet(vni, DownReason::Removed, now),
            }
        }
    }

    fn remove_vsubnet(&mut self, vni: Vni, reason: DownReason, now: Time) {
        let Some(vsubnet) = self.vsubnets.remove(&vni) else {
            return;
        };
        for peer in vsubnet.by_node.into_values() {
            self.remove_peer(peer, reason, now);
        }
    }

    fn remove_peers(&mut self, vni: Vni, wanted: &VSubnetState, now: Time) {
        let wanted: HashMap<NodeId, &PeerState> =
            wanted.peers.iter().map(|peer| (peer.id, peer)).collect();
        let Some(vsubnet) = self.vsubnets.get_mut(&vni) else {
            return;
        };
        let mut departed = Vec::new();
        let peers = &self.peers;
        let by_key = &mut vsubnet.by_key;
        vsubnet.by_node.retain(|node, id| {
            let key = peers.get(id).map(|peer| &peer.config.public_key);
            let reason = match wanted.get(node) {
                None => DownReason::Removed,
                Some(wanted) if Some(&wanted.public_key) != key => DownReason::KeyChanged,
                Some(_) => return true,
            };
            if let Some(key) = key {
                by_key.remove(key);
            }
            departed.push((*id, reason));
            false
        });
        for (peer, reason) in departed {
            self.remove_peer(peer, reason, now);
        }
    }

    fn remove_peer(&mut self, id: PeerId, reason: DownReason, now: Time) {
        if let Some(mut peer) = self.peers.remove(&id) {
            peer.remove(reason, &mut self.fx, now);
        }
        self.deadlines.set(id, None);
    }

    fn apply_vsubnet(&mut self, wanted: &VSubnetState, state: &State, key: &Arc<StaticKey>) {
        let old = self.vsubnets.remove(&wanted.vni);
        let (mut by_node, mut by_key, key, seed, old_switch) = match old {
            Some(old) => (
                old.by_node,
                old.by_key,
                old.key,
                old.hash_seed,
                Some(old.switch),
            ),
            None => {
                let seed = u64::from_be_bytes(self.fx.draw());
                (HashMap::new(), HashMap::new(), Arc::clone(key), seed, None)
            }
        };
        for peer in &wanted.peers {
            if let Some(known) = by_node.get(&peer.id).and_then(|id| self.peers.get_mut(id)) {
                known.reconfigure(peer.clone());
                continue;
            }
            let id = self.add_peer(wanted.vni, peer, &key);
            by_node.insert(peer.id, id);
            by_key.insert(peer.public_key.clone(), id);
        }
        let config = switch_config(wanted, &by_node, seed);
        let switch = match old_switch {
            Some(old) => old.rebuild(config),
            None => Switch::new(config),
        };
        for id in by_node.values() {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.gate = switch.gate().cloned();
                peer.link.set_lan_mtu(switch.gate().map(|_| wanted.mtu));
            }
        }
        let vsubnet = VSubnet {
            config: wanted.clone(),
            cluster_id: state.cluster_id,
            local: state.node.id,
            revision: state.revision,
            key,
            switch: Arc::new(switch),
            by_node,
            by_key,
            hash_seed: seed,
        };
        self.vsubnets.insert(wanted.vni, vsubnet);
    }

    fn add_peer(&mut self, vni: Vni, config: &PeerState, key: &StaticKey) -> PeerId {
        self.next_peer += 1;
        let id = PeerId(self.next_peer);
        let link = Arc::new(Link::new(id, vni, config.id));
        let mac_key = MacKey::new(key.suite, &config.public_key);
        let we_are_lower = key.public() < config.public_key.as_slice();
        let peer = Peer::new(link, config.clone(), mac_key, we_are_lower);
        self.peers.insert(id, peer);
        if config.warm {
            self.warm.push_back(id);
        }
        id
    }

    fn publish(&self, keys: &HashMap<Suite, Arc<StaticKey>>) {
        let views = self.vsubnets.values().map(|vsubnet| {
            let peers = vsubnet.by_node.values().filter_map(|id| self.peers.get(id));
            Arc::new(VSubnetView {
                vni: vsubnet.config.vni,
                mtu: usize::from(vsubnet.config.mtu),
                switch: Arc::clone(&vsubnet.switch),
                links: peers
                    .map(|peer| (peer.link.peer, Arc::clone(&peer.link)))
                    .collect(),
            })
        });
        let mac_keys = keys
            .values()
            .map(|key| MacKey::new(key.suite, key.public()));
        self.fx.edit(|snapshot| {
            snapshot.vsubnets = views.collect();
            snapshot.mac_keys = mac_keys.collect();
        });
    }
}

fn switch_config(
    wanted: &VSubnetState,
    by_node: &HashMap<NodeId, PeerId>,
    hash_seed: u64,
) -> Config {
    let peers = wanted.peers.iter().filter_map(|peer| {
        let member = Member {
            role: peer.role,
            macs: peer.macs.clone(),
            ips: peer.ips.clone(),
        };
        by_node.get(&peer.id).map(|id| (*id, member))
    });
    Config {
        local: Member {
            role: wanted.role,
            macs: wanted.macs.clone(),
            ips: wanted.ips.clone(),
        },
        peers: peers.collect(),
        policy: Policy {
            bum_pps: wanted.policy.bum_pps,
            bum_burst: wanted.policy.bum_burst,
            gateway_bum_pps: wanted.policy.gateway_bum_pps,
            gateway_source_bum_pps: wanted.policy.gateway_source_bum_pps,
            ageing: wanted.policy.ageing,
            dhcp_server_from_hosts: is_unmanaged(wanted),
            shared_ips: wanted.policy.shared_ips.clone(),
            ..Policy::default()
        },
        hash_seed,
    }
}

/// Whether members get their addresses from one another: the netmap lists none for anybody
/// but the link-local ones, which every member has.
fn is_unmanaged(wanted: &VSubnetState) -> bool {
    let peers = wanted.peers.iter().flat_map(|peer| &peer.ips);
    peers.chain(&wanted.ips).all(|ip| match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    })
}

/// Checks a state whole, and returns this node's key on each curve in use.
fn validate(state: &State) -> Result<HashMap<Suite, Arc<StaticKey>>, StateError> {
    let timers = &state.timers;
    if timers.reject_after <= timers.rekey_after + timers.rekey_jitter {
        return Err(StateError::Timers);
    }
    let mut vnis = BTreeSet::new();
    let mut keys = HashMap::new();
    for vsubnet in &state.vsubnets {
        let vni = vsubnet.vni;
        if vni == 0 || vni > MAX_VNI || !vnis.insert(vni) {
            return Err(StateError::Vni(vni));
        }
        let key = match keys.get(&vsubnet.suite) {
            Some(key) => Arc::clone(key),
            None => {
                let key = StaticKey::new(vsubnet.suite, &state.node.private_key.0);
                Arc::new(key.ok_or(StateError::PrivateKey(vni))?)
            }
        };
        validate_peers(vsubnet, state.node.id, &key)?;
        keys.insert(vsubnet.suite, key);
    }
    Ok(keys)
}

fn validate_peers(
    vsubnet: &VSubnetState,
    local: NodeId,
    key: &StaticKey,
) -> Result<(), StateError> {
    let mut nodes = HashSet::from([local]);
    let mut public_keys = HashSet::from([key.public()]);
    for peer in &vsubnet.peers {
        let (vni, node) = (vsubnet.vni, peer.id);
        if peer.public_key.len() != public_len(vsubnet.suite) {
            return Err(StateError::PublicKey { vni, node });
        }
        if !nodes.insert(node) || !public_keys.insert(&peer.public_key) {
            return Err(StateError::DuplicatePeer { vni, node });
        }
    }
    Ok(())
}
