//! How a peer is reached: CONTROL packets, endpoints that move, liveness (rules 9 and 15).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_wire::Mac;
use cairn_wire::control::{Tlv, Tlvs};

use crate::core::effects::Effects;
use crate::core::peer::{Peer, Probe};
use crate::drops::Dropped;
use crate::event::{Fact, ProbeOutcome};
use crate::link::{Path, read, stamp};
use crate::liveness::{Liveness, Noted, Step};
use crate::multicast::PRUNE_SECONDS;
use crate::paths::ChallengeDue;
use crate::seal::Kind;
use crate::session::Session;
use crate::time::Time;

/// A packet on a session this much older than the one in use moves no endpoint.
const ROAM_OVERLAP: Duration = Duration::from_secs(10);
/// Probes asked for by people, at once.
const MAX_PROBES: usize = 64;

impl Peer {
    /// Sends TLVs on a session; none: a keepalive.
    pub(super) fn send_control(
        &self,
        session: &Session,
        tlv: Option<Tlv>,
        to: SocketAddr,
        fx: &mut Effects,
        now: Time,
    ) {
        let encoded = tlv.map(Tlv::encode);
        let plaintext = encoded
            .as_ref()
            .map_or(&[][..], |(octets, len)| &octets[..*len]);
        self.send_control_list(session, plaintext, to, fx, now);
    }

    /// Sends a list of TLVs as it stands.
    pub(super) fn send_control_list(
        &self,
        session: &Session,
        plaintext: &[u8],
        to: SocketAddr,
        fx: &mut Effects,
        now: Time,
    ) {
        let Some(datagram) = fx.seal(session, Kind::Control, plaintext) else {
            return;
        };
        if self.admits(to, datagram.len()) {
            fx.transmit(to, datagram);
            stamp(&self.link.traffic.sent, now);
        } else {
            fx.shared.drops.count(Dropped::PathUnvalidated);
        }
    }

    pub(super) fn send_keepalive(&self, fx: &mut Effects, now: Time) {
        if let (Some(session), Some(to)) = (self.usable(now), self.link.endpoint()) {
            self.send_control(&session, None, to, fx, now);
        }
    }

    /// Says that our host doesn't listen to a group; the peer needn't send any of it for a while.
    pub(crate) fn send_prune(&mut self, group: Mac, fx: &mut Effects, now: Time) {
        if let (Some(session), Some(to)) = (self.usable(now), self.link.endpoint()) {
            let seconds = PRUNE_SECONDS;
            self.pruned_until = now + Duration::from_secs(u64::from(seconds));
            self.send_control(&session, Some(Tlv::Prune { group, seconds }), to, fx, now);
        }
    }

    /// Takes back what `send_prune` said.
    pub(crate) fn send_graft(&self, fx: &mut Effects, now: Time) {
        if let (Some(session), Some(to)) = (self.usable(now), self.link.endpoint()) {
            self.send_control(&session, Some(Tlv::Graft), to, fx, now);
        }
    }

    /// The peer's newest packet came from another endpoint (rule 9).
    pub(crate) fn roam(
        &mut self,
        session: &Session,
        from: SocketAddr,
        octets: u64,
        fx: &mut Effects,
        now: Time,
    ) {
        let in_use = self.slots.current();
        let current_since = in_use.map_or(Time::ZERO, |current| current.established);
        if session.is_confirmed() && session.established + ROAM_OVERLAP >= current_since {
            self.arrive_at(from, false, octets as usize, fx, now);
        }
    }

    /// Sends to `from` from now on; challenges it first unless it has proved itself.
    pub(super) fn arrive_at(
        &mut self,
        from: SocketAddr,
        proved: bool,
        octets: usize,
        fx: &mut Effects,
        now: Time,
    ) {
        let before = self.link.endpoint();
        if proved {
            self.paths.prove(from, now);
        }
        let proved = self.paths.is_proven(from, now);
        let known = self.link.path.load_full();
        match known.filter(|path| path.endpoint == from) {
            Some(path) if proved => path.validated.store(true, Ordering::Relaxed),
            Some(path) => {
                path.unanswered.store(false, Ordering::Relaxed);
                path.note_received(octets);
                // What could not be afforded before may be now.
                self.paths.hasten_challenge(from, now);
            }
            None => {
                let path = Path::new(from, proved, octets as u64);
                self.link.path.store(Some(Arc::new(path)));
                self.paths.keep_challenge_of(from);
            }
        }
        if !proved {
            self.challenge(from, fx, now);
        } else if before.is_some_and(|before| before != from) {
            self.tell_moved(from, fx, now);
        }
    }

    /// Whether the peer has proved that it is at `endpoint`, lately or for the path in use.
    pub(crate) fn is_at(&self, endpoint: SocketAddr, now: Time) -> bool {
        let path = self.link.path.load();
        let mut in_use = path.iter().filter(|path| path.endpoint == endpoint);
        let validated = in_use.any(|path| path.validated.load(Ordering::Relaxed));
        validated || self.paths.is_proven(endpoint, now)
    }

    pub(super) fn challenge(&mut self, endpoint: SocketAddr, fx: &mut Effects, now: Time) {
        let under_way = self.paths.challenge.as_ref();
        if under_way.is_none_or(|challenge| challenge.endpoint != endpoint) {
            self.paths.challenge(endpoint, fx.draw(), now);
        }
    }

    pub(super) fn tell_moved(&mut self, endpoint: SocketAddr, fx: &mut Effects, now: Time) {
        let fact = Fact::EndpointChanged {
            vni: self.link.vni,
            peer: self.link.node,
            endpoint,
        };
        fx.event(fact, now);
    }

    /// Acts on an authentic CONTROL packet.
    pub(crate) fn control(
        &mut self,
        session: &Arc<Session>,
        from: SocketAddr,
        plaintext: &[u8],
        fx: &mut Effects,
        now: Time,
    ) {
        // A responder never sends on an unconfirmed session; this one was confirmed by the packet.
        let reply_on = self.usable(now).unwrap_or_else(|| Arc::clone(session));
        for tlv in Tlvs::new(plaintext) {
            match tlv {
                Err(_) => fx.shared.drops.count(Dropped::MalformedControl),
                Ok(Tlv::Keepalive) => {}
                Ok(Tlv::Challenge(token)) => {
                    self.send_control(&reply_on, Some(Tlv::Response(token)), from, fx, now);
                }
                Ok(Tlv::Probe(token)) => {
                    self.send_control(&reply_on, Some(Tlv::ProbeReply(token)), from, fx, now);
                }
                Ok(Tlv::Prune { group, seconds }) => self.link.pruned.add(group, seconds, now),
                Ok(Tlv::Graft) => self.link.pruned.clear(),
                Ok(Tlv::Response(token)) => self.responded(from, token, fx, now),
                Ok(Tlv::ProbeReply(token)) => self.probe_replied(from, token, fx, now),
            }
        }
    }

    pub(super) fn responded(
        &mut self,
        from: SocketAddr,
        token: [u8; 8],
        fx: &mut Effects,
        now: Time,
    ) {
        if !self.paths.is_response(from, token) {
            return;
        }
        self.paths.prove(from, now);
        let path = self.link.path.load_full();
        if let Some(path) = path.filter(|path| path.endpoint == from) {
            path.validated.store(true, Ordering::Relaxed);
            self.tell_moved(from, fx, now);
        }
    }

    pub(super) fn probe_replied(
        &mut self,
        from: SocketAddr,
        token: [u8; 8],
        fx: &mut Effects,
        now: Time,
    ) {
        if self.size_passed(token, now) {
            return;
        }
        if let Some(sent) = self.liveness.sent_at(token) {
            self.rtt = Some(now.since(sent));
        }
        let mut probes = self.probes.iter();
        let asked = probes.position(|probe| probe.sent.is_some_and(|(_, sent)| sent == token));
        let Some(asked) = asked else {
            return;
        };
        let probe = self.probes.swap_remove(asked);
        if let Some((sent, _)) = probe.sent {
            let rtt = now.since(sent);
            self.rtt = Some(rtt);
            let outcome = ProbeOutcome::Replied {
                rtt,
                endpoint: from,
            };
            fx.event(
                Fact::Probed {
                    token: probe.token,
                    outcome,
                },
                now,
            );
        }
    }

    /// Sends a probe that somebody asked for, once there is a session.
    pub(crate) fn probe(&mut self, token: u64, until: Time, fx: &mut Effects, now: Time) {
        if self.probes.len() == MAX_PROBES {
            let oldest = self.probes.remove(0);
            let outcome = ProbeOutcome::Timeout;
            fx.event(
                Fact::Probed {
                    token: oldest.token,
                    outcome,
                },
                now,
            );
        }
        self.probes.push(Probe {
            token,
            until,
            sent: None,
        });
        if self.usable(now).is_some() {
            self.send_probes(fx, now);
        } else {
            self.seek(fx, now);
        }
    }

    pub(super) fn send_probes(&mut self, fx: &mut Effects, now: Time) {
        let (Some(session), Some(to)) = (self.usable(now), self.link.endpoint()) else {
            return;
        };
        for at in 0..self.probes.len() {
            if self.probes[at].sent.is_none() {
                let token = fx.draw();
                self.probes[at].sent = Some((now, token));
                self.send_control(&session, Some(Tlv::Probe(token)), to, fx, now);
            }
        }
    }

    /// Sees at once whether the peer still hears us.
    pub(crate) fn probe_liveness(&mut self, fx: &mut Effects, now: Time) {
        if let (Some(session), Some(to)) = (self.usable(now), self.link.endpoint()) {
            let token = fx.draw();
            self.send_control(&session, Some(Tlv::Probe(token)), to, fx, now);
            self.link.watched.store(true, Ordering::Release);
            self.liveness.probed(token, now);
        }
    }

    pub(super) fn step_liveness(&mut self, fx: &mut Effects, now: Time) {
        let noted = self.noted();
        match self.liveness.step(noted, fx.timers.dead_after, now) {
            Step::None => {}
            Step::Rest => self.rest(now),
            Step::Probe if self.usable(now).is_some() && self.link.endpoint().is_some() => {
                self.probe_liveness(fx, now);
            }
            // Without a session and an endpoint there is nothing to probe: to go on watching would
            // leave a deadline in the past. The attempt to get a session looks on.
            Step::Probe => self.rest(now),
            Step::LookElsewhere => self.look_elsewhere(fx, now),
        }
    }

    pub(super) fn noted(&self) -> Noted {
        Noted {
            sent_data: read(&self.link.traffic.sent_data).unwrap_or_default(),
            received: read(&self.link.traffic.received).unwrap_or_default(),
        }
    }

    /// Stops watching, unless something was sent meanwhile.
    pub(super) fn rest(&mut self, now: Time) {
        self.liveness = Liveness::Resting;
        let before = self.noted().sent_data;
        self.link.watched.store(false, Ordering::SeqCst);
        let after = self.noted().sent_data;
        if after > before && !self.link.watched.swap(true, Ordering::SeqCst) {
            self.liveness.watch(after, now.since(after));
        }
    }

    pub(super) fn look_elsewhere(&mut self, fx: &mut Effects, now: Time) {
        let fact = Fact::EndpointWanted {
            vni: self.link.vni,
            peer: self.link.node,
        };
        fx.event(fact, now);
        self.drop_attempt(fx);
        self.seek(fx, now);
    }

    pub(super) fn step_challenge(&mut self, fx: &mut Effects, now: Time) {
        match self.paths.challenge_due(now) {
            None => {}
            Some(ChallengeDue::Send(endpoint, token)) => {
                if let Some(session) = self.usable(now) {
                    self.send_control(&session, Some(Tlv::Challenge(token)), endpoint, fx, now);
                }
            }
            Some(ChallengeDue::Failed(fallback)) => {
                if let Some(endpoint) = fallback {
                    let path = Path::new(endpoint, true, 0);
                    self.link.path.store(Some(Arc::new(path)));
                } else if let Some(path) = self.link.path.load().as_ref() {
                    path.unanswered.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    pub(super) fn step_probes(&mut self, fx: &mut Effects, now: Time) {
        let (over, waiting) = self.probes.drain(..).partition(|probe| probe.until <= now);
        self.probes = waiting;
        let over: Vec<Probe> = over;
        for probe in over {
            let outcome = match probe.sent {
                Some(_) => ProbeOutcome::Timeout,
                None => ProbeOutcome::NoSession,
            };
            fx.event(
                Fact::Probed {
                    token: probe.token,
                    outcome,
                },
                now,
            );
        }
    }
}
