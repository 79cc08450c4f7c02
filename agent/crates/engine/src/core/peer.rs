//! One peer as the slow path sees it: its sessions, its attempt to get one, its queue, its paths.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_wire::Mac;
use cairn_wire::header;

use crate::core::apply::VSubnet;
use crate::core::effects::Effects;
use crate::core::path_mtu::PathMtu;
use crate::drops::Dropped;
use crate::event::{DownReason, Fact, ProbeOutcome};
use crate::handshake::{Accepted, Attempt, Cookies, Due};
use crate::link::{Link, read};
use crate::liveness::Liveness;
use crate::mac::MacKey;
use crate::offload::PREFIX_LEN;
use crate::paths::Paths;
use crate::seal::Kind;
use crate::session::Session;
use crate::slots::Slots;
use crate::state::PeerState;
use crate::switch::{Gate, is_loop_probe};
use crate::time::Time;
use crate::timers::earlier;

/// A frame waits at most this long for a session (rule 11).
const QUEUE_FOR: Duration = Duration::from_secs(2);
/// Behind a NAT, something is sent at least this often (rule 6).
const NAT_KEEPALIVE: Duration = Duration::from_secs(20);
/// Spoofed frames of a peer are reported this often.
const SPOOFING_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Peer {
    pub(crate) link: Arc<Link>,
    pub(crate) config: PeerState,
    /// For the MACs of what we send to it.
    pub(crate) mac_key: MacKey,
    /// Whether our static key is lower than its (rule 16).
    pub(crate) we_are_lower: bool,
    pub(crate) slots: Slots,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) accepted: Accepted,
    pub(crate) cookies: Cookies,
    pub(crate) paths: Paths,
    pub(crate) liveness: Liveness,
    pub(crate) handshakes: u64,
    pub(crate) rtt: Option<Duration>,
    queue: VecDeque<Waiting>,
    keepalive_at: Option<Time>,
    /// When a keepalive for the NAT was last due: it may have found no path that takes it.
    nat_kept: Time,
    pub(super) probes: Vec<Probe>,
    pub(super) path_mtu: Option<PathMtu>,
    /// Whether `session_up` was the last to be told.
    told_up: bool,
    spoofing: Spoofing,
    reflections: Reflections,
    /// This node's own, where it is a gateway.
    pub(super) gate: Option<Arc<Gate>>,
    /// Until then the peer may hold back multicast that we said we don't need.
    pub(crate) pruned_until: Time,
}

struct Waiting {
    since: Time,
    /// With its prefix.
    frame: Box<[u8]>,
}

/// A probe that somebody asked for.
pub(super) struct Probe {
    pub(super) token: u64,
    pub(super) until: Time,
    pub(super) sent: Option<(Time, [u8; 8])>,
}

#[derive(Default)]
struct Spoofing {
    /// Frames told of so far.
    told: u64,
    /// When the fast path may tell again.
    listen_at: Option<Time>,
}

#[derive(Default)]
struct Reflections {
    /// Since they were last told of.
    count: u64,
    told_at: Option<Time>,
}

impl Peer {
    pub(crate) fn new(
        link: Arc<Link>,
        config: PeerState,
        mac_key: MacKey,
        we_are_lower: bool,
    ) -> Self {
        let mut paths = Paths::default();
        paths.set_given(&config.endpoints);
        Self {
            link,
            config,
            mac_key,
            we_are_lower,
            slots: Slots::default(),
            attempt: None,
            accepted: Accepted::default(),
            cookies: Cookies::default(),
            paths,
            liveness: Liveness::default(),
            handshakes: 0,
            rtt: None,
            queue: VecDeque::new(),
            keepalive_at: None,
            nat_kept: Time::ZERO,
            probes: Vec::new(),
            path_mtu: None,
            told_up: false,
            spoofing: Spoofing::default(),
            reflections: Reflections::default(),
            gate: None,
            pruned_until: Time::ZERO,
        }
    }

    /// The session to send on, if there is one.
    pub(crate) fn usable(&self, now: Time) -> Option<Arc<Session>> {
        let current = self
            .slots
            .current()
            .filter(|session| session.is_usable(now));
        current.cloned()
    }

    /// Whether there is neither a session nor an attempt to get one.
    pub(crate) fn is_cold(&self) -> bool {
        self.slots.current().is_none() && self.attempt.is_none()
    }

    /// Takes a newer description of the same node.
    pub(crate) fn reconfigure(&mut self, config: PeerState) {
        if self.config.endpoints != config.endpoints {
            self.paths.set_given(&config.endpoints);
        }
        self.config = config;
    }

    pub(crate) fn add_endpoints(&mut self, endpoints: &[SocketAddr], now: Time) {
        let has_new = self.paths.add_given(endpoints);
        if let Some(attempt) = &mut self.attempt
            && has_new
        {
            attempt.retry_now(now);
        }
    }

    /// Wants a session over any path. An attempt that winds down sends nothing more.
    pub(crate) fn seek(&mut self, fx: &mut Effects, now: Time) {
        if self.attempt.as_ref().is_some_and(Attempt::is_winding_down) {
            self.drop_attempt(fx);
        }
        match &mut self.attempt {
            Some(attempt) => attempt.widen(now),
            None => self.attempt = Some(Attempt::new(false, now)),
        }
    }

    /// Renews the session in use over the path in use.
    pub(crate) fn rekey(&mut self, session: &Arc<Session>, now: Time) {
        let in_use = self
            .slots
            .current()
            .is_some_and(|current| Arc::ptr_eq(current, session));
        if in_use && self.attempt.is_none() {
            self.attempt = Some(Attempt::new(self.liveness != Liveness::Dead, now));
        }
    }

    /// Takes a frame that has to wait, or sends it if it needn't any longer.
    pub(crate) fn want(&mut self, frame: Box<[u8]>, fx: &mut Effects, now: Time) {
        self.queue.push_back(Waiting { since: now, frame });
        if self.usable(now).is_some() {
            self.flush(fx, now);
        } else if self.attempt.as_ref().is_none_or(Attempt::is_winding_down) {
            self.seek(fx, now);
        }
    }

    /// Sends the frames that wait, in order.
    fn flush(&mut self, fx: &mut Effects, now: Time) {
        let Some(session) = self.usable(now) else {
            return;
        };
        while let Some(Waiting { since, frame }) = self.queue.pop_front() {
            let is_closed = self.gate.as_ref().is_some_and(|gate| !gate.is_open(now));
            let sent = if now.since(since) > QUEUE_FOR {
                Err(Dropped::QueueExpired)
            } else if is_closed && !is_loop_probe(&frame[PREFIX_LEN..]) {
                Err(Dropped::GateClosed)
            } else {
                self.send_frame(&session, &frame, fx, now)
            };
            if let Err(reason) = sent {
                fx.shared.drops.count(reason);
            }
            fx.shared.release_queue(&self.link, frame.len());
        }
    }

    fn send_frame(
        &mut self,
        session: &Session,
        frame: &[u8],
        fx: &mut Effects,
        now: Time,
    ) -> Result<(), Dropped> {
        let path = self.link.path.load_full().ok_or(Dropped::NoEndpoint)?;
        let datagram = fx
            .seal(session, Kind::Data, frame)
            .ok_or(Dropped::SessionExpired)?;
        let to = path.admit(datagram.len())?;
        fx.transmit(to, datagram);
        if self.link.note_sent_frames(1, frame.len() - PREFIX_LEN, now) {
            self.liveness.watch(now, fx.timers.dead_after);
        }
        Ok(())
    }

    /// Whether `octets` may go to `to`: the path in use may still have to prove itself (rule 9).
    pub(crate) fn admits(&self, to: SocketAddr, octets: usize) -> bool {
        let path = self.link.path.load();
        let in_use = path.as_ref().filter(|path| path.endpoint == to);
        in_use.is_none_or(|path| path.admit(octets).is_ok())
    }

    /// Data was received: something has to go back within the keepalive time.
    pub(crate) fn owe(&mut self, since: Time, fx: &Effects) {
        let at = since + fx.timers.keepalive;
        self.keepalive_at = Some(self.keepalive_at.map_or(at, |old| old.min(at)));
    }

    /// The initiator has used a session that we offered.
    pub(crate) fn confirm(
        &mut self,
        session: Arc<Session>,
        from: SocketAddr,
        fx: &mut Effects,
        now: Time,
    ) {
        let answered_there = session.offered_to == Some(from);
        self.install(session, fx, now);
        self.arrive_at(from, answered_there, 0, fx, now);
        if let Some(attempt) = &mut self.attempt {
            attempt.wind_down(now);
        }
        self.put_in_use(fx, now);
    }

    /// Our INIT was answered.
    pub(crate) fn complete(
        &mut self,
        session: Arc<Session>,
        from: SocketAddr,
        asked_there: bool,
        fx: &mut Effects,
        now: Time,
    ) {
        fx.publish(Arc::clone(&session));
        self.drop_attempt(fx);
        self.install(Arc::clone(&session), fx, now);
        // Where a RESP comes from proves nothing new of a peer whose path works.
        let has_path = self.link.path.load().is_some() && self.liveness != Liveness::Dead;
        if asked_there || !has_path {
            self.arrive_at(from, asked_there, header::resp_len(32), fx, now);
        }
        self.put_in_use(fx, now);
        // The responder may use the session only when it has heard us on it, and what we send
        // may get lost: so this goes on until there is an answer.
        let in_use = self
            .slots
            .current()
            .is_some_and(|current| Arc::ptr_eq(current, &session));
        if in_use {
            self.probe_liveness(fx, now);
        } else {
            self.send_control(&session, None, from, fx, now);
        }
    }

    fn install(&mut self, session: Arc<Session>, fx: &mut Effects, now: Time) {
        // A peer that has restarted doesn't know any more what it said.
        self.link.pruned.clear();
        if let Some(old) = self.slots.install(session, self.we_are_lower) {
            fx.retire(&old);
        }
        self.handshakes += 1;
        fx.counters.handshakes_completed += 1;
        if self.liveness == Liveness::Dead {
            self.rest(now);
        }
    }

    /// Publishes the current session, after the frames that wait have their counters.
    fn put_in_use(&mut self, fx: &mut Effects, now: Time) {
        self.flush(fx, now);
        self.link.current.store(self.slots.current().cloned());
        self.send_probes(fx, now);
        self.tell_up_or_down(DownReason::Expired, fx, now);
    }

    /// The peer runs twice from one memory image: the session is worth nothing.
    pub(crate) fn cloned(&mut self, session: &Arc<Session>, fx: &mut Effects, now: Time) {
        let Some(session) = self.slots.remove(session.local_index) else {
            return;
        };
        fx.retire(&session);
        fx.counters.clones_seen += 1;
        self.link.current.store(self.slots.current().cloned());
        let fact = Fact::CloneSeen {
            vni: self.link.vni,
            peer: self.link.node,
        };
        fx.event(fact, now);
        self.tell_up_or_down(DownReason::Cloned, fx, now);
        // The peer doesn't know that its session has ended, and would find out by silence.
        if self.slots.current().is_none() {
            self.seek(fx, now);
        }
    }

    pub(crate) fn report_spoofing(&mut self, mac: Mac, count: u64, fx: &mut Effects, now: Time) {
        let fact = Fact::Spoofed {
            vni: self.link.vni,
            peer: self.link.node,
            mac,
            count: count.saturating_sub(self.spoofing.told).max(1),
        };
        self.spoofing.told = count;
        self.spoofing.listen_at = Some(now + SPOOFING_EVERY);
        fx.event(fact, now);
    }

    /// A frame of the peer has the source of a station on our own LAN.
    pub(crate) fn report_reflection(&mut self, mac: Mac, fx: &mut Effects, now: Time) {
        self.reflections.count += 1;
        let told_at = self.reflections.told_at;
        if told_at.is_some_and(|at| now.since(at) < SPOOFING_EVERY) {
            return;
        }
        let fact = Fact::Reflected {
            vni: self.link.vni,
            peer: self.link.node,
            mac,
            count: std::mem::take(&mut self.reflections.count),
        };
        self.reflections.told_at = Some(now);
        fx.event(fact, now);
    }

    /// Ends everything at once: the peer is no longer a member, or no longer who it was.
    pub(crate) fn remove(&mut self, reason: DownReason, fx: &mut Effects, now: Time) {
        self.link.removed.store(true, Ordering::Release);
        self.link.current.store(None);
        for session in self.slots.take_all() {
            fx.retire(&session);
        }
        self.drop_attempt(fx);
        for waiting in self.queue.drain(..) {
            fx.shared.drops.count(Dropped::PeerRemoved);
            fx.shared.release_queue(&self.link, waiting.frame.len());
        }
        for probe in self.probes.drain(..) {
            let outcome = ProbeOutcome::NoSession;
            fx.event(
                Fact::Probed {
                    token: probe.token,
                    outcome,
                },
                now,
            );
        }
        self.tell_up_or_down(reason, fx, now);
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, fx: &mut Effects, vsubnet: &VSubnet, now: Time) {
        self.step_sessions(fx, now);
        self.step_attempt(fx, vsubnet, now);
        self.step_queue(fx, now);
        self.step_keepalives(fx, now);
        self.step_liveness(fx, now);
        self.step_challenge(fx, now);
        self.step_probes(fx, now);
        self.step_path_mtu(fx, vsubnet, now);
        // A liveness step may have started an attempt.
        self.step_attempt(fx, vsubnet, now);
        if self.spoofing.listen_at.is_some_and(|at| at <= now) {
            self.spoofing.listen_at = None;
            self.link.spoofing.store(false, Ordering::Release);
        }
    }

    /// When there will be something to do.
    pub(crate) fn deadline(&self, fx: &Effects) -> Option<Time> {
        let attempt = self.attempt.as_ref().and_then(Attempt::due_at);
        let queue = self.queue.front().map(|waiting| waiting.since + QUEUE_FOR);
        let probes = self.probes.iter().map(|probe| probe.until).min();
        let challenge = self.paths.challenge.as_ref().map(|challenge| challenge.due);
        [
            attempt,
            queue,
            probes,
            challenge,
            self.slots.next_expiry(),
            self.keepalive_at,
            self.nat_keepalive_at(fx),
            self.liveness.due(),
            self.path_mtu_due(),
            self.spoofing.listen_at,
        ]
        .into_iter()
        .fold(None, earlier)
    }

    fn step_sessions(&mut self, fx: &mut Effects, now: Time) {
        let expired = self.slots.take_expired(now);
        if expired.is_empty() {
            return;
        }
        for session in expired {
            fx.retire(&session);
        }
        self.link.current.store(self.slots.current().cloned());
        self.tell_up_or_down(DownReason::Expired, fx, now);
    }

    fn step_attempt(&mut self, fx: &mut Effects, vsubnet: &VSubnet, now: Time) {
        let [jitter] = match self.attempt.as_ref().and_then(Attempt::due_at) {
            Some(at) if at <= now => fx.draw(),
            _ => return,
        };
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        match attempt.due(i8::from_be_bytes([jitter]), now) {
            Due::Nothing => {}
            Due::Init(reach) => self.send_init(reach, fx, vsubnet, now),
            Due::GiveUp => self.give_up(fx, now),
        }
    }

    fn give_up(&mut self, fx: &mut Effects, now: Time) {
        self.drop_attempt(fx);
        if self.liveness == Liveness::Dead {
            self.rest(now);
        }
        if let Some(current) = self.slots.current() {
            current.rekey_told.store(false, Ordering::Release);
        }
        self.tell_up_or_down(DownReason::Expired, fx, now);
    }

    pub(crate) fn drop_attempt(&mut self, fx: &mut Effects) {
        for pending in self
            .attempt
            .take()
            .into_iter()
            .flat_map(|attempt| attempt.pending)
        {
            fx.shared.awaited.remove(pending.index);
        }
    }

    fn step_queue(&mut self, fx: &mut Effects, now: Time) {
        while let Some(waiting) = self.queue.front()
            && waiting.since + QUEUE_FOR <= now
        {
            fx.shared.drops.count(Dropped::QueueExpired);
            fx.shared.release_queue(&self.link, waiting.frame.len());
            self.queue.pop_front();
        }
    }

    fn step_keepalives(&mut self, fx: &mut Effects, now: Time) {
        if let Some(at) = self.keepalive_at.filter(|at| *at <= now) {
            self.keepalive_at = None;
            self.link.owing.store(false, Ordering::Release);
            let sent = read(&self.link.traffic.sent).unwrap_or_default();
            if sent + fx.timers.keepalive < at {
                self.send_keepalive(fx, now);
            }
        }
        if self.nat_keepalive_at(fx).is_some_and(|at| at <= now) {
            self.nat_kept = now;
            self.send_keepalive(fx, now);
            self.renew_if_due(now);
        }
    }

    /// Behind a NAT a session is kept even when nobody uses it: without it, nobody outside could
    /// reach us.
    fn nat_keepalive_at(&self, fx: &Effects) -> Option<Time> {
        let current = self.slots.current().filter(|_| fx.behind_nat)?;
        let sent = read(&self.link.traffic.sent).unwrap_or(current.established);
        Some(sent.max(current.established).max(self.nat_kept) + NAT_KEEPALIVE)
    }

    fn renew_if_due(&mut self, now: Time) {
        if self.attempt.is_none()
            && let Some(current) = self.slots.current()
            && current.claim_rekey(now)
        {
            self.attempt = Some(Attempt::new(true, now));
        }
    }

    fn tell_up_or_down(&mut self, reason: DownReason, fx: &mut Effects, now: Time) {
        let (vni, peer) = (self.link.vni, self.link.node);
        let up = self.slots.current().is_some();
        if up && !self.told_up {
            let endpoint = self.link.endpoint();
            fx.event(
                Fact::SessionUp {
                    vni,
                    peer,
                    endpoint,
                },
                now,
            );
        } else if !up && self.told_up {
            fx.event(Fact::SessionDown { vni, peer, reason }, now);
        }
        self.told_up = up;
    }
}
