//! What each request does.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_device::clock;
use cairn_engine::{Entropy, GateRefused, NodeId, Time};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::client::{Client, Gone};
use super::request::{self, Apply, Endpoints, Forget, Gate, Probe, Request};
use super::{Applied, ClientId, Control, answer};
use crate::lanes::Lanes;
use crate::refusal::Refusal;
use crate::wiring::Inherited;
use crate::{desired, log};

/// The interface's number (docs/protocol.md 2).
const PROTOCOL: u32 = 1;

/// The longest a probe may be waited for.
const LONGEST_PROBE: Duration = Duration::from_secs(60);

impl Control {
    /// Does what a line asks and answers it; some answers come later.
    pub(super) fn obey(&mut self, client: ClientId, line: &[u8]) -> Result<(), Gone> {
        let (id, request) = request::read(line);
        let answer = match request {
            Err(refusal) => Err(refusal),
            Ok(_) if self.is_handing_over_to_other(client) => Err(Refusal::new(
                "handing_over",
                "a successor is taking over; connect again in a moment",
            )),
            Ok(Request::Hello) => Ok(self.hello()),
            Ok(Request::Apply(apply)) => self.apply(&apply, &mut Inherited::default()),
            Ok(Request::Stats) => Ok(self.stats()),
            Ok(Request::Probe(probe)) => match self.probe(client, id, &probe) {
                Ok(()) => return Ok(()),
                Err(refusal) => Err(refusal),
            },
            Ok(Request::Endpoints(endpoints)) => self.endpoints(&endpoints),
            Ok(Request::Gate(gate)) => self.gate(&gate),
            Ok(Request::Forget(forget)) => self.forget(&forget),
            Ok(Request::UnderlayChanged) => {
                self.core.underlay_changed(clock::now());
                Ok(json!({}))
            }
            Ok(Request::WarmAll) => {
                self.core.warm_all(clock::now());
                Ok(json!({}))
            }
            Ok(Request::Subscribe) => {
                self.with_client(client, |client| {
                    client.subscribe();
                    Ok(())
                })?;
                Ok(json!({}))
            }
            Ok(Request::TakeOver) => match self.hand_over(client, id) {
                Ok(()) => return Ok(()),
                Err(refusal) => Err(refusal),
            },
            Ok(Request::Taken) => self.taken(client),
        };
        let line = match answer {
            Ok(fields) => answer::granted(id, fields),
            Err(refusal) => {
                let fields: [log::Field<'_>; 2] =
                    [("code", &refusal.code), ("cause", &refusal.message)];
                log::warn("request refused", &fields);
                answer::refused(id, &refusal)
            }
        };
        self.with_client(client, |client: &mut Client| client.say(&line))
    }

    fn hello(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": PROTOCOL,
            "pid": std::process::id(),
            "instance": self.instance,
            "generation": self.generation(),
            "offloads": self.offloads(),
            "entropy": if self.entropy.has_cpu_rng() { "rdrand" } else { "fallback" },
            "degraded": self.hardening.missing,
        })
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.applied.as_ref().map(|applied| applied.generation)
    }

    fn offloads(&self) -> Map<String, Value> {
        let ipv6 = match &self.wiring.without_ipv6 {
            Some(reason) => format!("off: {reason}"),
            None => "on".into(),
        };
        let mut states = vec![("batched_system_calls", "on".to_owned()), ("ipv6", ipv6)];
        states.extend(self.wiring.offloads());
        states
            .into_iter()
            .map(|(name, state)| (name.to_owned(), Value::from(state)))
            .collect()
    }

    /// Makes a state true as a whole, or leaves everything as it is.
    pub(super) fn apply(
        &mut self,
        apply: &Apply<'_>,
        inherited: &mut Inherited,
    ) -> Result<Value, Refusal> {
        let text = apply.state.get();
        let state = desired::read(text)?;
        let plan = self.wiring.plan(&state, inherited, &mut self.spare)?;
        let rewired = !plan.is_same(&self.wiring);
        let changed = self.core.apply(state, clock::now())? || rewired;
        let plan = plan.with_gates(self.core.gates());
        if rewired || !plan.has_same_gates(&self.wiring) {
            self.outbox.connect(plan.sockets());
            self.wiring = plan;
            self.publish();
        }
        let text = Zeroizing::new(text.to_owned());
        self.applied = Some(Applied {
            generation: apply.generation,
            text,
        });
        log::info(
            "state applied",
            &[("generation", &apply.generation), ("changed", &changed)],
        );
        Ok(json!({ "generation": apply.generation, "changed": changed }))
    }

    fn stats(&self) -> Value {
        let stats = self.core.stats(clock::now());
        let mut body = answer::stats(&stats);
        self.add_port_counters(&mut body);
        let counters = stats.counters.iter().copied().chain(self.counters.named());
        body.insert("counters".into(), answer::numbers(counters));
        body.insert("instance".into(), self.instance.clone().into());
        body.insert("uptime_s".into(), self.uptime().as_secs().into());
        body.insert("generation".into(), self.generation().into());
        Value::Object(body)
    }

    /// Adds what each TAP took and refused to its vSubnet.
    fn add_port_counters(&self, body: &mut Map<String, Value>) {
        let Some(Value::Array(vsubnets)) = body.get_mut("vsubnets") else {
            return;
        };
        for vsubnet in vsubnets {
            let vni = vsubnet["vni"]
                .as_u64()
                .and_then(|vni| u32::try_from(vni).ok());
            if let Some(port) = vni.and_then(|vni| self.wiring.plumbings[0].port(vni)) {
                vsubnet["tap_lost"] = port.lost.load(Ordering::Acquire).into();
                vsubnet["tap_counters"] = answer::numbers(port.written.named());
            }
        }
    }

    /// Lets the packet threads work on what is open now.
    pub(super) fn publish(&self) {
        for (lanes, plumbing) in self.lanes.iter().zip(&self.wiring.plumbings) {
            lanes.publish(plumbing);
        }
    }

    fn probe(&mut self, client: ClientId, id: Option<u64>, probe: &Probe) -> Result<(), Refusal> {
        let timeout = Duration::from_millis(probe.timeout_ms).min(LONGEST_PROBE);
        let token = self
            .core
            .probe(probe.vni, NodeId(probe.peer.0), timeout, clock::now())
            .map_err(|_| unknown_peer(probe.vni, NodeId(probe.peer.0)))?;
        self.probes.insert(token, (client, id));
        Ok(())
    }

    fn endpoints(&mut self, endpoints: &Endpoints) -> Result<Value, Refusal> {
        let peer = NodeId(endpoints.peer.0);
        self.core
            .add_endpoints(endpoints.vni, peer, &endpoints.endpoints, clock::now())
            .map_err(|_| unknown_peer(endpoints.vni, peer))?;
        Ok(json!({}))
    }

    /// When this is answered with a time that is over, no frame passes any more: those that were
    /// under way have gone.
    pub(super) fn gate(&mut self, gate: &Gate) -> Result<Value, Refusal> {
        let until = Time::from_nanos(gate.forward_until_ns);
        match self
            .core
            .open_gate(gate.vni, gate.term, until, clock::now())
        {
            Ok(()) => {
                if until <= clock::now() {
                    self.lanes.iter().for_each(Lanes::wait_for_batches);
                }
                Ok(json!({}))
            }
            Err(GateRefused::NoGateway) => Err(Refusal::new(
                "no_gateway",
                format!(
                    "this node is no gateway of vSubnet {} in the state that was applied last; \
                     apply one in which its role is gateway",
                    gate.vni
                ),
            )),
            Err(GateRefused::OlderTerm(older)) => Err(Refusal::new(
                "older_term",
                format!("{older}; ask the appliance who forwards now"),
            )),
        }
    }

    fn forget(&mut self, forget: &Forget) -> Result<Value, Refusal> {
        let peer = NodeId(forget.peer.0);
        let forgotten = self
            .core
            .forget_behind(forget.vni, peer)
            .map_err(|_| unknown_peer(forget.vni, peer))?;
        Ok(json!({ "forgotten": forgotten }))
    }
}

fn unknown_peer(vni: u32, peer: NodeId) -> Refusal {
    Refusal::new(
        "unknown_peer",
        format!("node {peer} is no member of vSubnet {vni} in the state that was applied last"),
    )
}
