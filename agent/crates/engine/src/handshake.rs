//! INITs under way, and INITs already seen.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use cairn_wire::header::MAC_LEN;

use crate::mac::CookieValue;
use crate::noise::Initiated;
use crate::time::Time;
use crate::timers::earlier;

/// Waits between INITs; the last one repeats (rule 6).
const RETRY_S: [u64; 4] = [1, 2, 4, 5];
/// Each INIT is followed by another one with a fresh ephemeral, unless it was answered by then:
/// one lost datagram in either direction then costs this and not the retry.
const FOLLOW_UP: Duration = Duration::from_millis(250);
/// An attempt is given up after this time.
const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
/// INITs of one attempt that may still be answered.
const MAX_PENDING: usize = 4;
/// A cookie serves this long (the responder accepts it 120 to 240 s).
const COOKIE_SERVES: Duration = Duration::from_secs(120);
/// Accepted INITs of one key are at least this far apart (rule 3).
const INIT_SPACING: Duration = Duration::from_millis(50);
/// How many ephemerals are remembered per peer (rule 3): more than a peer uses in the day that an
/// epoch lasts with a session each 120 s, so that a recording of all of them is worth nothing.
const EPHEMERALS: usize = 2048;

/// An INIT that may still be answered.
pub(crate) struct Pending {
    pub(crate) index: u32,
    pub(crate) noise: Initiated,
    /// By which the COOKIE is opened.
    pub(crate) mac1: [u8; MAC_LEN],
    pub(crate) sent_to: Vec<SocketAddr>,
    pub(crate) sent_at: Time,
}

/// What an attempt wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Send an INIT: to all candidates, or to the one of this number (modulo).
    Init(Reach),
    /// Give up.
    GiveUp,
}

/// To which candidates an INIT goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To all: they race.
    All,
    /// To one, another one each time: a candidate that carries INITs and loses the RESPs would
    /// win each race and never complete.
    One(usize),
    /// To the endpoint in use: a rekey doesn't look for another path.
    Current,
}

/// One attempt to get a session.
pub(crate) struct Attempt {
    pub(crate) pending: Vec<Pending>,
    started: Time,
    sent: u32,
    /// A rekey over a path that works.
    in_place: bool,
    next: Option<Time>,
    follow_up: Option<Time>,
    /// The peer's own INIT has led to a session; only answers under way are waited for.
    ends: Option<Time>,
    /// Whether a COOKIE may still hasten the next INIT.
    hasten: bool,
}

impl Attempt {
    pub(crate) fn new(in_place: bool, now: Time) -> Self {
        Self {
            pending: Vec::new(),
            started: now,
            sent: 0,
            in_place,
            next: Some(now),
            follow_up: None,
            ends: None,
            hasten: true,
        }
    }

    /// Looks for the peer at all candidates, now.
    pub(crate) fn widen(&mut self, now: Time) {
        if self.in_place {
            self.in_place = false;
            self.next = Some(now);
        }
    }

    /// The peer has made a session of its own: wait for answers under way, send nothing more.
    pub(crate) fn wind_down(&mut self, now: Time) {
        self.next = None;
        self.follow_up = None;
        self.ends = Some(now + Duration::from_secs(5));
    }

    pub(crate) fn is_winding_down(&self) -> bool {
        self.ends.is_some()
    }

    /// Newer endpoints are known: tries them at once.
    pub(crate) fn retry_now(&mut self, now: Time) {
        if self.next.is_some() {
            self.in_place = false;
            self.next = Some(now);
        }
    }

    pub(crate) fn due_at(&self) -> Option<Time> {
        earlier(earlier(self.next, self.follow_up), self.ends)
    }

    /// What is due; `jitter` is in -128..=127 and spreads the retry by a tenth.
    pub(crate) fn due(&mut self, jitter: i8, now: Time) -> Due {
        if self.ends.is_some_and(|at| at <= now) {
            return Due::GiveUp;
        }
        if self.next.is_some_and(|at| at <= now) {
            if now.since(self.started) >= GIVE_UP_AFTER {
                return Due::GiveUp;
            }
            let wait = RETRY_S[(self.sent as usize).min(RETRY_S.len() - 1)];
            self.sent += 1;
            self.next = Some(now + spread(Duration::from_secs(wait), jitter));
            self.follow_up = Some(now + FOLLOW_UP);
            // A path that doesn't answer twice isn't the only one to be tried any longer.
            self.in_place &= self.sent <= 2;
            self.hasten = true;
            return Due::Init(if self.in_place {
                Reach::Current
            } else {
                Reach::All
            });
        }
        if self.follow_up.is_some_and(|at| at <= now) {
            self.follow_up = None;
            let reach = Reach::One(self.sent as usize);
            return Due::Init(if self.in_place { Reach::Current } else { reach });
        }
        Due::Nothing
    }

    /// A cookie came: the next INIT, which carries it, needs not wait. Once per retry.
    pub(crate) fn hasten(&mut self, now: Time) {
        if std::mem::take(&mut self.hasten) && self.next.is_some() {
            self.follow_up = Some(now);
        }
    }

    /// Keeps an INIT; returns one that is no longer waited for.
    pub(crate) fn keep(&mut self, pending: Pending) -> Option<Pending> {
        self.pending.push(pending);
        (self.pending.len() > MAX_PENDING).then(|| self.pending.remove(0))
    }
}

fn spread(wait: Duration, jitter: i8) -> Duration {
    let tenth = wait / 10;
    let part = tenth * u32::from(jitter.unsigned_abs()) / 128;
    if jitter < 0 { wait - part } else { wait + part }
}

/// The INITs of one static key that were accepted.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    /// Eight octets of each, the oldest first.
    ephemerals: VecDeque<[u8; 8]>,
    /// From an endpoint that proved itself.
    last_proven: Option<Time>,
    last_other: Option<Time>,
}

/// Why an authentic INIT isn't accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Replayed,
    TooSoon,
}

impl Accepted {
    /// Accepts an authentic INIT with this ephemeral key, or says why not. Where it comes from an
    /// endpoint at which the peer is known to be (`proven`), those from elsewhere don't delay it.
    pub(crate) fn admit(
        &mut self,
        ephemeral: &[u8],
        proven: bool,
        now: Time,
    ) -> Result<(), Refusal> {
        // An honest sender's ephemerals differ in these, and nobody else's authenticate.
        let tail = ephemeral.last_chunk::<8>().ok_or(Refusal::Replayed)?;
        if self.ephemerals.contains(tail) {
            return Err(Refusal::Replayed);
        }
        let last = if proven {
            &mut self.last_proven
        } else {
            &mut self.last_other
        };
        if last.is_some_and(|last| now.since(last) < INIT_SPACING) {
            return Err(Refusal::TooSoon);
        }
        *last = Some(now);
        if self.ephemerals.len() == EPHEMERALS {
            self.ephemerals.pop_front();
        }
        self.ephemerals.push_back(*tail);
        Ok(())
    }
}

/// The cookies that a peer has given us, by the endpoint that gave them.
#[derive(Debug, Default)]
pub(crate) struct Cookies(Vec<(SocketAddr, CookieValue, Time)>);

/// More endpoints than are ever tried at once.
const MAX_COOKIES: usize = 16;

impl Cookies {
    pub(crate) fn put(&mut self, endpoint: SocketAddr, cookie: CookieValue, now: Time) {
        self.0.retain(|(known, ..)| *known != endpoint);
        if self.0.len() == MAX_COOKIES {
            self.0.remove(0);
        }
        self.0.push((endpoint, cookie, now));
    }

    pub(crate) fn get(&self, endpoint: SocketAddr, now: Time) -> Option<&CookieValue> {
        let mut cookies = self.0.iter();
        let (.., cookie, _) =
            cookies.find(|(known, _, at)| *known == endpoint && now.since(*at) < COOKIE_SERVES)?;
        Some(cookie)
    }
}
