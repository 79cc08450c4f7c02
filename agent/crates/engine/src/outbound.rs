//! From a TAP to the underlay: decide, divide or bundle, seal, send. Owned by one thread; there
//! may be several.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_wire::ethernet::{self, Frame};
use cairn_wire::header::{HEADER_LEN, TAG_LEN};

use crate::drops::Dropped;
use crate::ids::{PeerId, Vni};
use crate::link::{Link, Narrow, Path};
use crate::message::{Kind as Note, Message, SlowPath};
use crate::multicast;
use crate::offload::{
    BUNDLED_LEN, Bundled, Content, Fragments, Host, Layout, PREFIX_LEN, Split, Transport,
    VnetHeader, clamp_mss, complete,
};
use crate::pmtu::BASE_PACKET;
use crate::seal::Salt;
use crate::session::Session;
use crate::shared::{Shared, VSubnetView};
use crate::switch::{Answer, Egress};
use crate::time::Time;
use crate::too_large::QUOTED;

/// The longest frame that fits a UDP datagram over IPv4 with header, prefix and tag.
const MAX_FRAME: usize = 65_507 - HEADER_LEN - PREFIX_LEN - TAG_LEN;

const ETHERNET_LEN: usize = 14;

/// Datagrams up to here pass everywhere; whether longer ones still do is watched.
const SMALL_DATAGRAM: usize = BASE_PACKET - 48;

/// Frames that may queue up behind earlier ones once there is a session; what comes further is
/// dropped until the queue is empty.
const MAX_LATE: u32 = 64;

/// Where sealed datagrams go.
pub trait Underlay {
    /// Gives room for one datagram, to be filled before the next call. What can't be sent is
    /// counted there.
    fn datagram(&mut self, to: SocketAddr, len: usize) -> &mut [u8];
}

impl Underlay for Vec<(SocketAddr, Vec<u8>)> {
    fn datagram(&mut self, to: SocketAddr, len: usize) -> &mut [u8] {
        self.push((to, vec![0; len]));
        &mut self.last_mut().expect("just pushed").1
    }
}

/// A frame that the TAP gave.
#[derive(Debug)]
pub struct TapFrame<'a> {
    octets: &'a mut [u8],
    shape: Shape,
}

/// What a frame is sent as.
#[derive(Clone, Copy, Debug)]
enum Shape {
    One(Content),
    Many(Split),
    /// Divided by IP itself.
    Fragments(Fragments),
    Unusable(Dropped),
}

/// No frame; it is not sent.
impl Default for TapFrame<'_> {
    fn default() -> Self {
        Self {
            octets: &mut [],
            shape: Shape::Unusable(Dropped::BadSuperframe),
        }
    }
}

impl<'a> TapFrame<'a> {
    /// Takes a frame with its virtio-net header. A partial checksum that the far side couldn't
    /// make sense of is completed here.
    pub fn new(header: VnetHeader, octets: &'a mut [u8]) -> Self {
        let shape = Shape::of(header, octets);
        Self { octets, shape }
    }

    fn datagrams(&self) -> usize {
        match self.shape {
            Shape::One(_) => 1,
            Shape::Many(split) => split.count(),
            Shape::Fragments(fragments) => fragments.count(),
            Shape::Unusable(_) => 0,
        }
    }

    /// Octets of the longest frame that it is sent as, unless something shortens it.
    fn longest(&self) -> usize {
        match self.shape {
            Shape::Many(split) => split.longest(),
            Shape::One(_) => self.octets.len(),
            Shape::Fragments(_) | Shape::Unusable(_) => 0,
        }
    }

    /// Within what a path makes it fit, and which length its sender is told where nothing does. What
    /// is longer than the vSubnet's MTU allows, behind a gateway, needs no search of the path.
    fn bounds(&self, narrow: Narrow, lan_mtu: Option<usize>) -> (Narrow, usize) {
        let most = lan_mtu.map_or(usize::MAX, |mtu| mtu + link_len(self.octets));
        if self.longest() <= most {
            return (narrow, narrow.frame);
        }
        let within = Narrow {
            frame: narrow.frame.min(most),
            settled: true,
        };
        let told = if narrow.settled { within.frame } else { most };
        (within, told)
    }

    /// Makes it fit a path and packets of `mtu`; whether that took anything, and if nothing
    /// could, `Unusable`.
    fn fit(&mut self, narrow: Narrow, mtu: usize) -> bool {
        let Narrow { frame, settled } = narrow;
        match self.shape {
            Shape::One(content) if self.octets.len() <= frame => {
                clamp_mss(self.octets, content, frame, mtu);
                return false;
            }
            Shape::Many(split) if split.longest() <= frame => return false,
            Shape::Fragments(_) | Shape::Unusable(_) => return false,
            Shape::One(content) => {
                let segments = Split::of_segment(self.octets, content);
                if let Some(split) = segments.and_then(|split| split.within(frame)) {
                    self.shape = Shape::Many(split);
                } else if settled {
                    self.shape = Fragments::new(self.octets, content, frame)
                        .map_or(Shape::Unusable(Dropped::PathTooNarrow), Shape::Fragments);
                }
            }
            Shape::Many(split) => match split.within(frame) {
                Some(split) => self.shape = Shape::Many(split),
                None if settled => self.shape = Shape::Unusable(Dropped::PathTooNarrow),
                None => {}
            },
        }
        true
    }

    fn is_bundled_within(&self, limit: usize) -> bool {
        matches!(self.shape, Shape::One(_)) && self.octets.len() <= limit / 2
    }
}

impl Shape {
    fn of(header: VnetHeader, octets: &mut [u8]) -> Self {
        if header.is_superframe() {
            let split = Split::new(octets, header).filter(|split| split.longest() <= MAX_FRAME);
            return split.map_or(Self::Unusable(Dropped::BadSuperframe), Self::Many);
        }
        if octets.len() > MAX_FRAME {
            return Self::Unusable(Dropped::FrameTooLong);
        }
        if header.flags & VnetHeader::NEEDS_CHECKSUM == 0 {
            return Self::One(Content::Whole);
        }
        let start = usize::from(header.csum_start);
        let known = Transport::of_checksum_offset(header.csum_offset)
            .zip(u8::try_from(start).ok())
            .filter(|(transport, _)| Layout::of(octets, start, *transport).is_some());
        if let Some((transport, start)) = known {
            return Self::One(Content::Partial {
                transport,
                start,
                index: 0,
            });
        }
        match complete(octets, start, usize::from(header.csum_offset)) {
            Some(()) => Self::One(Content::Whole),
            None => Self::Unusable(Dropped::BadSuperframe),
        }
    }
}

/// What surrounds the sending of frames.
struct Ways<'w, U, S> {
    now: Time,
    underlay: &'w mut U,
    slow: &'w mut S,
}

/// The sending half of the fast path.
pub struct Outbound {
    shared: Arc<Shared>,
}

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Sends one plain frame; see [`Self::handle_frames`].
    pub fn handle_frame(
        &mut self,
        vni: Vni,
        frame: &[u8],
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
        host: &mut impl Host,
    ) -> Result<(), Dropped> {
        let mut frame = frame.to_vec();
        let frame = TapFrame::new(VnetHeader::default(), &mut frame);
        self.handle_frames(vni, &mut [frame], now, underlay, slow, host)
    }

    /// Sends frames that the TAP of `vni` gave, in order, to whom they concern; what this node
    /// answers itself goes back to the host. What was dropped is counted; of flooded frames only
    /// whole failures are returned, of many the last.
    pub fn handle_frames(
        &mut self,
        vni: Vni,
        frames: &mut [TapFrame<'_>],
        now: Time,
        underlay: &mut impl Underlay,
        slow: &mut impl SlowPath,
        host: &mut impl Host,
    ) -> Result<(), Dropped> {
        let snapshot = self.shared.snapshot.load();
        let Some(view) = snapshot.vsubnet(vni) else {
            self.shared
                .drops
                .add(Dropped::UnknownVSubnet, frames.len() as u64);
            return Err(Dropped::UnknownVSubnet);
        };
        let mut ways = Ways {
            now,
            underlay,
            slow,
        };
        self.forward(view, frames, &mut ways, host)
    }

    /// Frames to the same peer that stand side by side go out together.
    fn forward<U: Underlay, S: SlowPath>(
        &self,
        view: &VSubnetView,
        frames: &mut [TapFrame<'_>],
        ways: &mut Ways<'_, U, S>,
        host: &mut impl Host,
    ) -> Result<(), Dropped> {
        let mut outcome = Ok(());
        let mut group: Option<(&Arc<Link>, usize)> = None;
        for at in 0..frames.len() {
            let decided = decide(view, &frames[at], ways.now);
            if let (Some((link, _)), Ok(Way::To(same))) = (&group, &decided)
                && Arc::ptr_eq(link, same)
            {
                continue;
            }
            if let Some((link, from)) = group.take() {
                outcome =
                    outcome.and(self.send_to(view, link, &mut frames[from..at], &mut None, ways));
            }
            match decided {
                Ok(Way::To(link)) => group = Some((link, at)),
                Ok(Way::Flood(list)) => self.flood(view, list, &mut frames[at], ways),
                Ok(Way::Back(answer)) => {
                    host.take_frame(view.vni, answer.frame());
                    view.switch.note_answered(answer.asked);
                }
                Err(reason) => {
                    self.shared.drops.count(reason);
                    outcome = Err(reason);
                }
            }
        }
        if let Some((link, from)) = group {
            outcome = outcome.and(self.send_to(view, link, &mut frames[from..], &mut None, ways));
        }
        outcome
    }

    /// Head-end replication: a copy under each pairwise key. One salt serves all copies, because
    /// the keys differ and the plaintext was fixed before the draw.
    fn flood<U: Underlay, S: SlowPath>(
        &self,
        view: &VSubnetView,
        list: &[PeerId],
        frame: &mut TapFrame<'_>,
        ways: &mut Ways<'_, U, S>,
    ) {
        let mut salt = None;
        let shape = frame.shape;
        let group = multicast::group_of(frame.octets);
        let mut spared = 0;
        for peer in list {
            match view.link(*peer) {
                Some(link) if group.is_some_and(|group| link.pruned.contains(group, ways.now)) => {
                    spared += 1;
                }
                Some(link) => {
                    let frames = std::slice::from_mut(frame);
                    let _counted = self.send_to(view, link, frames, &mut salt, ways);
                    // What one path asked for concerns no other.
                    frame.shape = shape;
                }
                None => self.shared.drops.count(Dropped::PeerRemoved),
            }
        }
        if spared > 0 {
            view.switch.note_spared(spared);
        }
        if multicast::is_report(frame.octets) {
            self.tell(Note::Reported { vni: view.vni }, ways.slow);
        }
    }

    fn send_to<U: Underlay, S: SlowPath>(
        &self,
        view: &VSubnetView,
        link: &Arc<Link>,
        frames: &mut [TapFrame<'_>],
        salt: &mut Option<Salt>,
        ways: &mut Ways<'_, U, S>,
    ) -> Result<(), Dropped> {
        if link.removed.load(Ordering::Acquire) {
            return self.drop_all(frames.len(), Dropped::PeerRemoved);
        }
        let (mut limit, mut fitted) = (view.mtu + ETHERNET_LEN, Ok(()));
        // A path that isn't known to be narrow carries the MTU with one VLAN tag, and no more.
        let most = view.mtu + ETHERNET_LEN + ethernet::TAG_LEN;
        let widest = Narrow {
            frame: most,
            settled: true,
        };
        let narrow = link.narrow();
        let longer = frames.iter().any(|frame| frame.longest() > most);
        let lan_mtu = link.lan_mtu();
        let is_bounded = longer || lan_mtu.is_some();
        if let Some(narrow) = narrow.or(is_bounded.then_some(widest)) {
            limit = limit.min(narrow.frame);
            fitted = self.fit(link, (narrow, lan_mtu), frames, ways);
        }
        // While earlier frames still wait in Core, later ones queue up behind them.
        let waiting = link.queued.load(Ordering::Acquire) > 0;
        let session = link.current.load();
        match session
            .as_ref()
            .filter(|session| session.is_usable(ways.now))
        {
            Some(session) if !waiting => {
                fitted.and(self.send_sealed(session, frames, limit, salt, ways))
            }
            // A sender that is faster than `Core` would keep its queue from ever getting empty.
            Some(session) if session.late.fetch_add(1, Ordering::Relaxed) >= MAX_LATE => {
                self.drop_all(frames.len(), Dropped::QueueFull)
            }
            _ => self.wait_for_session(link, frames, ways),
        }
    }

    /// Makes frames fit a path that carries less than the vSubnet needs, and those of a LAN with a
    /// larger MTU the vSubnet. A salt that was drawn before is still good: what is altered is
    /// altered for each copy alike.
    #[inline(never)]
    fn fit<U: Underlay, S: SlowPath>(
        &self,
        link: &Arc<Link>,
        (narrow, lan_mtu): (Narrow, Option<usize>),
        frames: &mut [TapFrame<'_>],
        ways: &mut Ways<'_, U, S>,
    ) -> Result<(), Dropped> {
        let (mut large, mut outcome) = (false, Ok(()));
        for frame in frames {
            let (within, told) = frame.bounds(narrow, lan_mtu);
            large |= frame.fit(within, lan_mtu.unwrap_or(usize::MAX));
            outcome = outcome.and(self.answer_unfit(link, frame, told, ways));
        }
        if large && link.note_sent_large(ways.now) {
            let link = Arc::clone(link);
            self.tell(Note::SentLarge { link }, ways.slow);
        }
        outcome
    }

    /// Counts a frame that can't be made to fit, and has its sender told what would.
    fn answer_unfit<U: Underlay, S: SlowPath>(
        &self,
        link: &Arc<Link>,
        frame: &TapFrame<'_>,
        longest: usize,
        ways: &mut Ways<'_, U, S>,
    ) -> Result<(), Dropped> {
        if !matches!(frame.shape, Shape::Unusable(Dropped::PathTooNarrow)) {
            return Ok(());
        }
        self.shared.drops.count(Dropped::PathTooNarrow);
        if link.may_tell_too_large(ways.now) {
            let note = Note::TooLarge {
                link: Arc::clone(link),
                frame: frame.octets[..frame.octets.len().min(QUOTED)].into(),
                longest,
            };
            self.tell(note, ways.slow);
        }
        Err(Dropped::PathTooNarrow)
    }

    fn drop_all(&self, frames: usize, reason: Dropped) -> Result<(), Dropped> {
        self.shared.drops.add(reason, frames as u64);
        Err(reason)
    }

    /// The order is that of docs/protocol.md 1.4: all plaintext is in memory, then the counters
    /// of all datagrams are allocated, then one salt is drawn, then they are sealed.
    fn send_sealed<U: Underlay, S: SlowPath>(
        &self,
        session: &Arc<Session>,
        frames: &[TapFrame<'_>],
        limit: usize,
        shared_salt: &mut Option<Salt>,
        ways: &mut Ways<'_, U, S>,
    ) -> Result<(), Dropped> {
        let link = &session.link;
        let path = link.path.load();
        let Some(path) = path.as_ref() else {
            return self.drop_all(frames.len(), Dropped::NoEndpoint);
        };
        let datagrams = parcels(frames, limit)
            .map(|parcel| parcel.datagrams(frames))
            .sum::<usize>();
        let Some(counter) = session.allocate(datagrams as u64) else {
            return self.drop_all(frames.len(), Dropped::SessionExpired);
        };
        let salt = if datagrams == 1 {
            *shared_salt.get_or_insert_with(|| self.shared.entropy.salt())
        } else {
            // With several counters under one salt, the salt must be younger than they are:
            // of two clones, one could otherwise give a counter to another of these frames.
            self.shared.entropy.salt()
        };
        let mut sealing = Sealing {
            session,
            path,
            salt,
            counter,
            underlay: &mut *ways.underlay,
            refused: None,
            sent: (0, 0),
            longest: 0,
        };
        for parcel in parcels(frames, limit) {
            sealing.send(&parcel, frames);
        }
        let (sent, refused) = (sealing.sent, sealing.refused);
        if sealing.longest > SMALL_DATAGRAM && link.note_sent_large(ways.now) {
            let link = Arc::clone(link);
            self.tell(Note::SentLarge { link }, ways.slow);
        }
        if sent.0 > 0 && link.note_sent_frames(sent.0, sent.1, ways.now) {
            let link = Arc::clone(link);
            self.tell(Note::SentData { link }, ways.slow);
        }
        if session.claim_rekey(ways.now) {
            let session = Arc::clone(session);
            self.tell(Note::RekeyDue { session }, ways.slow);
        }
        match refused {
            None => Ok(()),
            Some((reason, number)) => self.drop_all(number, reason),
        }
    }

    fn wait_for_session<U: Underlay, S: SlowPath>(
        &self,
        link: &Arc<Link>,
        frames: &[TapFrame<'_>],
        ways: &mut Ways<'_, U, S>,
    ) -> Result<(), Dropped> {
        let mut outcome = Ok(());
        for frame in frames {
            if matches!(frame.shape, Shape::Unusable(_)) {
                outcome = Err(Dropped::PathTooNarrow);
                continue;
            }
            let Err(reason) = self.queue(link, frame, ways.now, ways.slow) else {
                continue;
            };
            self.shared.drops.count(reason);
            outcome = Err(reason);
        }
        outcome
    }

    fn queue(
        &self,
        link: &Arc<Link>,
        frame: &TapFrame<'_>,
        now: Time,
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        match frame.shape {
            Shape::Unusable(reason) => Err(reason),
            Shape::One(content) => {
                self.queue_one(link, [&content.octets()[..], &*frame.octets].concat(), slow)
            }
            Shape::Fragments(fragments) => (0..fragments.count()).try_for_each(|index| {
                let mut plaintext = vec![0; PREFIX_LEN + fragments.len_of(index)];
                plaintext[..PREFIX_LEN].copy_from_slice(&Content::Whole.octets());
                let id = now.as_nanos() as u32;
                fragments.put(frame.octets, index, id, &mut plaintext[PREFIX_LEN..]);
                self.queue_one(link, plaintext, slow)
            }),
            Shape::Many(split) => (0..split.count()).try_for_each(|index| {
                let mut plaintext = vec![0; PREFIX_LEN + split.headers_len()];
                plaintext[..PREFIX_LEN].copy_from_slice(&split.content(index).octets());
                split.put_headers(frame.octets, index, &mut plaintext[PREFIX_LEN..]);
                plaintext.extend_from_slice(split.payload(frame.octets, index));
                self.queue_one(link, plaintext, slow)
            }),
        }
    }

    fn queue_one(
        &self,
        link: &Arc<Link>,
        plaintext: Vec<u8>,
        slow: &mut impl SlowPath,
    ) -> Result<(), Dropped> {
        let octets = plaintext.len();
        if !self.shared.reserve_queue(link, octets) {
            return Err(Dropped::QueueFull);
        }
        let wanted = Note::Wanted {
            link: Arc::clone(link),
            frame: plaintext.into_boxed_slice(),
        };
        if slow.submit(Message(wanted)) {
            return Ok(());
        }
        self.shared.release_queue(link, octets);
        Err(Dropped::SlowPathFull)
    }

    fn tell(&self, note: Note, slow: &mut impl SlowPath) {
        tell(&self.shared, note, slow);
    }
}

/// Octets in front of the packet: Ethernet's, with the one tag for which each path has room.
fn link_len(frame: &[u8]) -> usize {
    let is_tagged = Frame::parse(frame).is_ok_and(|frame| frame.tags().next().is_some());
    ETHERNET_LEN + if is_tagged { ethernet::TAG_LEN } else { 0 }
}

enum Way<'v> {
    To(&'v Arc<Link>),
    Flood(&'v [PeerId]),
    Back(Answer),
}

fn decide<'v>(view: &'v VSubnetView, frame: &TapFrame<'_>, now: Time) -> Result<Way<'v>, Dropped> {
    if let Shape::Unusable(reason) = frame.shape {
        return Err(reason);
    }
    match view.switch.egress(frame.octets, now) {
        Err(_) => Err(Dropped::RefusedBySwitch),
        Ok(Egress::Flood(list)) => Ok(Way::Flood(list)),
        Ok(Egress::Unicast(peer)) => view.link(peer).map(Way::To).ok_or(Dropped::PeerRemoved),
        Ok(Egress::Answer(answer)) => view
            .link(answer.peer)
            .filter(|link| !link.removed.load(Ordering::Acquire))
            .map(|_| Way::Back(answer))
            .ok_or(Dropped::PeerRemoved),
    }
}

/// Frames that share datagrams: one frame in one or many, or a bundle in one.
struct Parcel(Range<usize>);

impl Parcel {
    fn datagrams(&self, frames: &[TapFrame<'_>]) -> usize {
        if self.0.len() > 1 {
            1
        } else {
            frames[self.0.start].datagrams()
        }
    }
}

/// Divides frames to one peer. Bundled are those that wait together anyway; the limit is what
/// a frame of the TAP's MTU needs, so that a bundle fits where a frame does.
fn parcels<'f>(frames: &'f [TapFrame<'_>], limit: usize) -> impl Iterator<Item = Parcel> + 'f {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = frames.get(at)?;
        let start = at;
        at += 1;
        if !first.is_bundled_within(limit) {
            return Some(Parcel(start..at));
        }
        let mut octets = BUNDLED_LEN + first.octets.len();
        while let Some(next) = frames.get(at) {
            octets += BUNDLED_LEN + next.octets.len();
            if !next.is_bundled_within(limit) || octets > limit {
                break;
            }
            at += 1;
        }
        Some(Parcel(start..at))
    })
}

/// The sealing of what has its counters and its salt.
struct Sealing<'s, U> {
    session: &'s Session,
    path: &'s Path,
    salt: Salt,
    counter: u64,
    underlay: &'s mut U,
    /// Why some weren't sent, and how many frames.
    refused: Option<(Dropped, usize)>,
    /// Frames and octets.
    sent: (usize, usize),
    /// The longest datagram.
    longest: usize,
}

impl<U: Underlay> Sealing<'_, U> {
    fn send(&mut self, parcel: &Parcel, frames: &[TapFrame<'_>]) {
        if parcel.0.len() > 1 {
            return self.send_bundle(&frames[parcel.0.clone()]);
        }
        let frame = &frames[parcel.0.start];
        match frame.shape {
            Shape::Unusable(_) => {}
            Shape::One(content) => self.send_one(content, frame.octets),
            Shape::Many(split) => {
                (0..split.count()).for_each(|index| self.send_segment(&split, frame.octets, index));
            }
            Shape::Fragments(fragments) => {
                let id = self.counter as u32;
                for index in 0..fragments.count() {
                    self.send_fragment(&fragments, frame.octets, index, id);
                }
            }
        }
    }

    /// Room for a plaintext, and the counter to seal it with.
    fn room(&mut self, plaintext: usize, frames: usize, octets: usize) -> Option<(u64, &mut [u8])> {
        let counter = self.counter;
        self.counter += 1;
        let len = HEADER_LEN + plaintext + TAG_LEN;
        match self.path.admit(len) {
            Err(reason) => {
                let before = self.refused.map_or(0, |(_, number)| number);
                self.refused = Some((reason, before + frames));
                None
            }
            Ok(to) => {
                self.sent.0 += frames;
                self.sent.1 += octets;
                self.longest = self.longest.max(len);
                Some((counter, self.underlay.datagram(to, len)))
            }
        }
    }

    fn send_one(&mut self, content: Content, frame: &[u8]) {
        let (session, salt) = (self.session, self.salt);
        let Some((counter, datagram)) = self.room(PREFIX_LEN + frame.len(), 1, frame.len()) else {
            return;
        };
        datagram[HEADER_LEN..HEADER_LEN + PREFIX_LEN].copy_from_slice(&content.octets());
        session.seal_gathered(salt, counter, datagram, PREFIX_LEN, frame);
    }

    fn send_segment(&mut self, split: &Split, frame: &[u8], index: usize) {
        let (session, salt) = (self.session, self.salt);
        let payload = split.payload(frame, index);
        let octets = split.headers_len() + payload.len();
        let Some((counter, datagram)) = self.room(PREFIX_LEN + octets, 1, octets) else {
            return;
        };
        let start = PREFIX_LEN + split.headers_len();
        let (prefix, headers) = datagram[HEADER_LEN..HEADER_LEN + start].split_at_mut(PREFIX_LEN);
        prefix.copy_from_slice(&split.content(index).octets());
        split.put_headers(frame, index, headers);
        session.seal_gathered(salt, counter, datagram, start, payload);
    }

    fn send_fragment(&mut self, fragments: &Fragments, frame: &[u8], index: usize, id: u32) {
        let (session, salt) = (self.session, self.salt);
        let octets = fragments.len_of(index);
        let Some((counter, datagram)) = self.room(PREFIX_LEN + octets, 1, octets) else {
            return;
        };
        let (prefix, room) = datagram[HEADER_LEN..].split_at_mut(PREFIX_LEN);
        prefix.copy_from_slice(&Content::Whole.octets());
        fragments.put(frame, index, id, &mut room[..octets]);
        session.seal_gathered(salt, counter, datagram, PREFIX_LEN + octets, &[]);
    }

    fn send_bundle(&mut self, frames: &[TapFrame<'_>]) {
        let (session, salt) = (self.session, self.salt);
        let octets = frames.iter().map(|frame| frame.octets.len()).sum();
        let plaintext = PREFIX_LEN + BUNDLED_LEN * frames.len() + octets;
        let Some((counter, datagram)) = self.room(plaintext, frames.len(), octets) else {
            return;
        };
        let mut room = &mut datagram[HEADER_LEN..HEADER_LEN + plaintext];
        room[..PREFIX_LEN].copy_from_slice(&Content::Bundle.octets());
        room = &mut room[PREFIX_LEN..];
        for frame in frames {
            if let Shape::One(content) = frame.shape {
                room = Bundled::put(room, content, frame.octets);
            }
        }
        session.seal_gathered(salt, counter, datagram, plaintext, &[]);
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
    Sizing(Arc<Link>),
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
            Note::SentLarge { link } => Self::Sizing(Arc::clone(link)),
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
            Self::Sizing(link) => &link.sizing,
            Self::Rekey(session) => &session.rekey_told,
            Self::Confirmed(session) => return session.take_back_confirmation(),
            Self::Nothing => return,
        };
        flag.store(false, Ordering::Release);
    }
}
