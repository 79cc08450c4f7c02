//! From the underlay to a TAP: check, open, judge. Owned by one thread; there may be several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Guard;
use cairn_wire::Mac;
use cairn_wire::control::without_padding;
use cairn_wire::header::{COOKIE_LEN, Datagram, Init, Macs, Type};

use crate::drops::Dropped;
use crate::link::{Link, Path, stamp};
use crate::mac::verify_mac2;
use crate::message::{Inline, Kind as Note, Message, SlowPath};
use crate::multicast;
use crate::offload::{Bundled, Coalescer, Content, Host, Incoming, clamp_mss};
use crate::outbound::tell;
use crate::session::{Opened, Session};
use crate::shared::{Shared, Snapshot};
use crate::switch::Role;
use crate::time::Time;

/// What became of a datagram.
#[derive(Debug)]
pub enum Verdict {
    /// Its frames, so many, went to the coalescer.
    Frames(usize),
    /// Send this back: the only answer that the fast path gives, under load and to a right mac1.
    Reply(Reply),
    /// It was for the engine itself.
    Consumed,
    /// It went no further; counted.
    Dropped(Dropped),
}

/// A COOKIE to be sent.
#[derive(Clone, Debug)]
pub struct Reply {
    /// To whom.
    pub to: SocketAddr,
    /// The datagram.
    pub datagram: [u8; COOKIE_LEN],
}

/// CONTROL packets and MACs to be learned of one peer that may be on the way to `Core` at once.
const MAX_CONTROLS: u32 = 16;

/// The receiving half of the fast path.
pub struct Inbound {
    shared: Arc<Shared>,
}

/// What lives as long as one batch of datagrams, so that its cost is shared: each atomic
/// operation that a datagram needs is a twentieth of what it costs to open it.
pub struct Receiving<'i> {
    shared: &'i Shared,
    snapshot: Guard<Arc<Snapshot>>,
    now: Time,
    recent: Option<Recent>,
}

/// The session of the datagram before: most often that of the next one, too.
struct Recent {
    session: Arc<Session>,
    path: Guard<Option<Arc<Path>>>,
    frames: usize,
    octets: usize,
}

impl Recent {
    fn new(session: &Arc<Session>) -> Self {
        Self {
            session: Arc::clone(session),
            path: session.link.path.load(),
            frames: 0,
            octets: 0,
        }
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        if self.frames > 0 {
            self.session.link.count_received(self.frames, self.octets);
        }
    }
}

impl Inbound {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Begins a batch: what came together and is handled at `now`. End it before waiting.
    pub fn begin(&mut self, now: Time) -> Receiving<'_> {
        Receiving {
            shared: &self.shared,
            snapshot: self.shared.snapshot.load(),
            now,
            recent: None,
        }
    }
}

impl Receiving<'_> {
    /// Takes a datagram from the underlay; opens it in place. Its frames are the coalescer's
    /// until that is told to finish.
    pub fn handle_datagram<'a>(
        &mut self,
        from: SocketAddr,
        datagram: &'a mut [u8],
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Verdict {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let verdict = match Datagram::parse(datagram) {
            Err(_) => Err(Dropped::MalformedDatagram),
            Ok(Datagram::Data(view) | Datagram::Control(view)) => {
                let receiver = view.receiver();
                self.open(receiver, from, datagram, slow, frames)
            }
            Ok(Datagram::Init(init)) => self.screen_init(&init, from, datagram, slow),
            Ok(Datagram::Resp(resp)) if !self.shared.awaited.contains(resp.receiver()) => {
                Err(Dropped::UnknownHandshake)
            }
            Ok(Datagram::Resp(resp)) => self.screen_resp(&resp.macs(), from, datagram, slow),
            // It has no mac1: without this, anybody could fill the way to `Core`.
            Ok(Datagram::Cookie(cookie)) if !self.shared.awaited.contains(cookie.receiver()) => {
                Err(Dropped::UnknownCookie)
            }
            Ok(Datagram::Cookie(_)) => self.pass_on(from, datagram, slow),
        };
        verdict.unwrap_or_else(|reason| {
            self.shared.drops.count(reason);
            Verdict::Dropped(reason)
        })
    }

    fn open<'a>(
        &mut self,
        receiver: u32,
        from: SocketAddr,
        datagram: &'a mut [u8],
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<Verdict, Dropped> {
        // Taken out, so that it and the rest can be used side by side.
        let mut recent = match self.recent.take() {
            Some(recent) if recent.session.local_index == receiver => recent,
            _ => {
                let session = self.snapshot.sessions.get(receiver);
                Recent::new(session.ok_or(Dropped::UnknownSession)?)
            }
        };
        let verdict = self.open_of(&mut recent, from, datagram, slow, frames);
        self.recent = Some(recent);
        verdict
    }

    fn open_of<'a>(
        &self,
        recent: &mut Recent,
        from: SocketAddr,
        datagram: &'a mut [u8],
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<Verdict, Dropped> {
        let session = &recent.session;
        if !session.is_usable(self.now) {
            return Err(Dropped::SessionExpired);
        }
        let octets = datagram.len();
        let is_data = datagram[0] == Type::Data.octet();
        let opened = session
            .open(datagram, self.now)
            .inspect_err(|reason| self.note_used_counter(session, *reason, slow))?;
        self.note_authentic(recent, from, octets, opened.newest, slow);
        if is_data {
            self.take_frames(recent, opened, slow, frames)
        } else {
            self.pass_control(&recent.session, from, &opened, slow)
        }
    }

    /// Tells of a peer that is two machines, or has lost its place in the session.
    fn note_used_counter(&self, session: &Arc<Session>, reason: Dropped, slow: &mut impl SlowPath) {
        let note = match reason {
            Dropped::Cloned => Note::CloneSeen {
                session: Arc::clone(session),
            },
            Dropped::Replayed | Dropped::TooOld if session.claim_after_fall_back() => {
                Note::RekeyDue {
                    session: Arc::clone(session),
                }
            }
            _ => return,
        };
        tell(self.shared, note, slow);
    }

    /// An authentic packet confirms its session, shows life, and may come from a new endpoint.
    fn note_authentic(
        &self,
        recent: &Recent,
        from: SocketAddr,
        octets: usize,
        newest: bool,
        slow: &mut impl SlowPath,
    ) {
        let session = &recent.session;
        let link = &session.link;
        stamp(&link.traffic.received, self.now);
        if session.confirm() {
            let session = Arc::clone(session);
            tell(self.shared, Note::Confirmed { session, from }, slow);
        }
        match recent.path.as_ref() {
            Some(path) if path.endpoint == from && !path.unanswered.load(Ordering::Relaxed) => {
                path.note_received(octets);
            }
            _ if newest && !link.roaming.swap(true, Ordering::AcqRel) => {
                let note = Note::Roamed {
                    session: Arc::clone(session),
                    from,
                    octets: octets as u64,
                };
                tell(self.shared, note, slow);
            }
            _ => {}
        }
        if session.claim_rekey(self.now) {
            let session = Arc::clone(session);
            tell(self.shared, Note::RekeyDue { session }, slow);
        }
    }

    /// Hands the frames of a DATA packet on; one that is refused doesn't keep the others back.
    fn take_frames<'a>(
        &self,
        recent: &mut Recent,
        opened: Opened<'a>,
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<Verdict, Dropped> {
        let session = &recent.session;
        let link = &session.link;
        let (narrow, lan_mtu) = (link.narrow(), link.lan_mtu());
        if narrow.is_some() || lan_mtu.is_some() {
            let limit = narrow.map_or(usize::MAX, |narrow| narrow.frame);
            clamp_each(opened.plaintext, limit, lan_mtu.unwrap_or(usize::MAX));
        }
        let (content, rest) = Content::split(opened.plaintext).ok_or(Dropped::MalformedData)?;
        let incoming = |(content, frame)| Incoming {
            vni: link.vni,
            session: session.local_index,
            counter: opened.counter,
            content,
            frame,
        };
        if link.note_received(self.now) {
            let link = Arc::clone(link);
            tell(self.shared, Note::ReceivedData { link }, slow);
        }
        if content != Content::Bundle {
            recent.frames += 1;
            recent.octets += rest.len();
            self.take_frame(link, incoming((content, rest)), slow, frames)?;
            return Ok(Verdict::Frames(1));
        }
        let mut taken = 0;
        for bundled in Bundled::new(rest) {
            let Some((content, frame)) = bundled else {
                self.shared.drops.count(Dropped::MalformedData);
                break;
            };
            recent.frames += 1;
            recent.octets += frame.len();
            match self.take_frame(link, incoming((content, frame)), slow, frames) {
                Ok(()) => taken += 1,
                Err(reason) => self.shared.drops.count(reason),
            }
        }
        Ok(Verdict::Frames(taken))
    }

    /// Joins a frame to the run under way, or judges it and starts another.
    fn take_frame<'a>(
        &self,
        link: &Arc<Link>,
        incoming: Incoming<'a>,
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<(), Dropped> {
        if frames.join(&incoming) {
            return Ok(());
        }
        let view = self.snapshot.vsubnet(link.vni);
        let switch = &view.ok_or(Dropped::UnknownVSubnet)?.switch;
        let accepted = switch
            .ingress(incoming.frame, link.peer, self.now)
            .map_err(|refused| {
                if refused.is_spoofing() {
                    self.note_spoofing(link, incoming.frame, slow);
                }
                Dropped::RefusedBySwitch
            })?;
        if let Some(mac) = accepted.learn {
            self.note_learned(link, mac, slow);
        }
        if accepted.reflected {
            self.note_reflected(link, incoming.frame, slow);
        }
        if accepted.withheld.is_some() {
            return Err(Dropped::RefusedBySwitch);
        }
        // A LAN's stations are not asked what they listen to.
        if let Some(group) = multicast::group_of(incoming.frame)
            && switch.role() == Role::Host
            && link.looked.is_due(group, self.now)
        {
            let note = Note::Multicast {
                link: Arc::clone(link),
                group,
            };
            self.note_in_turn(link, note, slow);
        }
        if frames.start(incoming) {
            Ok(())
        } else {
            Err(Dropped::MalformedData)
        }
    }

    /// The frame goes on in any case; where there is no room, the next one of this MAC is told of.
    fn note_learned(&self, link: &Arc<Link>, mac: Mac, slow: &mut impl SlowPath) {
        let note = Note::Learn {
            link: Arc::clone(link),
            mac,
        };
        self.note_in_turn(link, note, slow);
    }

    fn note_reflected(&self, link: &Arc<Link>, frame: &[u8], slow: &mut impl SlowPath) {
        let source = frame.get(6..12).and_then(|source| source.try_into().ok());
        if let Some(source) = source {
            let link = Arc::clone(link);
            let mac = Mac(source);
            let note = Note::Reflected {
                link: Arc::clone(&link),
                mac,
            };
            self.note_in_turn(&link, note, slow);
        }
    }

    fn note_in_turn(&self, link: &Link, note: Note, slow: &mut impl SlowPath) {
        if !take_turn(link) {
            self.shared.drops.count(Dropped::SlowPathFull);
            return;
        }
        if let Err(reason) = submit(note, slow) {
            self.shared.drops.count(reason);
            link.controls.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn note_spoofing(&self, link: &Arc<Link>, frame: &[u8], slow: &mut impl SlowPath) {
        let source = frame.get(6..12).and_then(|source| source.try_into().ok());
        if let Some(source) = source
            && !link.spoofing.swap(true, Ordering::AcqRel)
        {
            let link = Arc::clone(link);
            let mac = Mac(source);
            tell(self.shared, Note::Spoofed { link, mac }, slow);
        }
    }

    fn pass_control(
        &self,
        session: &Arc<Session>,
        from: SocketAddr,
        opened: &Opened<'_>,
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        let list = without_padding(opened.plaintext);
        if list.is_empty() {
            return Ok(Verdict::Consumed);
        }
        let plaintext = Inline::copy(list).ok_or(Dropped::MalformedControl)?;
        // The way to `Core` is everybody's: one peer may not fill it.
        let link = &session.link;
        if !take_turn(link) {
            return Err(Dropped::SlowPathFull);
        }
        let note = Note::Control {
            session: Arc::clone(session),
            from,
            plaintext,
        };
        submit(note, slow).inspect_err(|_| {
            link.controls.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// mac1 before anything else (rule 1), then the cookie under load (rule 2). What passes costs
    /// `Core` a DH; what doesn't has cost one or two HMACs.
    fn screen_init(
        &self,
        init: &Init<'_>,
        from: SocketAddr,
        datagram: &[u8],
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        let macs = init.macs();
        let mut keys = self.snapshot.mac_keys.iter();
        let key = keys
            .find(|key| key.suite as u8 == init.suite() && key.verify_mac1(&macs))
            .ok_or(Dropped::WrongMac1)?;
        if !self.shared.load.count_init(self.now) {
            return self.pass_on(from, datagram, slow);
        }
        let cookies = self.shared.cookies.of(from, self.now);
        if verify_mac2(&macs, &cookies) {
            if !self.shared.sources.admit(from.ip(), self.now) {
                return Err(Dropped::SourceTooFast);
            }
            return self.pass_on(from, datagram, slow);
        }
        self.shared.drops.count(Dropped::CookieRequired);
        let mut nonce = [0; 12];
        self.shared.entropy.fill_secret(&mut nonce);
        let datagram = key.seal_cookie(init.sender(), &macs.mac1(), &cookies[0], nonce);
        Ok(Verdict::Reply(Reply { to: from, datagram }))
    }

    fn screen_resp(
        &self,
        macs: &Macs<'_>,
        from: SocketAddr,
        datagram: &[u8],
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        if !self
            .snapshot
            .mac_keys
            .iter()
            .any(|key| key.verify_mac1(macs))
        {
            return Err(Dropped::WrongMac1);
        }
        self.pass_on(from, datagram, slow)
    }

    fn pass_on(
        &self,
        from: SocketAddr,
        datagram: &[u8],
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        let datagram = Inline::copy(datagram).ok_or(Dropped::MalformedDatagram)?;
        submit(Note::Handshake { from, datagram }, slow)
    }
}

/// Lowers the MSS of what answers these frames to what the path carries, and the vSubnet.
#[inline(never)]
fn clamp_each(plaintext: &mut [u8], limit: usize, mtu: usize) {
    let Some((prefix, mut rest)) = plaintext.split_first_chunk_mut() else {
        return;
    };
    match Content::parse(*prefix) {
        Some(Content::Bundle) => {
            while let Some((content, frame)) = Bundled::take_mut(&mut rest) {
                clamp_mss(frame, content, limit, mtu);
            }
        }
        Some(content) => clamp_mss(rest, content, limit, mtu),
        None => {}
    }
}

/// Takes one of the peer's turns on the way to `Core`, which gives it back; false if it has none.
fn take_turn(link: &Link) -> bool {
    let taken = link.controls.fetch_add(1, Ordering::AcqRel) < MAX_CONTROLS;
    if !taken {
        link.controls.fetch_sub(1, Ordering::AcqRel);
    }
    taken
}

fn submit(note: Note, slow: &mut impl SlowPath) -> Result<Verdict, Dropped> {
    if slow.submit(Message(note)) {
        Ok(Verdict::Consumed)
    } else {
        Err(Dropped::SlowPathFull)
    }
}
