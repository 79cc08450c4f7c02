//! What the parts of `Core` act on: the published snapshot, and what goes out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::header::{HEADER_LEN, TAG_LEN};

use crate::core::Transmit;
use crate::event::{Event, Fact};
use crate::ids::Vni;
use crate::link::Link;
use crate::multicast::Look;
use crate::seal::Kind;
use crate::session::{Lifetime, Session};
use crate::shared::{Shared, Snapshot};
use crate::state::Timers;
use crate::time::Time;
use crate::too_large;

/// Events wait for the caller; a caller that doesn't come loses the oldest.
const MAX_EVENTS: usize = 4096;
/// Frames for this host wait for the caller; it comes after each call.
const MAX_FRAMES: usize = 64;
/// Looks at the host that may wait; multicast asks again.
const MAX_LOOKS: usize = 64;
/// Without a CPU generator for the salt, sessions live this long (trust.md 2.4).
const REKEY_WITHOUT_CPU_RNG: Duration = Duration::from_secs(30);

pub(crate) struct Effects {
    pub(crate) shared: Arc<Shared>,
    pub(crate) transmits: VecDeque<Transmit>,
    /// For this host itself.
    pub(crate) frames: VecDeque<(Vni, Vec<u8>)>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) looks: VecDeque<Look>,
    pub(crate) timers: Timers,
    pub(crate) behind_nat: bool,
    pub(crate) counters: Counters,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) inits_sent: u64,
    pub(crate) inits_accepted: u64,
    pub(crate) handshakes_completed: u64,
    pub(crate) cookies_received: u64,
    pub(crate) clones_seen: u64,
    pub(crate) events_lost: u64,
    pub(crate) too_large_answered: u64,
    pub(crate) path_mtu_fell: u64,
}

impl Effects {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            transmits: VecDeque::new(),
            frames: VecDeque::new(),
            events: VecDeque::new(),
            looks: VecDeque::new(),
            timers: Timers::default(),
            behind_nat: false,
            counters: Counters::default(),
        }
    }

    pub(crate) fn transmit(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        self.transmits.push_back(Transmit { to, datagram });
    }

    /// Tells the sender of a frame that only frames of up to `longest` octets reach the peer.
    pub(crate) fn answer_too_large(&mut self, link: &Link, frame: &[u8], longest: usize) {
        if self.frames.len() < MAX_FRAMES
            && let Some(answer) = too_large::answer(frame, longest)
        {
            self.counters.too_large_answered += 1;
            self.frames.push_back((link.vni, answer));
        }
    }

    pub(crate) fn event(&mut self, fact: Fact, now: Time) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(Event { at: now, fact });
    }

    pub(crate) fn look(&mut self, look: Look) {
        if self.looks.len() < MAX_LOOKS {
            self.looks.push_back(look);
        }
    }

    /// Seals a packet on a session; `None` past its limit. The order is that of the fast path.
    pub(crate) fn seal(&self, session: &Session, kind: Kind, plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut datagram = vec![0; HEADER_LEN + plaintext.len() + TAG_LEN];
        datagram[HEADER_LEN..HEADER_LEN + plaintext.len()].copy_from_slice(plaintext);
        let counter = session.allocate(1)?;
        let salt = self.shared.entropy.salt();
        session.seal(kind, salt, counter, &mut datagram);
        Some(datagram)
    }

    /// Makes a session known to the receiving threads.
    pub(crate) fn publish(&self, session: Arc<Session>) {
        self.edit(|snapshot| snapshot.sessions.insert(session));
    }

    /// Ends a session for all threads; its keys are cleared when the last of them lets go.
    pub(crate) fn retire(&self, session: &Session) {
        session.end();
        self.edit(|snapshot| snapshot.sessions.remove(session.local_index));
    }

    /// Publishes a changed snapshot. `Core` is the only writer.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.shared.snapshot.load());
        change(&mut snapshot);
        self.shared.snapshot.store(Arc::new(snapshot));
    }

    /// Draws a 24-bit index that is not in use.
    pub(crate) fn draw_index(&self) -> u32 {
        let sessions = self.shared.snapshot.load();
        loop {
            let index = u32::from_be_bytes(self.draw()) >> 8;
            if !self.shared.awaited.contains(index) && sessions.sessions.get(index).is_none() {
                return index;
            }
        }
    }

    /// Draws secret octets.
    pub(crate) fn draw<const N: usize>(&self) -> [u8; N] {
        let mut octets = [0; N];
        self.shared.entropy.fill_secret(&mut octets);
        octets
    }

    /// The lifetime of a session made now.
    pub(crate) fn lifetime(&self, now: Time) -> Lifetime {
        let mut rekey_after = self.timers.rekey_after;
        if !self.shared.entropy.has_cpu_rng() {
            rekey_after = rekey_after.min(REKEY_WITHOUT_CPU_RNG);
        }
        let share = u32::from(u16::from_be_bytes(self.draw()));
        // Divided first: no setting makes it overflow.
        let jitter = self.timers.rekey_jitter / u32::from(u16::MAX) * share;
        Lifetime {
            established: now,
            rekey_at: now + rekey_after + jitter,
            reject_at: now + self.timers.reject_after,
        }
    }
}
