//! One sealed association: two keys, a counter, a window.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_wire::header::{COUNTER_LIMIT, Sealed};

use crate::drops::Dropped;
use crate::link::{Link, read};
use crate::replay::{ReplayWindow, Seen};
use crate::seal::{Kind, OpenKey, Salt, SealKey};
use crate::time::Time;

/// After so many messages a session is renewed (rule 6).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 32;
/// A session neither sends nor accepts counters from here on.
pub const REJECT_AFTER_MESSAGES: u64 = COUNTER_LIMIT - (1 << 20);

/// How many salts are kept to tell a clone from a replay.
const SALTS: usize = 64;
/// How many packets with a used counter are opened a second to look what they prove.
const LOOKS_PER_SECOND: u32 = 10;
/// A peer of which nothing new came for so long, only counters that it has used, may have lost
/// its place. What a network delivers twice comes sooner, and beside what is new.
const SILENCE: Duration = Duration::from_secs(1);

/// A session with a peer. `Core` makes and ends it; the fast path seals and opens on it.
#[derive(Debug)]
pub struct Session {
    pub(crate) link: Arc<Link>,
    pub(crate) local_index: u32,
    pub(crate) remote_index: u32,
    pub(crate) initiator: bool,
    pub(crate) offered_to: Option<SocketAddr>,
    /// When the INIT was sent that led to it; as responder, when that was answered.
    asked: Time,
    pub(crate) established: Time,
    pub(crate) rekey_at: Time,
    pub(crate) reject_at: Time,
    seal: SealKey,
    open: OpenKey,
    next_counter: AtomicU64,
    /// Rule 8 wants the update under the session's lock: with two receiving threads, a check and
    /// a mark that are not one step would let a packet in twice. One thread opens a session's
    /// packets in the common case, so the lock is free when it is taken (about 15 ns).
    /// One above the highest counter accepted. Written under the lock of `receive`.
    above_accepted: AtomicU64,
    receive: Mutex<Receive>,
    /// Whether the initiator has used it; only then a responder sends on it.
    confirmed: AtomicBool,
    ended: AtomicBool,
    /// Whether the peer seems to go on from an earlier place (see `judge_used`).
    fell_back: AtomicBool,
    /// `Core` was told that a new session is due.
    pub(crate) rekey_told: AtomicBool,
    /// Frames that went through `Core` though there was this session, behind earlier ones.
    pub(crate) late: AtomicU32,
}

/// What makes a session.
pub(crate) struct Keys<'a> {
    pub(crate) seal: &'a [u8; 32],
    pub(crate) open: &'a [u8; 32],
    pub(crate) local_index: u32,
    pub(crate) remote_index: u32,
    pub(crate) made_by: MadeBy,
}

/// Which of the two peers asked for a session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MadeBy {
    /// This one, by an INIT of this time.
    Us(Time),
    /// The other one; the RESP went here.
    Peer(SocketAddr),
}

/// When a session was made, and until when it serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) established: Time,
    pub(crate) rekey_at: Time,
    pub(crate) reject_at: Time,
}

#[derive(Debug)]
struct Receive {
    window: ReplayWindow,
    /// The salts of the newest counters, at counter modulo `SALTS`; counter + 1, 0: none.
    salts: [(u64, Salt); SALTS],
    second: u64,
    looks: u32,
}

/// An opened packet.
#[derive(Debug)]
pub struct Opened<'a> {
    /// The plaintext.
    pub plaintext: &'a mut [u8],
    /// Whether its counter is the highest so far (rule 9).
    pub newest: bool,
    /// Its counter.
    pub counter: u64,
}

impl Session {
    pub(crate) fn new(link: Arc<Link>, keys: &Keys<'_>, life: Lifetime) -> Self {
        let (asked, offered_to) = match keys.made_by {
            MadeBy::Us(asked) => (Some(asked), None),
            MadeBy::Peer(to) => (None, Some(to)),
        };
        Self {
            link,
            local_index: keys.local_index,
            remote_index: keys.remote_index,
            initiator: asked.is_some(),
            offered_to,
            asked: asked.unwrap_or(life.established),
            established: life.established,
            rekey_at: life.rekey_at,
            reject_at: life.reject_at,
            seal: SealKey::new(keys.seal),
            open: OpenKey::new(keys.open),
            next_counter: AtomicU64::new(0),
            above_accepted: AtomicU64::new(0),
            receive: Mutex::new(Receive {
                window: ReplayWindow::default(),
                salts: [(0, [0; 6]); SALTS],
                second: 0,
                looks: 0,
            }),
            confirmed: AtomicBool::new(asked.is_some()),
            ended: AtomicBool::new(false),
            fell_back: AtomicBool::new(false),
            rekey_told: AtomicBool::new(false),
            late: AtomicU32::new(0),
        }
    }

    /// Whether the two were asked for by different peers, each before the other's INIT had arrived
    /// (rule 16): then ours was still waiting for its answer when we answered theirs.
    pub(crate) fn crosses(&self, other: &Self) -> bool {
        let (ours, theirs) = if self.initiator {
            (self, other)
        } else {
            (other, self)
        };
        let waited = ours.asked..=ours.established;
        self.initiator != other.initiator && waited.contains(&theirs.established)
    }

    /// The peer.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether packets may be sealed and opened.
    pub fn is_usable(&self, now: Time) -> bool {
        now < self.reject_at && !self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// True for the one caller that confirms the session.
    pub(crate) fn confirm(&self) -> bool {
        !self.is_confirmed() && !self.confirmed.swap(true, Ordering::AcqRel)
    }

    /// `Core` couldn't be told: the next packet confirms the session.
    pub(crate) fn take_back_confirmation(&self) {
        self.confirmed.store(false, Ordering::Release);
    }

    /// Ends the session for all threads at once.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Allocates `n` consecutive counters and returns the first; `None` past the limit.
    /// Call it when the plaintext is in the buffer, and draw the salt afterwards.
    pub fn allocate(&self, n: u64) -> Option<u64> {
        // A refused allocation isn't taken back: the session is over anyway, and 2^63 further
        // refusals would be needed to wrap.
        let first = self.next_counter.fetch_add(n, Ordering::Relaxed);
        (first.saturating_add(n) <= REJECT_AFTER_MESSAGES).then_some(first)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn turn_counter_back(&self, packets: u64) {
        self.next_counter.fetch_sub(packets, Ordering::Relaxed);
    }

    /// Seals in place; see [`SealKey::seal_in_place`].
    pub fn seal(&self, kind: Kind, salt: Salt, counter: u64, datagram: &mut [u8]) {
        self.seal
            .seal_in_place(kind, self.remote_index, salt, counter, datagram);
    }

    /// Seals what is in place and what is elsewhere; see [`SealKey::seal_gathered`].
    pub(crate) fn seal_gathered(
        &self,
        salt: Salt,
        counter: u64,
        datagram: &mut [u8],
        start: usize,
        rest: &[u8],
    ) {
        let (kind, receiver) = (Kind::Data, self.remote_index);
        self.seal
            .seal_gathered(kind, receiver, salt, counter, datagram, start, rest);
    }

    /// Whether this side should ask for a new session: its initiator first, the other side later.
    pub(crate) fn is_rekey_due(&self, now: Time) -> bool {
        let aged = if self.initiator {
            now >= self.rekey_at
        } else {
            // A quarter of what is left: the initiator has had its chance, and time remains.
            let left = self.reject_at.since(self.rekey_at);
            now >= self.rekey_at + left / 4
        };
        aged || self.next_counter.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES
    }

    /// True for the one caller that tells `Core` that a new session is due.
    pub(crate) fn claim_rekey(&self, now: Time) -> bool {
        self.is_rekey_due(now) && self.claim()
    }

    /// The same for a session whose peer fell back.
    pub(crate) fn claim_after_fall_back(&self) -> bool {
        self.fell_back.load(Ordering::Relaxed) && self.claim()
    }

    fn claim(&self) -> bool {
        !self.rekey_told.load(Ordering::Relaxed) && !self.rekey_told.swap(true, Ordering::AcqRel)
    }

    /// Window check, open in place, window update (rule 8).
    pub fn open<'a>(&self, datagram: &'a mut [u8], now: Time) -> Result<Opened<'a>, Dropped> {
        let (counter, salt) = {
            let view = match cairn_wire::header::Datagram::parse(datagram) {
                Ok(
                    cairn_wire::header::Datagram::Data(view)
                    | cairn_wire::header::Datagram::Control(view),
                ) => view,
                _ => return Err(Dropped::MalformedDatagram),
            };
            counter_and_salt(&view)
        };
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Dropped::SessionExpired);
        }
        // What is above all that was accepted needs no look, and nearly all is.
        let seen = if counter >= self.above_accepted.load(Ordering::Relaxed) {
            Seen::Newest
        } else {
            self.lock().window.check(counter)
        };
        match seen {
            Seen::Newest | Seen::Fresh => {}
            Seen::TooOld => {
                self.judge_used(counter, salt, datagram, now);
                return Err(Dropped::TooOld);
            }
            Seen::Duplicate => {
                let cloned = self.judge_used(counter, salt, datagram, now);
                return Err(if cloned {
                    Dropped::Cloned
                } else {
                    Dropped::Replayed
                });
            }
        }
        let plaintext = self
            .open
            .open_in_place(datagram)
            .ok_or(Dropped::NotAuthentic)?;
        let mut receive = self.lock();
        match receive.accept(counter, salt) {
            Seen::Newest => {
                self.above_accepted.store(counter + 1, Ordering::Relaxed);
                Ok(Opened {
                    plaintext,
                    newest: true,
                    counter,
                })
            }
            Seen::Fresh => Ok(Opened {
                plaintext,
                newest: false,
                counter,
            }),
            Seen::Duplicate => Err(Dropped::Replayed),
            Seen::TooOld => Err(Dropped::TooOld),
        }
    }

    /// Looks at a packet whose counter was seen before. It proves a clone if it is authentic under
    /// another salt (true). Where that salt is forgotten, a replay and a peer whose memory was put
    /// back to a snapshot look alike; but of such a peer nothing else comes, and who replays into
    /// silence gets one new session of it.
    fn judge_used(&self, counter: u64, salt: Salt, datagram: &mut [u8], now: Time) -> bool {
        let heard = read(&self.link.traffic.received).unwrap_or(self.established);
        let may_have_fallen =
            now.since(heard) >= SILENCE && !self.fell_back.load(Ordering::Relaxed);
        let look = self.lock().look(counter, salt, may_have_fallen, now);
        let look = look.filter(|_| self.open.open_in_place(datagram).is_some());
        if look == Some(Look::FellBack) {
            self.fell_back.store(true, Ordering::Relaxed);
        }
        look == Some(Look::Clone)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Receive> {
        // The window is consistent after each of its steps, so a poisoned lock is still good.
        self.receive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counter_and_salt(view: &Sealed<'_>) -> (u64, Salt) {
    (view.counter(), view.salt())
}

impl Receive {
    fn accept(&mut self, counter: u64, salt: Salt) -> Seen {
        let seen = self.window.accept(counter);
        if matches!(seen, Seen::Newest | Seen::Fresh) {
            let entry = &mut self.salts[counter as usize % SALTS];
            if entry.0 <= counter {
                *entry = (counter + 1, salt);
            }
        }
        seen
    }

    /// What a packet with a used counter would say if it is authentic; nothing where it would say
    /// nothing, or where there is no budget left to open it. Without the known salt no clone is
    /// proved: an old packet replayed by anybody must not end the session.
    fn look(&mut self, counter: u64, salt: Salt, may_have_fallen: bool, now: Time) -> Option<Look> {
        let (known, first_salt) = self.salts[counter as usize % SALTS];
        let look = if known == counter + 1 {
            (first_salt != salt).then_some(Look::Clone)
        } else {
            may_have_fallen.then_some(Look::FellBack)
        }?;
        let second = now.as_nanos() / 1_000_000_000;
        if self.second != second {
            self.second = second;
            self.looks = 0;
        }
        self.looks += 1;
        (self.looks <= LOOKS_PER_SECOND).then_some(look)
    }
}

/// What an authentic packet with a used counter says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// There are two of it.
    Clone,
    /// It goes on from an earlier place.
    FellBack,
}
