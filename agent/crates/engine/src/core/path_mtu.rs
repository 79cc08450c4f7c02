//! What the path to a peer carries: the search on the path in use, and what follows from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_wire::control::Tlv;
use cairn_wire::ethernet;
use cairn_wire::header::{HEADER_LEN, TAG_LEN};

use crate::core::apply::VSubnet;
use crate::core::effects::Effects;
use crate::core::peer::Peer;
use crate::link::{Narrow, Path, read};
use crate::liveness::Liveness;
use crate::offload::PREFIX_LEN;
use crate::pmtu::{BASE_PACKET, Noted, Search, Step};
use crate::time::Time;

/// What a datagram has around the frame.
const SEALED: usize = HEADER_LEN + PREFIX_LEN + TAG_LEN;
/// What a frame has around the IP packet, with a VLAN tag.
const FRAMED: usize = ethernet::HEADER_LEN + ethernet::TAG_LEN;
const UDP_OVER_V4: usize = 20 + 8;
const UDP_OVER_V6: usize = 40 + 8;

/// The search on one path.
pub(crate) struct PathMtu {
    path: Arc<Path>,
    search: Search,
    /// There is no session to try on; nothing is due until there is one.
    paused: bool,
}

/// The largest datagram of a packet that passes everywhere.
pub(crate) const fn base_datagram(to: SocketAddr) -> usize {
    match to {
        SocketAddr::V4(_) => BASE_PACKET - UDP_OVER_V4,
        SocketAddr::V6(_) => BASE_PACKET - UDP_OVER_V6,
    }
}

impl Peer {
    /// The largest IP packet that the path carries, once it is known.
    pub(crate) fn path_mtu(&self) -> Option<usize> {
        let known = self.path_mtu.as_ref()?;
        let search = Some(&known.search).filter(|search| search.is_settled())?;
        search.carries().checked_sub(SEALED + FRAMED)
    }

    /// Large data was sent after a rest.
    pub(crate) fn watch_size(&mut self, now: Time) {
        match &mut self.path_mtu {
            Some(known) => known.search.watch(now),
            // There will be a search as soon as there is a path; until then nobody needs be told.
            None => self.link.sizing.store(false, Ordering::Release),
        }
    }

    /// This node's own addresses changed, and with them perhaps the way to the peer.
    pub(crate) fn measure_anew(&mut self, now: Time) {
        if let Some(known) = &mut self.path_mtu {
            known.search.look_anew(now);
        }
    }

    /// Takes an answer to a probe; whether it was one of a size.
    pub(super) fn size_passed(&mut self, token: [u8; 8], now: Time) -> bool {
        let Some(known) = &mut self.path_mtu else {
            return false;
        };
        let mut trials = known.search.trials().iter();
        if !trials.any(|trial| trial.token == token) {
            return false;
        }
        if let Some(took) = known.search.answered(token, now) {
            self.rtt = Some(took);
        }
        true
    }

    pub(super) fn path_mtu_due(&self) -> Option<Time> {
        let active = self.path_mtu.as_ref().filter(|known| !known.paused);
        active.and_then(|known| known.search.due())
    }

    /// Starts over where the path or the need is another one, and does what is due.
    pub(super) fn step_path_mtu(&mut self, fx: &mut Effects, vsubnet: &VSubnet, now: Time) {
        let Some(path) = self.link.path.load_full() else {
            return;
        };
        let wanted = usize::from(vsubnet.config.mtu) + FRAMED + SEALED;
        let session = self.usable(now);
        let same = self
            .path_mtu
            .take()
            .filter(|known| Arc::ptr_eq(&known.path, &path) && known.search.wanted() == wanted);
        let Some(session) = session.filter(|_| path.validated.load(Ordering::Relaxed)) else {
            // It goes on when large data is sent again, or begins when there is a session.
            self.path_mtu = same.map(|mut known| {
                known.search.stall();
                known.paused = true;
                known
            });
            return self.publish_size();
        };
        let mut known = same.unwrap_or_else(|| {
            let search = Search::new(base_datagram(path.endpoint), wanted, now);
            PathMtu {
                path,
                search,
                paused: false,
            }
        });
        known.paused = false;
        let to = known.path.endpoint;
        loop {
            let traffic = &self.link.traffic;
            let noted = Noted {
                sent_large: read(&traffic.sent_large).unwrap_or_default(),
                received: read(&traffic.received).unwrap_or_default(),
            };
            let was_settled = known.search.is_settled();
            match known.search.step(noted, self.rtt, now) {
                Step::None => break,
                Step::Again => {
                    if was_settled && !known.search.is_settled() {
                        fx.counters.path_mtu_fell += 1;
                    }
                }
                Step::Send { again } => {
                    if again {
                        self.probe_anyway(&session, to, fx, now);
                    }
                    for trial in known.search.trials() {
                        if trial.token == [0; 8] {
                            trial.token = fx.draw();
                        }
                        let (tlv, len) = Tlv::Probe(trial.token).encode();
                        let mut list = vec![0; trial.octets - HEADER_LEN - TAG_LEN];
                        list[..len].copy_from_slice(&tlv[..len]);
                        self.send_control_list(&session, &list, to, fx, now);
                    }
                }
            }
        }
        self.path_mtu = Some(known);
        self.publish_size();
    }

    /// A small probe beside the large ones: without it, a path that is down would look narrow.
    fn probe_anyway(
        &mut self,
        session: &crate::session::Session,
        to: SocketAddr,
        fx: &mut Effects,
        now: Time,
    ) {
        match self.liveness {
            Liveness::Resting | Liveness::Watching { .. } => self.probe_liveness(fx, now),
            Liveness::Probing { .. } | Liveness::Dead => {
                let token = fx.draw();
                self.send_control(session, Some(Tlv::Probe(token)), to, fx, now);
            }
        }
    }

    /// Tells the fast path.
    fn publish_size(&self) {
        let Some(known) = &self.path_mtu else {
            return;
        };
        let search = &known.search;
        let narrow = (!search.is_wide()).then(|| Narrow {
            frame: search.carries() - SEALED,
            settled: search.is_settled(),
        });
        self.link.set_narrow(narrow);
        if search.listens() {
            self.link.sizing.store(false, Ordering::Release);
        }
    }
}
