//! What the fast-path threads and `Core` share: the published snapshot, counters, entropy.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;

use crate::drops::Drops;
use crate::entropy::Entropy;
use crate::ids::{PeerId, Vni};
use crate::link::Link;
use crate::load::{LoadMeter, SourceMeter};
use crate::mac::{CookieSecret, MacKey};
use crate::session::Session;
use crate::switch::Switch;

/// Frames that wait for a handshake hold at most so many octets in all (rule 11).
pub(crate) const MAX_QUEUED_OCTETS: usize = 2 << 20;
/// And at most so many frames of one peer.
pub(crate) const MAX_QUEUED_FRAMES: u32 = 64;

pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) drops: Drops,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) queued_octets: AtomicUsize,
    pub(crate) load: LoadMeter,
    pub(crate) sources: SourceMeter,
    pub(crate) cookies: CookieSecret,
    pub(crate) awaited: Awaited,
}

/// Whose INIT under way has which index. `Core` alone changes it; the receiving threads look here
/// before they pass an answer on. Handshakes are rare enough for a lock.
#[derive(Default)]
pub(crate) struct Awaited(RwLock<HashMap<u32, PeerId>>);

impl Awaited {
    pub(crate) fn insert(&self, index: u32, peer: PeerId) {
        let mut awaited = self.0.write().unwrap_or_else(PoisonError::into_inner);
        awaited.insert(index, peer);
    }

    pub(crate) fn remove(&self, index: u32) {
        let mut awaited = self.0.write().unwrap_or_else(PoisonError::into_inner);
        awaited.remove(&index);
    }

    pub(crate) fn peer(&self, index: u32) -> Option<PeerId> {
        let awaited = self.0.read().unwrap_or_else(PoisonError::into_inner);
        awaited.get(&index).copied()
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.peer(index).is_some()
    }
}

impl Shared {
    pub(crate) fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            drops: Drops::default(),
            sources: SourceMeter::new(entropy.as_ref()),
            cookies: CookieSecret::new(entropy.as_ref()),
            entropy,
            queued_octets: AtomicUsize::new(0),
            load: LoadMeter::default(),
            awaited: Awaited::default(),
        }
    }

    /// Takes room for a frame that has to wait; false if there is none.
    pub(crate) fn reserve_queue(&self, link: &Link, octets: usize) -> bool {
        if link.queued.fetch_add(1, Ordering::AcqRel) >= MAX_QUEUED_FRAMES {
            link.queued.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        let total = self.queued_octets.fetch_add(octets, Ordering::AcqRel) + octets;
        if total > MAX_QUEUED_OCTETS {
            self.release_queue(link, octets);
            return false;
        }
        true
    }

    /// Gives back the room of a frame that waits no longer.
    pub(crate) fn release_queue(&self, link: &Link, octets: usize) {
        link.queued.fetch_sub(1, Ordering::AcqRel);
        self.queued_octets.fetch_sub(octets, Ordering::AcqRel);
    }
}

/// What the fast path reads; replaced as a whole, never edited.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    /// Sorted by VNI.
    pub(crate) vsubnets: Vec<Arc<VSubnetView>>,
    pub(crate) sessions: SessionTable,
    /// mac1 keys of our own public keys, one per suite in use.
    pub(crate) mac_keys: Vec<MacKey>,
}

impl Snapshot {
    pub(crate) fn vsubnet(&self, vni: Vni) -> Option<&Arc<VSubnetView>> {
        let at = self.vsubnets.binary_search_by_key(&vni, |view| view.vni);
        at.ok().map(|at| &self.vsubnets[at])
    }
}

/// One vSubnet as the fast path sees it.
pub(crate) struct VSubnetView {
    pub(crate) vni: Vni,
    /// Of the TAP: a bundle is never longer than a frame may be.
    pub(crate) mtu: usize,
    pub(crate) switch: Arc<Switch>,
    pub(crate) links: HashMap<PeerId, Arc<Link>, NumberHash>,
}

impl VSubnetView {
    pub(crate) fn link(&self, peer: PeerId) -> Option<&Arc<Link>> {
        self.links.get(&peer)
    }
}

/// `PeerId`s and session indexes are numbers of our own making that nobody outside can choose,
/// so a multiplication spreads them well enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

/// Builds hashers for tables by numbers of our own making.
pub(crate) type NumberHash = BuildHasherDefault<NumberHasher>;

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        // The product's low bits depend on the number's low bits only, which a shard has in common.
        self.0.rotate_left(32)
    }

    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.write_u32(u32::from(*octet));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

const SHARDS: usize = 64;

/// Sessions by our index. In shards, so that publishing one session copies a 64th of the table.
#[derive(Clone)]
pub(crate) struct SessionTable([Arc<HashMap<u32, Arc<Session>, NumberHash>>; SHARDS]);

impl Default for SessionTable {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }
}

impl SessionTable {
    pub(crate) fn get(&self, index: u32) -> Option<&Arc<Session>> {
        self.0[index as usize % SHARDS].get(&index)
    }

    pub(crate) fn insert(&mut self, session: Arc<Session>) {
        let index = session.local_index;
        Arc::make_mut(&mut self.0[index as usize % SHARDS]).insert(index, session);
    }

    pub(crate) fn remove(&mut self, index: u32) {
        Arc::make_mut(&mut self.0[index as usize % SHARDS]).remove(&index);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.len()).sum()
    }
}
