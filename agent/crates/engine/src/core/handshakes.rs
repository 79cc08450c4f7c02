//! INIT, RESP and COOKIE: made and answered.

use std::net::SocketAddr;
use std::sync::Arc;

use cairn_wire::header::{self, Cookie, Datagram, HEADER_LEN, Init, MAC_LEN, Resp};

use crate::core::Core;
use crate::core::apply::VSubnet;
use crate::core::effects::Effects;
use crate::core::peer::Peer;
use crate::drops::Dropped;
use crate::handshake::{Pending, Reach, Refusal};
use crate::ids::PeerId;
use crate::message::{Inline, MAX_HANDSHAKE_LEN};
use crate::noise::{Initiated, Party, Received, SessionKeys};
use crate::session::{Keys, MadeBy, Session};
use crate::time::Time;

/// The largest datagram that we take.
const MAX_DATAGRAM: u16 = u16::MAX;
/// Capability bits: none defined yet.
const CAPABILITIES: u16 = 0;

impl Core {
    pub(crate) fn handle_handshake(
        &mut self,
        from: SocketAddr,
        datagram: &Inline<MAX_HANDSHAKE_LEN>,
        now: Time,
    ) {
        let handled = match Datagram::parse(datagram.as_slice()) {
            Ok(Datagram::Init(init)) => self.handle_init(from, &init, now),
            Ok(Datagram::Resp(resp)) => self.handle_resp(from, &resp, now),
            Ok(Datagram::Cookie(cookie)) => self.handle_cookie(from, &cookie, now),
            _ => Err(Dropped::MalformedDatagram),
        };
        if let Err(reason) = handled {
            self.fx.shared.drops.count(reason);
        }
    }

    /// Answers an INIT, or keeps silent (rules 3 and 4).
    fn handle_init(&mut self, from: SocketAddr, init: &Init<'_>, now: Time) -> Result<(), Dropped> {
        let vsubnet = self
            .vsubnets
            .get(&init.vni())
            .ok_or(Dropped::UnknownVSubnet)?;
        if vsubnet.config.suite as u8 != init.suite() {
            return Err(Dropped::WrongSuite);
        }
        let psk = vsubnet.psk(init.epoch()).ok_or(Dropped::UnknownEpoch)?;
        let prologue = vsubnet.prologue(&init.header());
        let party = vsubnet.party(&psk, &prologue, &self.fx.shared.entropy);
        let received = Received::new(&party, init.noise()).map_err(|_| Dropped::HandshakeFailed)?;
        let id = *vsubnet
            .by_key
            .get(&received.remote)
            .ok_or(Dropped::UnknownPeer)?;
        let peer = self.peers.get_mut(&id).ok_or(Dropped::UnknownPeer)?;
        if received.payload[..8] != peer.config.id.agent_id() {
            return Err(Dropped::UnknownPeer);
        }
        let proven = peer.is_at(from, now);
        peer.accepted
            .admit(init.ephemeral(), proven, now)
            .map_err(|refusal| match refusal {
                Refusal::Replayed => Dropped::ReplayedInit,
                Refusal::TooSoon => Dropped::InitTooSoon,
            })?;
        self.fx.counters.inits_accepted += 1;
        self.answer(id, received, init.sender(), from, proven, now)
    }

    fn answer(
        &mut self,
        id: PeerId,
        received: Received,
        remote_index: u32,
        to: SocketAddr,
        proven: bool,
        now: Time,
    ) -> Result<(), Dropped> {
        let local_index = self.fx.draw_index();
        let mut datagram = header::resp(local_index, remote_index).to_vec();
        let keys = received
            .answer(&resp_payload(local_index), &mut datagram)
            .map_err(|_| Dropped::HandshakeFailed)?;
        datagram.extend_from_slice(&[0; 2 * MAC_LEN]);
        self.with_peer(id, now, |peer, fx, _| {
            peer.mac_key.fill(&mut datagram, peer.cookies.get(to, now));
            let indexes = Indexes {
                local: local_index,
                remote: remote_index,
            };
            let session = make_session(peer, fx, &keys, indexes, MadeBy::Peer(to), now);
            fx.publish(Arc::clone(&session));
            if let Some(old) = peer.slots.offer(session, proven) {
                fx.retire(&old);
            }
            fx.transmit(to, datagram);
        });
        Ok(())
    }

    fn handle_resp(&mut self, from: SocketAddr, resp: &Resp<'_>, now: Time) -> Result<(), Dropped> {
        let id = self.fx.shared.awaited.peer(resp.receiver());
        let id = id.ok_or(Dropped::UnknownHandshake)?;
        let mut result = Err(Dropped::UnknownHandshake);
        self.with_peer(id, now, |peer, fx, _| {
            result = finish(peer, fx, from, resp, now);
        });
        result
    }

    fn handle_cookie(
        &mut self,
        from: SocketAddr,
        cookie: &Cookie<'_>,
        now: Time,
    ) -> Result<(), Dropped> {
        let id = self.fx.shared.awaited.peer(cookie.receiver());
        let id = id.ok_or(Dropped::UnknownCookie)?;
        let mut result = Err(Dropped::UnknownCookie);
        self.with_peer(id, now, |peer, fx, _| {
            result = take_cookie(peer, fx, from, cookie, now);
        });
        result
    }
}

/// Completes the INIT that this RESP answers.
fn finish(
    peer: &mut Peer,
    fx: &mut Effects,
    from: SocketAddr,
    resp: &Resp<'_>,
    now: Time,
) -> Result<(), Dropped> {
    let attempt = peer.attempt.as_mut().ok_or(Dropped::UnknownHandshake)?;
    let mut pending = attempt.pending.iter_mut();
    let pending = pending
        .find(|pending| pending.index == resp.receiver())
        .ok_or(Dropped::UnknownHandshake)?;
    let (payload, keys) = pending
        .noise
        .finish(resp.noise())
        .map_err(|_| Dropped::HandshakeFailed)?;
    let sealed_index = u32::from_be_bytes([0, payload[4], payload[5], payload[6]]);
    if sealed_index != resp.sender() {
        return Err(Dropped::HandshakeFailed);
    }
    let asked_there = pending.sent_to.contains(&from);
    let rtt = now.since(pending.sent_at);
    let indexes = Indexes {
        local: pending.index,
        remote: resp.sender(),
    };
    let asked = MadeBy::Us(pending.sent_at);
    let session = make_session(peer, fx, &keys, indexes, asked, now);
    peer.rtt = Some(rtt);
    peer.complete(session, from, asked_there, fx, now);
    Ok(())
}

fn take_cookie(
    peer: &mut Peer,
    fx: &mut Effects,
    from: SocketAddr,
    cookie: &Cookie<'_>,
    now: Time,
) -> Result<(), Dropped> {
    let attempt = peer.attempt.as_mut().ok_or(Dropped::UnknownCookie)?;
    let mut pending = attempt.pending.iter();
    let pending = pending
        .find(|pending| pending.index == cookie.receiver())
        .ok_or(Dropped::UnknownCookie)?;
    let value = peer.mac_key.open_cookie(cookie, &pending.mac1);
    let value = value.ok_or(Dropped::UnknownCookie)?;
    fx.counters.cookies_received += 1;
    peer.cookies.put(from, value, now);
    attempt.hasten(now);
    Ok(())
}

#[derive(Clone, Copy)]
struct Indexes {
    local: u32,
    remote: u32,
}

fn make_session(
    peer: &Peer,
    fx: &Effects,
    keys: &SessionKeys,
    indexes: Indexes,
    made_by: MadeBy,
    now: Time,
) -> Arc<Session> {
    let keys = Keys {
        seal: &keys.seal,
        open: &keys.open,
        local_index: indexes.local,
        remote_index: indexes.remote,
        made_by,
    };
    Arc::new(Session::new(
        Arc::clone(&peer.link),
        &keys,
        fx.lifetime(now),
    ))
}

impl Peer {
    /// Sends an INIT with a fresh ephemeral; the same octets go to each endpoint, but for mac2.
    pub(crate) fn send_init(
        &mut self,
        reach: Reach,
        fx: &mut Effects,
        vsubnet: &VSubnet,
        now: Time,
    ) {
        let len = header::init_len(self.config.public_key.len());
        let mut endpoints = self.reached(reach);
        endpoints.retain(|to| self.admits(*to, len));
        if endpoints.is_empty() {
            fx.shared.drops.count(Dropped::NoEndpoint);
            return;
        }
        let index = fx.draw_index();
        let Some((noise, mut datagram)) = self.make_init(index, fx, vsubnet) else {
            fx.shared.drops.count(Dropped::HandshakeFailed);
            return;
        };
        for to in &endpoints {
            self.mac_key.fill(&mut datagram, self.cookies.get(*to, now));
            fx.transmit(*to, datagram.clone());
        }
        fx.counters.inits_sent += endpoints.len() as u64;
        let mut mac1 = [0; MAC_LEN];
        mac1.copy_from_slice(&datagram[datagram.len() - 2 * MAC_LEN..datagram.len() - MAC_LEN]);
        fx.shared.awaited.insert(index, self.link.peer);
        let pending = Pending {
            index,
            noise,
            mac1,
            sent_to: endpoints,
            sent_at: now,
        };
        let dropped = self
            .attempt
            .as_mut()
            .and_then(|attempt| attempt.keep(pending));
        if let Some(dropped) = dropped {
            fx.shared.awaited.remove(dropped.index);
        }
    }

    fn reached(&self, reach: Reach) -> Vec<SocketAddr> {
        let current = self.link.endpoint();
        let mut all = self.paths.candidates(current);
        match reach {
            Reach::All => all,
            Reach::Current => current.map_or(all, |current| vec![current]),
            Reach::One(_) if all.is_empty() => all,
            Reach::One(number) => {
                let at = number % all.len();
                vec![all.swap_remove(at)]
            }
        }
    }

    fn make_init(
        &self,
        index: u32,
        fx: &Effects,
        vsubnet: &VSubnet,
    ) -> Option<(Initiated, Vec<u8>)> {
        let (epoch, psk) = vsubnet.sending_psk();
        let suite = vsubnet.config.suite as u8;
        let head = header::init(index, vsubnet.config.vni, epoch, suite);
        let prologue = vsubnet.prologue(&head);
        let party = vsubnet.party(&psk, &prologue, &fx.shared.entropy);
        let mut datagram = Vec::with_capacity(MAX_HANDSHAKE_LEN);
        datagram.extend_from_slice(&head);
        let payload = vsubnet.init_payload();
        let remote = &self.config.public_key;
        let noise = Initiated::new(&party, remote, &payload, &mut datagram).ok()?;
        datagram.extend_from_slice(&[0; 2 * MAC_LEN]);
        Some((noise, datagram))
    }
}

fn resp_payload(index: u32) -> [u8; 8] {
    let mut payload = [0; 8];
    payload[..2].copy_from_slice(&MAX_DATAGRAM.to_be_bytes());
    payload[2..4].copy_from_slice(&CAPABILITIES.to_be_bytes());
    payload[4..7].copy_from_slice(&index.to_be_bytes()[1..]);
    payload
}

impl VSubnet {
    fn init_payload(&self) -> [u8; 24] {
        let mut payload = [0; 24];
        payload[..8].copy_from_slice(&self.local.agent_id());
        payload[8..16].copy_from_slice(&self.revision.to_be_bytes());
        payload[16..18].copy_from_slice(&MAX_DATAGRAM.to_be_bytes());
        payload[18..20].copy_from_slice(&CAPABILITIES.to_be_bytes());
        payload
    }

    /// docs/protocol.md 1.1, and the header of INIT (1.2).
    fn prologue(&self, head: &[u8; HEADER_LEN]) -> [u8; 41] {
        let mut prologue = [0; 41];
        prologue[..4].copy_from_slice(b"VSN1");
        prologue[4] = self.config.suite as u8;
        prologue[5..21].copy_from_slice(&self.cluster_id);
        prologue[21..25].copy_from_slice(&self.config.vni.to_be_bytes());
        prologue[25..].copy_from_slice(head);
        prologue
    }

    fn party<'a>(
        &'a self,
        psk: &'a [u8; 32],
        prologue: &'a [u8],
        entropy: &'a Arc<dyn crate::entropy::Entropy>,
    ) -> Party<'a> {
        Party {
            key: &self.key,
            psk,
            prologue,
            entropy,
        }
    }
}
