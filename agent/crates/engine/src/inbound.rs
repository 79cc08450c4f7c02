//! From the underlay to a TAP: check, open, judge. Owned by one thread; there may be several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_wire::Mac;
use cairn_wire::header::{COOKIE_LEN, Datagram, Init, Macs, Type};

use crate::drops::Dropped;
use crate::link::{Link, stamp};
use crate::mac::verify_mac2;
use crate::message::{Inline, Kind as Note, Message, SlowPath};
use crate::multicast;
use crate::offload::{Bundled, Coalescer, Content, Host, Incoming, Run};
use crate::outbound::tell;
use crate::session::{Opened, Session};
use crate::shared::{Shared, Snapshot, VSubnetView};
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

impl Inbound {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes a datagram from the underlay; opens it in place. Its frames are the coalescer's
    /// until that is told to finish.
    pub fn handle_datagram<'a>(
        &mut self,
        from: SocketAddr,
        datagram: &'a mut [u8],
        now: Time,
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Verdict {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let snapshot = self.shared.snapshot.load();
        let verdict = match Datagram::parse(datagram) {
            Err(_) => Err(Dropped::MalformedDatagram),
            Ok(Datagram::Data(view) | Datagram::Control(view)) => {
                let receiver = view.receiver();
                self.open(&snapshot, receiver, from, datagram, now, slow, frames)
            }
            Ok(Datagram::Init(init)) => {
                self.screen_init(&snapshot, &init, from, datagram, now, slow)
            }
            Ok(Datagram::Resp(resp)) if !self.shared.awaited.contains(resp.receiver()) => {
                Err(Dropped::UnknownHandshake)
            }
            Ok(Datagram::Resp(resp)) => {
                self.screen_resp(&snapshot, &resp.macs(), from, datagram, slow)
            }
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

    #[allow(
        clippy::too_many_arguments,
        reason = "one call site; a struct would be built per packet"
    )]
    fn open<'a>(
        &self,
        snapshot: &Snapshot,
        receiver: u32,
        from: SocketAddr,
        datagram: &'a mut [u8],
        now: Time,
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<Verdict, Dropped> {
        let session = snapshot
            .sessions
            .get(receiver)
            .ok_or(Dropped::UnknownSession)?;
        if !session.is_usable(now) {
            return Err(Dropped::SessionExpired);
        }
        let octets = datagram.len();
        let is_data = datagram[0] == Type::Data.octet();
        let opened = session.open(datagram, now).inspect_err(|reason| {
            if *reason == Dropped::Cloned {
                let session = Arc::clone(session);
                tell(&self.shared, Note::CloneSeen { session }, slow);
            }
        })?;
        self.note_authentic(session, from, octets, opened.newest, now, slow);
        if is_data {
            self.take_frames(snapshot, session, opened, now, slow, frames)
        } else {
            self.pass_control(session, from, &opened, slow)
        }
    }

    /// An authentic packet confirms its session, shows life, and may come from a new endpoint.
    fn note_authentic(
        &self,
        session: &Arc<Session>,
        from: SocketAddr,
        octets: usize,
        newest: bool,
        now: Time,
        slow: &mut impl SlowPath,
    ) {
        let link = &session.link;
        stamp(&link.traffic.received, now);
        if session.confirm() {
            let session = Arc::clone(session);
            tell(&self.shared, Note::Confirmed { session, from }, slow);
        }
        let path = link.path.load();
        match path.as_ref() {
            Some(path) if path.endpoint == from && !path.unanswered.load(Ordering::Relaxed) => {
                path.note_received(octets);
            }
            _ if newest && !link.roaming.swap(true, Ordering::AcqRel) => {
                let note = Note::Roamed {
                    session: Arc::clone(session),
                    from,
                    octets: octets as u64,
                };
                tell(&self.shared, note, slow);
            }
            _ => {}
        }
        if session.claim_rekey(now) {
            let session = Arc::clone(session);
            tell(&self.shared, Note::RekeyDue { session }, slow);
        }
    }

    /// Hands the frames of a DATA packet on; one that is refused doesn't keep the others back.
    fn take_frames<'a>(
        &self,
        snapshot: &Snapshot,
        session: &Session,
        opened: Opened<'a>,
        now: Time,
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<Verdict, Dropped> {
        let link = &session.link;
        let view = snapshot.vsubnet(link.vni).ok_or(Dropped::UnknownVSubnet)?;
        let (content, rest) = Content::split(opened.plaintext).ok_or(Dropped::MalformedData)?;
        let incoming = |(content, frame)| Incoming {
            vni: link.vni,
            session: session.local_index,
            counter: opened.counter,
            content,
            frame,
        };
        if content != Content::Bundle {
            let one = incoming((content, rest));
            self.note_frames(link, 1, rest.len(), now, slow);
            self.take_frame(view, link, one, now, slow, frames)?;
            return Ok(Verdict::Frames(1));
        }
        let (mut taken, mut number, mut octets) = (0, 0, 0);
        for bundled in Bundled::new(rest) {
            let Some((content, frame)) = bundled else {
                self.shared.drops.count(Dropped::MalformedData);
                break;
            };
            number += 1;
            octets += frame.len();
            match self.take_frame(view, link, incoming((content, frame)), now, slow, frames) {
                Ok(()) => taken += 1,
                Err(reason) => self.shared.drops.count(reason),
            }
        }
        self.note_frames(link, number, octets, now, slow);
        Ok(Verdict::Frames(taken))
    }

    fn note_frames(
        &self,
        link: &Arc<Link>,
        frames: usize,
        octets: usize,
        now: Time,
        slow: &mut impl SlowPath,
    ) {
        if link.note_received_frames(frames, octets, now) {
            let link = Arc::clone(link);
            tell(&self.shared, Note::ReceivedData { link }, slow);
        }
    }

    /// Joins a frame to the run under way, or judges it and starts another.
    fn take_frame<'a>(
        &self,
        view: &VSubnetView,
        link: &Arc<Link>,
        incoming: Incoming<'a>,
        now: Time,
        slow: &mut impl SlowPath,
        frames: &mut Coalescer<'a, '_, impl Host>,
    ) -> Result<(), Dropped> {
        if frames.join(&incoming) {
            return Ok(());
        }
        let accepted = view
            .switch
            .ingress(incoming.frame, link.peer, now)
            .map_err(|refused| {
                if refused.is_spoofing() {
                    self.note_spoofing(link, incoming.frame, slow);
                }
                Dropped::RefusedBySwitch
            })?;
        if let Some(mac) = accepted.learn {
            self.note_learned(link, mac, slow);
        }
        // A LAN's stations are not asked what they listen to.
        if let Some(group) = multicast::group_of(incoming.frame)
            && view.switch.role() == Role::Host
            && link.looked.is_due(group, now)
        {
            let note = Note::Multicast {
                link: Arc::clone(link),
                group,
            };
            self.note_in_turn(link, note, slow);
        }
        let run = Run::new(incoming).ok_or(Dropped::MalformedData)?;
        frames.start(run);
        Ok(())
    }

    /// The frame goes on in any case; where there is no room, the next one of this MAC is told of.
    fn note_learned(&self, link: &Arc<Link>, mac: Mac, slow: &mut impl SlowPath) {
        let note = Note::Learn {
            link: Arc::clone(link),
            mac,
        };
        self.note_in_turn(link, note, slow);
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
            tell(&self.shared, Note::Spoofed { link, mac }, slow);
        }
    }

    fn pass_control(
        &self,
        session: &Arc<Session>,
        from: SocketAddr,
        opened: &Opened<'_>,
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        if opened.plaintext.is_empty() {
            return Ok(Verdict::Consumed);
        }
        let plaintext = Inline::copy(opened.plaintext).ok_or(Dropped::MalformedControl)?;
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
        snapshot: &Snapshot,
        init: &Init<'_>,
        from: SocketAddr,
        datagram: &[u8],
        now: Time,
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        let macs = init.macs();
        let mut keys = snapshot.mac_keys.iter();
        let key = keys
            .find(|key| key.suite as u8 == init.suite() && key.verify_mac1(&macs))
            .ok_or(Dropped::WrongMac1)?;
        if !self.shared.load.count_init(now) {
            return self.pass_on(from, datagram, slow);
        }
        let cookies = self.shared.cookies.of(from, now);
        if verify_mac2(&macs, &cookies) {
            if !self.shared.sources.admit(from.ip(), now) {
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
        snapshot: &Snapshot,
        macs: &Macs<'_>,
        from: SocketAddr,
        datagram: &[u8],
        slow: &mut impl SlowPath,
    ) -> Result<Verdict, Dropped> {
        if !snapshot.mac_keys.iter().any(|key| key.verify_mac1(macs)) {
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
