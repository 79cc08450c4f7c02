//! From a TAP to the underlay: decide, seal, send. Owned by one thread; there may be several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_wire::header::{HEADER_LEN, TAG_LEN};

use crate::drops::Dropped;
use crate::ids::{PeerId, Vni};
use crate::link::Link;
use crate::message::{Kind as Note, Message, SlowPath};
use crate::seal::{Kind, Salt};
use crate::session::Session;
use crate::shared::{Shared, VSubnetView};
use crate::switch::Egress;
use crate::time::Time;

/// The longest frame that fits a UDP datagram over IPv4 with header and tag.
const MAX_FRAME: usize = 65_507 - HEADER_LEN - TAG_LEN;

/// Frames that may queue up behind earlier ones once there is a session; what comes further is
/// dropped until the queue is empty.
const MAX_LATE: u32 = 64;

/// Where sealed datagrams go.
pub trait Underlay {
    /// Sends one datagram, or puts it into a batch. What can't be sent is counted there.
    fn send(&mut self, to: SocketAddr, datagram: &[u8]);
}

impl Underlay for Vec<(SocketAddr, Vec<u8>)> {
    fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.push((to, datagram.to_vec()));
    }
}

/// The sending half of the fast path.
pub struct Outbound {
    shared: Arc<Shared>,
    /// Header, frame, tag.
    scratch: Box<[u8]>,
}

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            scratch: vec![0; HEADER_LEN + MAX_FRAME + TAG_LEN].into_boxed_slice(),
        }
    }

    /// Sends a frame that the TAP of `vni` gave to whom it concerns. What was dropped is counted;
    /// of a flooded frame only whole failures are returned.
    pub fn handle_frame(
        &mut self,
        vni: Vni,
        frame: &[u8],
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        let shared = Arc::clone(&self.shared);
        let sent = self.forward(vni, frame, now, underlay, slow);
        if let Err(reason) = sent {
            shared.drops.count(reason);
        }
        sent
    }

    fn forward(
        &mut self,
        vni: Vni,
        frame: &[u8],
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        if frame.len() > MAX_FRAME {
            return Err(Dropped::FrameTooLong);
        }
        let shared = Arc::clone(&self.shared);
        let snapshot = shared.snapshot.load();
        let view = snapshot.vsubnet(vni).ok_or(Dropped::UnknownVSubnet)?;
        match view.switch.egress(frame, now) {
            Err(_) => Err(Dropped::RefusedBySwitch),
            Ok(Egress::Unicast(peer)) => {
                let link = view.link(peer).ok_or(Dropped::PeerRemoved)?;
                self.send_to(link, frame, &mut None, now, underlay, slow)
            }
            Ok(Egress::Flood(list)) => {
                self.flood(view, list, frame, now, underlay, slow);
                Ok(())
            }
        }
    }

    /// Head-end replication: a copy under each pairwise key. One salt serves all copies, because
    /// the keys differ and the plaintext was fixed before the draw.
    fn flood(
        &mut self,
        view: &VSubnetView,
        list: &[PeerId],
        frame: &[u8],
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
    ) {
        let mut salt = None;
        for peer in list {
            let sent = match view.link(*peer) {
                Some(link) => self.send_to(link, frame, &mut salt, now, underlay, slow),
                None => Err(Dropped::PeerRemoved),
            };
            if let Err(reason) = sent {
                self.shared.drops.count(reason);
            }
        }
    }

    fn send_to(
        &mut self,
        link: &Arc<Link>,
        frame: &[u8],
        salt: &mut Option<Salt>,
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        if link.removed.load(Ordering::Acquire) {
            return Err(Dropped::PeerRemoved);
        }
        // While earlier frames still wait in Core, later ones queue up behind them.
        let waiting = link.queued.load(Ordering::Acquire) > 0;
        let session = link.current.load();
        match session.as_ref().filter(|session| session.is_usable(now)) {
            Some(session) if !waiting => {
                self.send_sealed(session, link, frame, salt, now, underlay, slow)
            }
            // A sender that is faster than `Core` would keep its queue from ever getting empty.
            Some(session) if session.late.fetch_add(1, Ordering::Relaxed) >= MAX_LATE => {
                Err(Dropped::QueueFull)
            }
            _ => self.wait_for_session(link, frame, slow),
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one call site; a struct would be built per packet"
    )]
    fn send_sealed(
        &mut self,
        session: &Arc<Session>,
        link: &Arc<Link>,
        frame: &[u8],
        salt: &mut Option<Salt>,
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        let len = HEADER_LEN + frame.len() + TAG_LEN;
        let path = link.path.load();
        let to = path.as_ref().ok_or(Dropped::NoEndpoint)?.admit(len)?;
        let datagram = &mut self.scratch[..len];
        datagram[HEADER_LEN..HEADER_LEN + frame.len()].copy_from_slice(frame);
        let counter = session.allocate(1).ok_or(Dropped::SessionExpired)?;
        let salt = *salt.get_or_insert_with(|| self.shared.entropy.salt());
        session.seal(Kind::Data, salt, counter, datagram);
        underlay.send(to, datagram);
        if link.note_sent_frame(frame.len(), now) {
            let link = Arc::clone(link);
            self.tell(Note::SentData { link }, slow);
        }
        if session.claim_rekey(now) {
            let session = Arc::clone(session);
            self.tell(Note::RekeyDue { session }, slow);
        }
        Ok(())
    }

    fn wait_for_session(
        &self,
        link: &Arc<Link>,
        frame: &[u8],
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        if !self.shared.reserve_queue(link, frame.len()) {
            return Err(Dropped::QueueFull);
        }
        let wanted = Note::Wanted {
            link: Arc::clone(link),
            frame: frame.into(),
        };
        if slow.submit(Message(wanted)) {
            return Ok(());
        }
        self.shared.release_queue(link, frame.len());
        Err(Dropped::SlowPathFull)
    }

    fn tell(&self, note: Note, slow: &mut impl SlowPath) {
        tell(&self.shared, note, slow);
    }
}

/// Tells `Core`; if the queue is full, the flag that says "told" is taken back.
pub(crate) fn tell(shared: &Shared, note: Note, slow: &mut impl SlowPath) {
    let undo = Undo::of(&note);
    if !slow.submit(Message(note)) {
        shared.drops.count(Dropped::SlowPathFull);
        undo.run();
    }
}

enum Undo {
    Watched(Arc<Link>),
    Owing(Arc<Link>),
    Roaming(Arc<Link>),
    Spoofing(Arc<Link>),
    Rekey(Arc<Session>),
    Confirmed(Arc<Session>),
    Nothing,
}

impl Undo {
    fn of(note: &Note) -> Self {
        match note {
            Note::SentData { link } => Self::Watched(Arc::clone(link)),
            Note::ReceivedData { link } => Self::Owing(Arc::clone(link)),
            Note::Roamed { session, .. } => Self::Roaming(Arc::clone(&session.link)),
            Note::Spoofed { link, .. } => Self::Spoofing(Arc::clone(link)),
            Note::RekeyDue { session } => Self::Rekey(Arc::clone(session)),
            Note::Confirmed { session, .. } => Self::Confirmed(Arc::clone(session)),
            _ => Self::Nothing,
        }
    }

    fn run(self) {
        let flag = match &self {
            Self::Watched(link) => &link.watched,
            Self::Owing(link) => &link.owing,
            Self::Roaming(link) => &link.roaming,
            Self::Spoofing(link) => &link.spoofing,
            Self::Rekey(session) => &session.rekey_told,
            Self::Confirmed(session) => return session.take_back_confirmation(),
            Self::Nothing => return,
        };
        flag.store(false, Ordering::Release);
    }
}
