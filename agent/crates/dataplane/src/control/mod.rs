//! The thread that owns the core: control socket, timers and the slow path.
//!
//! It may take its time: the packet threads wait for nothing here.

mod answer;
mod client;
mod handover;
mod listener;
mod operations;
mod request;

pub use handover::take_over;
pub use listener::{Access, Listener};

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_device::entropy::SystemEntropy;
use cairn_device::process::Hardening;
use cairn_device::readiness::{Epoll, Interest, Ready};
use cairn_device::signals::EndSignals;
use cairn_device::udp::Spare;
use cairn_device::{clock, local, multicast};
use cairn_engine::{Core, Entropy, Fact, ProbeOutcome, Time};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::lanes::{self, Lanes};
use crate::log;
use crate::outbox::Outbox;
use crate::plumbing::Counters;
use crate::refusal::Refusal;
use crate::slow::{self, Collect, Submit};
use crate::wiring::Wiring;
use client::{Client, Gone};
use handover::Handover;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const SLOW_PATH: u64 = 2;
const FIRST_CLIENT: u64 = 16;

/// The agent needs one; the rest is for people who look.
const MOST_CLIENTS: usize = 32;

/// How long to wait after a connection couldn't be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Messages of the slow path handled before clients and timers have their turn.
const MESSAGES_A_ROUND: usize = 256;

/// A number for a connection; never given twice.
type ClientId = u64;

/// The state that is true now.
struct Applied {
    generation: u64,
    /// As the agent wrote it, to be handed over.
    text: Zeroizing<String>,
}

/// Everything that isn't per packet.
pub struct Control {
    core: Core,
    entropy: Arc<SystemEntropy>,
    counters: Arc<Counters>,
    collect: Collect,
    submit: Submit,
    /// One or more; none while another process takes over.
    lanes: Vec<Lanes>,
    wiring: Wiring,
    spare: Spare,
    outbox: Outbox,
    epoll: Epoll,
    signals: EndSignals,
    listener: Option<Listener>,
    /// When connections are accepted again, while they can't be.
    accept_again: Option<Time>,
    clients: BTreeMap<ClientId, Client>,
    next_client: ClientId,
    /// Probes under way: the engine's token, who asked, and the number of the question.
    probes: BTreeMap<u64, (ClientId, Option<u64>)>,
    applied: Option<Applied>,
    handover: Option<Handover>,
    instance: String,
    started: Time,
    hardening: Hardening,
    /// Whether it was said that the CPU's generator can't be used.
    entropy_reported: bool,
    /// Offloads that are off, and were said to be.
    offloads_reported: BTreeMap<&'static str, String>,
    end: bool,
}

impl Control {
    /// Starts the packet threads, which have nothing to do yet.
    pub fn new(signals: EndSignals, hardening: Hardening, spare: Spare) -> Result<Self, Failure> {
        Self::build(signals, hardening, spare).map_err(|error| {
            Failure::environment(
                format!("threads and descriptors can't be had: {error}"),
                "raise the limits of processes and open files (ulimit -u, ulimit -n)",
            )
        })
    }

    fn build(signals: EndSignals, hardening: Hardening, spare: Spare) -> io::Result<Self> {
        let entropy = Arc::new(SystemEntropy::new());
        let core = Core::new(Arc::clone(&entropy) as Arc<dyn Entropy>);
        let counters = Arc::new(Counters::default());
        let (submit, collect) = slow::queue()?;
        let pairs = lanes::pairs();
        let lanes = lanes::start(pairs, &core, &submit, &counters)?;
        let epoll = Epoll::new()?;
        epoll.add(signals.as_fd(), SIGNALS, Interest::READ)?;
        epoll.add(collect.ready().as_fd(), SLOW_PATH, Interest::READ)?;
        Ok(Self {
            outbox: Outbox::new(Arc::clone(&counters)),
            instance: random_name(&*entropy),
            core,
            entropy,
            counters,
            collect,
            submit,
            lanes,
            wiring: Wiring::new(pairs),
            spare,
            epoll,
            signals,
            listener: None,
            accept_again: None,
            clients: BTreeMap::new(),
            next_client: FIRST_CLIENT,
            probes: BTreeMap::new(),
            applied: None,
            handover: None,
            started: clock::now(),
            hardening,
            entropy_reported: false,
            offloads_reported: BTreeMap::new(),
            end: false,
        })
    }

    /// Accepts connections from now on.
    pub fn listen(&mut self, listener: Listener) -> Result<(), Failure> {
        self.epoll
            .add(listener.as_fd(), LISTENER, Interest::READ)
            .map_err(|error| Failure::internal(format!("epoll refused the socket: {error}")))?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Works until a signal or a successor ends it. TAPs stay: they are the agent's.
    pub fn run(mut self) -> Result<(), Failure> {
        let mut ready = Vec::new();
        while !self.end {
            let at_most = self
                .next_deadline()
                .map(|deadline| deadline.since(clock::now()));
            self.epoll
                .wait(&mut ready, at_most)
                .map_err(|error| Failure::internal(format!("epoll failed: {error}")))?;
            for one in &ready {
                self.attend(*one);
            }
            self.follow_slow_path();
            self.keep_time();
            self.send_events();
        }
        self.lanes.drain(..).for_each(Lanes::stop);
        Ok(())
    }

    fn next_deadline(&self) -> Option<Time> {
        let events = self.clients.values().filter_map(Client::next_events);
        let handover = self.handover.as_ref().map(|handover| handover.deadline);
        let core = self.core.next_timeout().filter(|_| self.handover.is_none());
        events
            .chain(handover)
            .chain(core)
            .chain(self.accept_again)
            .min()
    }

    fn attend(&mut self, ready: Ready) {
        match ready.token {
            LISTENER => self.accept(),
            SIGNALS => {
                if let Some(signal) = self.signals.take() {
                    log::info("ending on a signal", &[("signal", &signal)]);
                    self.end = true;
                }
            }
            SLOW_PATH => {}
            id => self.attend_client(id, ready),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        match listener.accept() {
            Ok(None) => {}
            Ok(Some(stream)) => {
                if let Err(gone) = self.admit(stream) {
                    log::warn("connection refused", &[("cause", &gone)]);
                }
            }
            Err(error) => {
                log::warn("a connection can't be accepted", &[("cause", &error)]);
                self.pause_accepting();
            }
        }
    }

    /// Without a descriptor to spare the newcomer stays ready, and would keep us busy.
    fn pause_accepting(&mut self) {
        self.accept_again = Some(clock::now() + ACCEPT_PAUSE);
        self.expect_newcomers(false);
    }

    fn expect_newcomers(&mut self, read: bool) {
        let Some(listener) = &self.listener else {
            return;
        };
        let interest = Interest { read, write: false };
        if let Err(error) = self.epoll.modify(listener.as_fd(), LISTENER, interest) {
            log::warn("the listener can't be waited for", &[("cause", &error)]);
        }
    }

    fn admit(&mut self, stream: std::os::unix::net::UnixStream) -> Result<(), Gone> {
        let (peer, own) = (local::peer(&stream)?, local::own());
        let uid = peer.uid;
        let mut client = Client::new(stream)?;
        let access = self.listener.as_ref().map(Listener::access);
        let by_group = access == Some(Access::Group) && peer.gid == own.gid;
        if uid != 0 && uid != own.uid && !by_group {
            let refusal = Refusal::new(
                "not_permitted",
                format!("user {uid} may not control the data plane; run as root or as its user"),
            );
            client.say(&answer::refused(None, &refusal))?;
            return Err(Gone::Broken(format!("user {uid} is not permitted")));
        }
        if self.clients.len() == MOST_CLIENTS {
            return Err(Gone::Broken("there are too many connections".into()));
        }
        self.epoll
            .add(client.as_fd(), self.next_client, client.interest())?;
        self.clients.insert(self.next_client, client);
        self.next_client += 1;
        Ok(())
    }

    fn attend_client(&mut self, id: ClientId, ready: Ready) {
        let mut result = Ok(());
        if ready.writable {
            result = self.with_client(id, Client::send);
        }
        if ready.readable && result.is_ok() {
            result = self.read_client(id);
        }
        self.settle(id, result);
    }

    fn read_client(&mut self, id: ClientId) -> Result<(), Gone> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        for line in client.read()? {
            self.obey(id, &line)?;
            self.flush_core();
        }
        Ok(())
    }

    fn with_client(
        &mut self,
        id: ClientId,
        act: impl FnOnce(&mut Client) -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        self.clients.get_mut(&id).map_or(Ok(()), act)
    }

    /// Waits for what a client needs next, or parts with it.
    fn settle(&mut self, id: ClientId, result: Result<(), Gone>) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let waited = self.epoll.modify(client.as_fd(), id, client.interest());
        if let Err(gone) = result.and(waited.map_err(Gone::from)) {
            self.part_with(id, &gone);
        }
    }

    fn part_with(&mut self, id: ClientId, gone: &Gone) {
        log::debug("connection ended", &[("cause", gone)]);
        if let Some(client) = self.clients.remove(&id) {
            // Closing takes it out of the set as well; a failure changes nothing.
            let _closed = self.epoll.remove(client.as_fd());
        }
        self.probes.retain(|_, (asker, _)| *asker != id);
        self.handover_ended(id);
    }

    /// Answers a client; one that can't be told is parted with.
    fn tell(&mut self, id: ClientId, line: &Value) {
        let result = self.with_client(id, |client| client.say(line));
        self.settle(id, result);
    }

    fn follow_slow_path(&mut self) {
        self.collect.silence();
        let now = clock::now();
        self.core.note_waiting(self.collect.waiting());
        for _ in 0..MESSAGES_A_ROUND {
            let Some(message) = self.collect.take() else {
                break;
            };
            self.core.handle(message, now);
            self.flush_core();
        }
        if self.collect.waiting() > 0 {
            self.collect.ring();
        }
        self.report_losses();
    }

    fn keep_time(&mut self) {
        let now = clock::now();
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.expect_newcomers(true);
        }
        if self.handover.is_some() {
            self.end_late_handover(now);
        } else if self.core.next_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
        }
        self.flush_core();
    }

    /// Sends what the core wants sent, and passes on what it tells.
    fn flush_core(&mut self) {
        while let Some(look) = self.core.poll_look() {
            let macs: Vec<[u8; 6]> = look.macs.iter().map(|mac| mac.0).collect();
            if multicast::is_deaf_to(&look.tap, &macs, look.group.0) {
                self.core.prune(&look, clock::now());
            }
        }
        while let Some(transmit) = self.core.poll_transmit() {
            // After a handover the sessions are the successor's.
            if self.handover.is_none() {
                self.outbox.send(transmit.to, &transmit.datagram);
            }
        }
        self.outbox.flush();
        while let Some((vni, frame)) = self.core.poll_frame() {
            self.wiring.plumbings[0].deliver(vni, &frame);
        }
        while let Some(event) = self.core.poll_event() {
            if let Fact::Probed { token, outcome } = event.fact {
                self.answer_probe(token, outcome);
            } else if let Some(line) = answer::event(&event) {
                self.notify(&line);
            }
        }
    }

    fn answer_probe(&mut self, token: u64, outcome: ProbeOutcome) {
        let Some((client, id)) = self.probes.remove(&token) else {
            return;
        };
        let refusal = match outcome {
            ProbeOutcome::Replied { rtt, endpoint } => {
                let fields =
                    json!({ "rtt_us": answer::micros(rtt), "endpoint": endpoint.to_string() });
                return self.tell(client, &answer::granted(id, fields));
            }
            ProbeOutcome::Timeout => Refusal::new(
                "timeout",
                "the peer has a session but didn't answer in time",
            ),
            ProbeOutcome::NoSession => Refusal::new(
                "no_session",
                "no session with the peer came up in time; \
                 is it running, and is UDP 8002 open in both directions?",
            ),
        };
        self.tell(client, &answer::refused(id, &refusal));
    }

    fn notify(&mut self, event: &Value) {
        log::debug("event", &[("event", event)]);
        for client in self.clients.values_mut() {
            client.notify(event);
        }
    }

    fn send_events(&mut self) {
        let now = clock::now();
        let ids: Vec<ClientId> = self.clients.keys().copied().collect();
        for id in ids {
            let due = self.clients.get(&id).and_then(Client::next_events);
            if due.is_some_and(|due| due <= now) {
                let result = self.with_client(id, |client| client.send_events(now));
                self.settle(id, result);
            }
        }
    }

    /// Tells once of a TAP that is gone and of a CPU generator that failed.
    fn report_losses(&mut self) {
        let lost: Vec<String> = self
            .wiring
            .ports()
            .iter()
            .filter(|(_, port)| port.lost.load(Ordering::Acquire))
            .filter(|(_, port)| !port.reported.swap(true, Ordering::AcqRel))
            .map(|(_, port)| port.name.clone())
            .collect();
        for name in lost {
            self.degrade(
                &format!("tap {name}"),
                "the device is gone; apply attaches anew",
            );
        }
        for (name, state) in self.wiring.offloads() {
            if state == "on" {
                self.offloads_reported.remove(name);
            } else if self.offloads_reported.insert(name, state.clone()) != Some(state.clone()) {
                self.degrade(&format!("offload {name}"), &state);
            }
        }
        if !self.entropy.has_cpu_rng() && !self.entropy_reported {
            self.entropy_reported = true;
            self.degrade(
                "entropy",
                "the CPU's generator can't be used; salts come from the kernel, rekey after 30 s",
            );
        }
    }

    fn degrade(&mut self, what: &str, reason: &str) {
        log::warn("degraded", &[("what", &what), ("reason", &reason)]);
        self.notify(&answer::degraded(what, reason, clock::now().as_millis()));
    }

    fn uptime(&self) -> Duration {
        clock::now().since(self.started)
    }
}

fn random_name(entropy: &dyn Entropy) -> String {
    let mut octets = [0; 8];
    entropy.fill_secret(&mut octets);
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
