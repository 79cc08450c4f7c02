//! What the fast path knows of one peer: its session, its path, its counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::drops::Dropped;
use crate::ids::{NodeId, PeerId, Vni};
use crate::multicast::{Looked, Pruned};
use crate::session::Session;
use crate::time::Time;

/// One peer in one vSubnet. Written by `Core`, but for the counters and flags.
#[derive(Debug)]
pub struct Link {
    pub(crate) peer: PeerId,
    pub(crate) vni: Vni,
    pub(crate) node: NodeId,
    /// The session to send on.
    pub(crate) current: ArcSwapOption<Session>,
    pub(crate) path: ArcSwapOption<Path>,
    /// Frames that wait in `Core` or on the way to it.
    pub(crate) queued: AtomicU32,
    /// CONTROL packets and MACs to be learned on the way to `Core`.
    pub(crate) controls: AtomicU32,
    pub(crate) removed: AtomicBool,
    /// `Core` watches that something comes back (rule 15); cleared by `Core`.
    pub(crate) watched: AtomicBool,
    /// `Core` sees to it that something goes back (keepalive); cleared by `Core`.
    pub(crate) owing: AtomicBool,
    /// `Core` was told of a new endpoint and hasn't dealt with it.
    pub(crate) roaming: AtomicBool,
    /// `Core` was told of spoofed frames and hasn't reported them.
    pub(crate) spoofing: AtomicBool,
    /// `Core` watches whether large datagrams still pass; cleared by `Core`.
    pub(crate) sizing: AtomicBool,
    /// Octets of the longest frame that the path carries; [`WIDE`]: all that the vSubnet needs.
    carries: AtomicU32,
    /// Whether `carries` is the outcome of a search, not what is safe until there is one.
    settled: AtomicBool,
    /// The vSubnet's MTU where this node is a gateway, whose LAN may have a larger one;
    /// [`WIDE`] elsewhere.
    lan_mtu: AtomicU32,
    /// When somebody was last told that a frame is too large.
    too_large_told: AtomicU64,
    /// What the peer's host doesn't listen to.
    pub(crate) pruned: Pruned,
    /// When our host was last looked at because of this peer's multicast.
    pub(crate) looked: Looked,
    pub(crate) traffic: Traffic,
}

const WIDE: u32 = u32::MAX;

/// Those who send frames that are too large for a peer's path are told this often.
const TELL_TOO_LARGE_EVERY: Duration = Duration::from_millis(5);

/// What a path carries that doesn't carry what the vSubnet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Narrow {
    /// Octets of the longest frame.
    pub(crate) frame: usize,
    /// Whether that is known, not assumed.
    pub(crate) settled: bool,
}

/// Counters and moments of one peer. Moments are nanoseconds since boot, 0: never.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) tx_frames: AtomicU64,
    pub(crate) tx_octets: AtomicU64,
    pub(crate) rx_frames: AtomicU64,
    pub(crate) rx_octets: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) sent_data: AtomicU64,
    /// A datagram above the base of the path MTU search.
    pub(crate) sent_large: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) received_data: AtomicU64,
}

pub(crate) fn stamp(moment: &AtomicU64, now: Time) {
    moment.store(now.as_nanos(), Ordering::Relaxed);
}

pub(crate) fn read(moment: &AtomicU64) -> Option<Time> {
    let nanos = moment.load(Ordering::Relaxed);
    (nanos > 0).then(|| Time::from_nanos(nanos))
}

/// Where a peer is reached, and how much may be sent there (rule 9).
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) endpoint: SocketAddr,
    pub(crate) validated: AtomicBool,
    /// Its challenges went unanswered, and there is no better path: the peer's next packet from
    /// here leads to another challenge.
    pub(crate) unanswered: AtomicBool,
    received: AtomicU64,
    sent: AtomicU64,
}

/// How many times the octets received from an endpoint may be sent to it before it is validated.
const UNVALIDATED_FACTOR: u64 = 3;

impl Path {
    pub(crate) fn new(endpoint: SocketAddr, validated: bool, received: u64) -> Self {
        Self {
            endpoint,
            validated: AtomicBool::new(validated),
            unanswered: AtomicBool::new(false),
            received: AtomicU64::new(received),
            sent: AtomicU64::new(0),
        }
    }

    /// Counts octets from an endpoint; needed only until it is validated.
    pub(crate) fn note_received(&self, octets: usize) {
        if !self.validated.load(Ordering::Relaxed) {
            self.received.fetch_add(octets as u64, Ordering::Relaxed);
        }
    }

    /// Whether `octets` may be sent; counts them if so.
    pub(crate) fn admit(&self, octets: usize) -> Result<SocketAddr, Dropped> {
        if self.validated.load(Ordering::Relaxed) {
            return Ok(self.endpoint);
        }
        let octets = octets as u64;
        let limit = self.received.load(Ordering::Relaxed) * UNVALIDATED_FACTOR;
        let sent = self.sent.fetch_add(octets, Ordering::Relaxed) + octets;
        if sent > limit {
            self.sent.fetch_sub(octets, Ordering::Relaxed);
            return Err(Dropped::PathUnvalidated);
        }
        Ok(self.endpoint)
    }
}

impl Link {
    pub(crate) fn new(peer: PeerId, vni: Vni, node: NodeId) -> Self {
        Self {
            peer,
            vni,
            node,
            current: ArcSwapOption::empty(),
            path: ArcSwapOption::empty(),
            queued: AtomicU32::new(0),
            controls: AtomicU32::new(0),
            removed: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            owing: AtomicBool::new(false),
            roaming: AtomicBool::new(false),
            spoofing: AtomicBool::new(false),
            sizing: AtomicBool::new(false),
            carries: AtomicU32::new(WIDE),
            settled: AtomicBool::new(false),
            lan_mtu: AtomicU32::new(WIDE),
            too_large_told: AtomicU64::new(0),
            pruned: Pruned::default(),
            looked: Looked::default(),
            traffic: Traffic::default(),
        }
    }

    /// The session to send on, if there is one that is not past its time.
    pub fn session(&self, now: Time) -> Option<Arc<Session>> {
        let session = self.current.load_full()?;
        session.is_usable(now).then_some(session)
    }

    /// The endpoint at which the peer is reached.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.path.load().as_ref().map(|path| path.endpoint)
    }

    /// Counts sent frames; true if `Core` must be told to watch for an answer.
    pub(crate) fn note_sent_frames(&self, frames: usize, octets: usize, now: Time) -> bool {
        self.traffic
            .tx_frames
            .fetch_add(frames as u64, Ordering::Relaxed);
        self.traffic
            .tx_octets
            .fetch_add(octets as u64, Ordering::Relaxed);
        stamp(&self.traffic.sent, now);
        stamp(&self.traffic.sent_data, now);
        !self.watched.load(Ordering::Relaxed) && !self.watched.swap(true, Ordering::AcqRel)
    }

    /// What the path carries, if that is less than the vSubnet needs.
    pub(crate) fn narrow(&self) -> Option<Narrow> {
        let carries = self.carries.load(Ordering::Relaxed);
        (carries != WIDE).then(|| Narrow {
            frame: carries as usize,
            settled: self.settled.load(Ordering::Relaxed),
        })
    }

    /// `None`: all that the vSubnet needs.
    pub(crate) fn set_narrow(&self, narrow: Option<Narrow>) {
        let carries = narrow.and_then(|narrow| u32::try_from(narrow.frame).ok());
        let settled = narrow.is_none_or(|narrow| narrow.settled);
        self.settled.store(settled, Ordering::Relaxed);
        self.carries
            .store(carries.unwrap_or(WIDE), Ordering::Relaxed);
    }

    /// The longest packet that may pass, where the TAP's isn't the limit: behind a gateway's is
    /// a LAN.
    pub(crate) fn lan_mtu(&self) -> Option<usize> {
        let mtu = self.lan_mtu.load(Ordering::Relaxed);
        (mtu != WIDE).then_some(mtu as usize)
    }

    /// Of this node's own vSubnet, where it is a gateway.
    pub(crate) fn set_lan_mtu(&self, mtu: Option<u16>) {
        self.lan_mtu
            .store(mtu.map_or(WIDE, u32::from), Ordering::Relaxed);
    }

    /// Notes that a large datagram was sent, or would have been; true if `Core` must be told to
    /// see that such datagrams pass.
    pub(crate) fn note_sent_large(&self, now: Time) -> bool {
        stamp(&self.traffic.sent_large, now);
        !self.sizing.load(Ordering::Relaxed) && !self.sizing.swap(true, Ordering::AcqRel)
    }

    /// Whether it is time to tell a sender again that its frames are too large.
    pub(crate) fn may_tell_too_large(&self, now: Time) -> bool {
        let last = read(&self.too_large_told);
        let may = last.is_none_or(|last| now.since(last) >= TELL_TOO_LARGE_EVERY);
        if may {
            stamp(&self.too_large_told, now);
        }
        may
    }

    /// Counts received frames.
    pub(crate) fn count_received(&self, frames: usize, octets: usize) {
        self.traffic
            .rx_frames
            .fetch_add(frames as u64, Ordering::Relaxed);
        self.traffic
            .rx_octets
            .fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// Notes that frames came; true if `Core` must be told to see to an answer.
    pub(crate) fn note_received(&self, now: Time) -> bool {
        stamp(&self.traffic.received_data, now);
        !self.owing.load(Ordering::Relaxed) && !self.owing.swap(true, Ordering::AcqRel)
    }
}
