//! The gates of this node's gateways: opened for a time, and told of when that ends by itself.

use std::sync::Arc;

use crate::core::{Core, UnknownPeer};
use crate::event::Fact;
use crate::ids::{NodeId, Vni};
use crate::switch::{Gate, OlderTerm, Standing};
use crate::time::Time;

/// Why a gate stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateRefused {
    /// This node is no gateway of this vSubnet.
    #[error("this node is no gateway of this vSubnet")]
    NoGateway,
    /// Another holder had a higher term.
    #[error(transparent)]
    OlderTerm(#[from] OlderTerm),
}

impl Core {
    /// Lets this node carry frames between a vSubnet and its LAN until `until`;
    /// [`Time::ZERO`] ends it. The terms of earlier holders are lower.
    pub fn set_gate(&mut self, vni: Vni, term: u64, until: Time) -> Result<(), GateRefused> {
        let gate = self.gate(vni).ok_or(GateRefused::NoGateway)?;
        gate.set(term, until)?;
        self.note_gate(vni, until);
        Ok(())
    }

    /// As [`Core::set_gate`], but a gate that is closed opens a moment from now: what waited
    /// meanwhile is let go first.
    pub fn open_gate(
        &mut self,
        vni: Vni,
        term: u64,
        until: Time,
        now: Time,
    ) -> Result<(), GateRefused> {
        let gate = self.gate(vni).ok_or(GateRefused::NoGateway)?;
        gate.open(term, until, now)?;
        self.note_gate(vni, until);
        Ok(())
    }

    fn note_gate(&mut self, vni: Vni, until: Time) {
        if until == Time::ZERO {
            self.open_gates.remove(&vni);
        } else {
            self.open_gates.insert(vni, until);
        }
    }

    /// How each gate stands, by VNI.
    pub fn gates(&self) -> Vec<(Vni, Arc<Gate>)> {
        let all = self.vsubnets.iter();
        all.filter_map(|(vni, vsubnet)| Some((*vni, Arc::clone(vsubnet.switch.gate()?))))
            .collect()
    }

    /// Forgets the stations that were learned behind a peer; returns how many those were.
    pub fn forget_behind(&mut self, vni: Vni, peer: NodeId) -> Result<u64, UnknownPeer> {
        let peer = self.find_peer(vni, peer)?;
        let vsubnet = self.vsubnets.get(&vni).ok_or(UnknownPeer)?;
        Ok(vsubnet.switch.forget_behind(peer))
    }

    /// When the first gate closes by itself.
    pub(super) fn next_gate(&self) -> Option<Time> {
        self.open_gates.values().min().copied()
    }

    /// Tells of the gates whose time is over.
    pub(super) fn close_gates(&mut self, now: Time) {
        let due = self.open_gates.iter().filter(|(_, until)| **until <= now);
        let closed: Vec<Vni> = due.map(|(vni, _)| *vni).collect();
        for vni in closed {
            self.open_gates.remove(&vni);
            if let Some(Standing { term, .. }) = self.gate(vni).map(|gate| gate.standing()) {
                self.fx.event(Fact::GateClosed { vni, term }, now);
            }
        }
    }

    fn gate(&self, vni: Vni) -> Option<Arc<Gate>> {
        self.vsubnets.get(&vni)?.switch.gate().cloned()
    }
}
