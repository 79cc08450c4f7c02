//! From one process to its successor: sockets, TAPs and state, with little loss.
//!
//! The old process stops reading, so that what comes meanwhile waits in the kernel
//! for the successor. Keys of sessions are not handed over: the successor makes new
//! ones with the peers named in `recent` at once.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_device::tap::Tap;
use cairn_device::udp::UdpSocket;
use cairn_device::{clock, local};
use cairn_engine::{NodeId, SessionState, Time};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::request::{Apply, Endpoints, Gate};
use super::{Access, ClientId, Control, Listener};
use crate::failure::Failure;
use crate::lanes::{self, Lanes};
use crate::log;
use crate::refusal::Refusal;
use crate::wiring::{Inherited, descriptors};

/// A successor that hasn't said `taken` by then has failed, and the old process goes on.
const LONGEST_HANDOVER: Duration = Duration::from_secs(5);

/// How long the successor waits for the old one's answer and end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a session with a recent peer is tried for by way of a probe.
const WARM_UP: Duration = Duration::from_secs(5);

/// A handover under way; nothing is read or sent meanwhile.
pub(super) struct Handover {
    to: ClientId,
    /// When the successor is given up.
    pub(super) deadline: Time,
}

impl Control {
    /// Stops reading and sends everything to the successor.
    pub(super) fn hand_over(&mut self, to: ClientId, id: Option<u64>) -> Result<(), Refusal> {
        if self.handover.is_some() {
            return Err(Refusal::new(
                "handing_over",
                "a successor is taking over already",
            ));
        }
        let recent = self.recent();
        self.lanes.drain(..).for_each(Lanes::stop);
        self.handover = Some(Handover {
            to,
            deadline: clock::now() + LONGEST_HANDOVER,
        });
        log::info("handing over", &[("recent_peers", &recent.len())]);

        let wiring = self.wiring.clone();
        let open = descriptors(&wiring);
        if open.len() > local::MOST_DESCRIPTORS {
            self.resume();
            return Err(Refusal::new(
                "too_many_taps",
                "more than 250 TAPs can't be handed over; stop this process and start the new one",
            ));
        }
        let line = self.handover_line(id, &open, &recent);
        let fds: Vec<BorrowedFd<'_>> = open.iter().map(|(_, _, fd)| *fd).collect();
        let sent = match self.clients.get_mut(&to) {
            Some(client) if fds.is_empty() => client.say_raw(&line),
            Some(client) => client.say_with_descriptors(&line, &fds),
            None => Ok(()),
        };
        if let Err(gone) = sent {
            self.resume();
            return Err(Refusal::new("handover_failed", gone.to_string()));
        }
        Ok(())
    }

    fn handover_line(
        &self,
        id: Option<u64>,
        open: &[(&'static str, String, BorrowedFd<'_>)],
        recent: &[Value],
    ) -> Zeroizing<Vec<u8>> {
        let fds: Vec<Value> = open
            .iter()
            .map(|(kind, name, _)| json!({ "kind": kind, "name": name }))
            .collect();
        let head = json!({
            "id": id, "ok": true, "generation": self.generation(), "fds": fds, "recent": recent,
            "gates": self.open_gates(),
        })
        .to_string();
        let state = self
            .applied
            .as_ref()
            .map_or("null", |applied| applied.text.as_str());
        let pieces = [head.trim_end_matches('}'), ",\"state\":", state, "}\n"];
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let mut line = Zeroizing::new(Vec::with_capacity(length));
        pieces
            .iter()
            .for_each(|piece| line.extend_from_slice(piece.as_bytes()));
        line
    }

    /// How each gate stands, as the successor's own would be asked to.
    fn open_gates(&self) -> Vec<Value> {
        let gates = self.core.gates().into_iter();
        let all = gates.map(|(vni, gate)| {
            let standing = gate.standing();
            json!({ "vni": vni, "term": standing.term,
                    "forward_until_ns": standing.until.as_nanos() })
        });
        all.collect()
    }

    /// The peers in session, and where they are.
    fn recent(&self) -> Vec<Value> {
        let stats = self.core.stats(clock::now());
        let peers = stats.vsubnets.iter().flat_map(|vsubnet| {
            let up = vsubnet
                .peers
                .iter()
                .filter(|peer| peer.session == SessionState::Up);
            up.filter_map(|peer| {
                let endpoint = peer.endpoint?.to_string();
                Some(json!({ "vni": vsubnet.vni, "peer": peer.id.to_string(),
                             "endpoints": [endpoint] }))
            })
        });
        peers.collect()
    }

    /// Whether someone else than the successor asks while a handover is under way.
    pub(super) fn is_handing_over_to_other(&self, client: ClientId) -> bool {
        self.handover
            .as_ref()
            .is_some_and(|handover| handover.to != client)
    }

    /// The successor works: this process ends.
    pub(super) fn taken(&mut self, client: ClientId) -> Result<Value, Refusal> {
        match &self.handover {
            Some(handover) if handover.to == client => {
                log::info("handed over; ending", &[]);
                self.end = true;
                Ok(json!({}))
            }
            _ => Err(Refusal::new(
                "bad_request",
                "nothing was handed over to this connection",
            )),
        }
    }

    /// The successor's connection ended: unless it said `taken`, it failed.
    pub(super) fn handover_ended(&mut self, client: ClientId) {
        let was_successor = self
            .handover
            .as_ref()
            .is_some_and(|handover| handover.to == client);
        if was_successor && !self.end {
            log::warn("the successor failed; going on", &[]);
            self.resume();
        }
    }

    /// Gives a successor up that takes too long.
    pub(super) fn end_late_handover(&mut self, now: Time) {
        let late = self
            .handover
            .as_ref()
            .filter(|handover| now >= handover.deadline);
        if let Some(successor) = late.map(|handover| handover.to) {
            self.part_with(
                successor,
                &super::Gone::Broken("it took over too slowly".into()),
            );
        }
    }

    /// Reads and sends again.
    fn resume(&mut self) {
        self.handover = None;
        let pairs = self.wiring.plumbings.len();
        match lanes::start(pairs, &self.core, &self.submit, &self.counters) {
            Ok(lanes) => {
                self.lanes = lanes;
                self.publish();
            }
            Err(error) => crate::die(&format!("packet threads can't be started: {error}")),
        }
    }

    /// Takes what the old process handed over, and greets its peers.
    fn inherit(&mut self, handed_over: &HandedOver<'_>, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let mut inherited = open_inherited(&handed_over.fds, fds)?;
        let (Some(generation), Some(state)) = (handed_over.generation, handed_over.state) else {
            return Ok(());
        };
        self.apply(&Apply { generation, state }, &mut inherited)
            .map_err(|refusal| {
                Failure::internal(format!("the state of the old process: {}", refusal.message))
            })?;
        for gate in &handed_over.gates {
            if let Err(refusal) = self.gate(gate) {
                log::warn("a gate stays closed", &[("cause", &refusal.message)]);
            }
        }
        for peer in &handed_over.recent {
            self.greet(peer);
        }
        self.flush_core();
        Ok(())
    }

    fn greet(&mut self, recent: &Endpoints) {
        let (peer, now) = (NodeId(recent.peer.0), clock::now());
        let known = self
            .core
            .add_endpoints(recent.vni, peer, &recent.endpoints, now);
        // The probe asks for a session; nobody waits for its outcome.
        if known.is_ok() && self.core.probe(recent.vni, peer, WARM_UP, now).is_err() {
            log::debug("a recent peer is unknown", &[("peer", &peer)]);
        }
    }
}

/// The answer to `takeover`.
#[derive(Deserialize)]
struct HandedOver<'a> {
    generation: Option<u64>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
    fds: Vec<Described>,
    recent: Vec<Endpoints>,
    /// None from a data plane that knew no gates.
    #[serde(default)]
    gates: Vec<Gate>,
}

#[derive(Deserialize)]
struct Described {
    kind: String,
}

#[derive(Deserialize)]
struct Verdict {
    ok: bool,
    error: Option<Why>,
}

#[derive(Deserialize)]
struct Why {
    message: String,
}

/// Takes over from the process at `path`, and listens there in its place.
pub fn take_over(control: &mut Control, path: &Path, access: Access) -> Result<(), Failure> {
    let old = connect(path)?;
    let (line, fds) = ask(&old).map_err(|error| lost(&error))?;
    check_verdict(&line)?;
    let handed_over: HandedOver<'_> = serde_json::from_slice(&line)
        .map_err(|error| Failure::internal(format!("the old process's answer: {error}")))?;
    control.inherit(&handed_over, fds)?;
    let kept = Kept::keep(path);
    let listener = Listener::replace(path, access).inspect_err(|_| kept.forget())?;
    control.listen(listener)?;
    if let Err(error) = finish(&old) {
        kept.give_back(path);
        return Err(lost(&error));
    }
    kept.forget();
    log::info("took over", &[("peers", &handed_over.recent.len())]);
    Ok(())
}

fn connect(path: &Path) -> Result<UnixStream, Failure> {
    let failed = |error: std::io::Error| {
        Failure::unreachable(
            format!("no data plane answers at {} ({error})", path.display()),
            "start without --take-over, or give the --socket of the running one",
        )
    };
    let stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    Ok(stream)
}

fn lost(error: &std::io::Error) -> Failure {
    Failure::unreachable(
        format!("the running data plane didn't hand over: {error}"),
        "look at its log; it goes on by itself if it still runs",
    )
}

type Answer = (Zeroizing<Vec<u8>>, Vec<OwnedFd>);

fn ask(mut old: &UnixStream) -> std::io::Result<Answer> {
    use std::io::Write as _;
    old.write_all(b"{\"id\":1,\"op\":\"takeover\"}\n")?;
    let deadline = Instant::now() + PATIENCE;
    let mut line = Zeroizing::new(Vec::with_capacity(1 << 20));
    let mut descriptors = Vec::new();
    let mut chunk = Zeroizing::new([0; 16 << 10]);
    while line.last() != Some(&b'\n') {
        let (length, more) = local::receive_with_descriptors(old, &mut chunk[..])?;
        if length == 0 || Instant::now() > deadline {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&chunk[..length]);
        descriptors.extend(more);
    }
    Ok((line, descriptors))
}

fn check_verdict(line: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice::<Verdict>(line) {
        Ok(Verdict { ok: true, .. }) => Ok(()),
        Ok(Verdict { error, .. }) => {
            let cause = error.map_or_else(|| "it gives no reason".into(), |why| why.message);
            Err(Failure::unreachable(
                format!("the running data plane refuses to hand over: {cause}"),
                "stop it and start without --take-over",
            ))
        }
        Err(error) => Err(Failure::internal(format!(
            "the old process's answer: {error}"
        ))),
    }
}

/// Says that all is taken and waits for the old process's end, so that two never work at once.
fn finish(mut old: &UnixStream) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    old.write_all(b"{\"id\":2,\"op\":\"taken\"}\n")?;
    let mut answer = Vec::new();
    old.take(4_096).read_to_end(&mut answer)?;
    // Where it had given us up meanwhile it goes on, and its end of the connection says nothing.
    match serde_json::from_slice::<Verdict>(&answer) {
        Ok(Verdict { ok: true, .. }) => Ok(()),
        _ => Err(std::io::Error::other("it went on by itself meanwhile")),
    }
}

/// The old process's place in the file system under a second name, until it ends.
struct Kept(PathBuf);

impl Kept {
    fn keep(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.old", std::process::id()));
        let kept = Self(name.into());
        if let Err(error) = fs::hard_link(path, &kept.0) {
            log::warn("the old socket can't be kept", &[("cause", &error)]);
        }
        kept
    }

    /// The old process goes on: agents must find it.
    fn give_back(&self, path: &Path) {
        if let Err(error) = fs::rename(&self.0, path) {
            log::warn("the old socket can't be given back", &[("cause", &error)]);
        }
    }

    fn forget(&self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::debug("the old socket's second name stays", &[("cause", &error)]);
        }
    }
}

fn open_inherited(described: &[Described], fds: Vec<OwnedFd>) -> Result<Inherited, Failure> {
    let mut inherited = Inherited::default();
    for (one, fd) in described.iter().zip(fds) {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::internal(format!("a handed over {} can't be used: {error}", one.kind))
        };
        match one.kind.as_str() {
            "udp4" | "udp6" => inherited
                .sockets
                .push(UdpSocket::from_descriptor(fd).map_err(|error| failed(&error))?),
            // A TAP that is gone by now is attached to anew, or reported missing.
            "tap" => inherited.taps.extend(Tap::from_descriptor(fd).ok()),
            _ => {}
        }
    }
    Ok(inherited)
}
