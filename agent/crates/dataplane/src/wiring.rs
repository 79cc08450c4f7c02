//! From a desired state to TAPs and sockets that are open.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_device::tap::Tap;
use cairn_device::udp::{DatagramSocket, Family, Off, Spare, UdpSocket};
use cairn_engine::{Gate, State, Vni};

use crate::offloads::{self, Offloads};
use crate::plumbing::{Plumbing, Port, Sockets};
use crate::refusal::Refusal;

/// What is open now, and for which port.
#[derive(Clone)]
pub struct Wiring {
    /// For each pair of packet threads the TAPs, which are the same, and its sockets; at least one.
    pub plumbings: Vec<Arc<Plumbing>>,
    udp_port: u16,
    /// Why there is no IPv6, where there is none.
    pub without_ipv6: Option<String>,
}

/// What another process handed over, to be used instead of opening it anew.
#[derive(Default)]
pub struct Inherited {
    /// Sockets on the port of the state that came with them.
    pub sockets: Vec<UdpSocket>,
    /// TAPs by their names.
    pub taps: Vec<Tap>,
}

impl Wiring {
    /// Nothing is open yet, for so many pairs of packet threads.
    pub fn new(pairs: usize) -> Self {
        Self {
            plumbings: vec![Arc::default(); pairs],
            udp_port: 0,
            without_ipv6: None,
        }
    }

    /// The sockets for what is sent beside the packet threads.
    pub fn sockets(&self) -> Sockets {
        self.plumbings[0].sockets.clone()
    }

    /// The TAPs.
    pub fn ports(&self) -> &[(Vni, Arc<Port>)] {
        &self.plumbings[0].ports
    }

    /// Opens what `state` needs and isn't open yet. Nothing is closed or changed:
    /// on an error what is open goes on.
    pub fn plan(
        &self,
        state: &State,
        inherited: &mut Inherited,
        spare: &mut Spare,
    ) -> Result<Self, Refusal> {
        let mut names = HashSet::new();
        if let Some(twice) = state
            .vsubnets
            .iter()
            .find(|one| !names.insert(one.tap.as_str()))
        {
            return Err(Refusal::bad_state(format!(
                "two vSubnets name the TAP {}",
                twice.tap
            )));
        }
        let mut plan = self.clone();
        if self.udp_port != state.port {
            plan.bind(state.port, inherited, spare)?;
        }
        let ports: Result<Vec<_>, Refusal> = state
            .vsubnets
            .iter()
            .map(|one| Ok((one.vni, self.port(&one.tap, inherited)?)))
            .collect();
        let mut ports = ports?;
        ports.sort_unstable_by_key(|(vni, _)| *vni);
        for planned in &mut plan.plumbings {
            let (ports, sockets) = (ports.clone(), planned.sockets.clone());
            let gates = planned.gates.clone();
            *planned = Arc::new(Plumbing {
                ports,
                sockets,
                gates,
            });
        }
        Ok(plan)
    }

    /// The same with these gates, by VNI.
    pub fn with_gates(mut self, gates: Vec<(Vni, Arc<Gate>)>) -> Self {
        for planned in &mut self.plumbings {
            let mut plumbing = Plumbing::clone(planned);
            plumbing.gates.clone_from(&gates);
            *planned = Arc::new(plumbing);
        }
        self
    }

    /// Whether both have the same gates.
    pub fn has_same_gates(&self, other: &Self) -> bool {
        let id = |(vni, gate): &(Vni, Arc<Gate>)| (*vni, Arc::as_ptr(gate));
        let gates =
            |wiring: &Self| -> Vec<_> { wiring.plumbings[0].gates.iter().map(id).collect() };
        gates(self) == gates(other)
    }

    /// Whether the same TAPs and sockets are open in both.
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |(vni, port): &(Vni, Arc<Port>)| (*vni, Arc::as_ptr(port).cast::<()>());
        self.udp_port == other.udp_port
            && self.ports().iter().map(id).eq(other.ports().iter().map(id))
    }

    /// The state of each offload by its name in `hello`; of several TAPs or sockets that of
    /// the worst.
    pub fn offloads(&self) -> [(&'static str, String); 5] {
        let wanted = Offloads::wanted().tap;
        let tap = |is_on: fn(&Port) -> bool, wanted: bool| {
            offloads::of_tap(self.ports().iter().all(|(_, port)| is_on(port)), wanted)
        };
        let socket = |off: fn(&dyn DatagramSocket) -> Option<Off>| {
            let all = self.plumbings.iter();
            let mut sockets = all.flat_map(|one| one.sockets.present());
            offloads::of_socket(sockets.find_map(|socket| off(&**socket)))
        };
        [
            (
                "tap_checksum",
                tap(|port| port.offloads.checksum, wanted.checksum),
            ),
            (
                "tap_segmentation",
                tap(
                    |port| port.offloads.segmentation && !port.refuses_superframes(),
                    wanted.segmentation,
                ),
            ),
            (
                "tap_udp_segmentation",
                tap(
                    |port| port.offloads.udp_segmentation,
                    wanted.udp_segmentation,
                ),
            ),
            (
                "udp_segmentation",
                socket(|socket| socket.segmentation_off()),
            ),
            ("udp_coalescing", socket(|socket| socket.coalescing_off())),
        ]
    }

    fn port(&self, name: &str, inherited: &mut Inherited) -> Result<Arc<Port>, Refusal> {
        let open = self.ports().iter().map(|(_, port)| port);
        let mut usable = open.filter(|port| !port.lost.load(Ordering::Acquire));
        if let Some(port) = usable.find(|port| port.name == name) {
            return Ok(Arc::clone(port));
        }
        let handed_over = inherited.taps.iter().position(|tap| tap.name() == name);
        let tap = match handed_over {
            Some(at) => inherited.taps.swap_remove(at),
            None => Tap::attach(name)?,
        };
        let on = tap.switch_on(Offloads::wanted().tap);
        Ok(Arc::new(Port::new(name, tap, on)))
    }

    fn bind(
        &mut self,
        port: u16,
        inherited: &mut Inherited,
        spare: &mut Spare,
    ) -> Result<(), Refusal> {
        let pairs = self.plumbings.len();
        let v4 = match inherited.take(Family::V4) {
            Some(socket) => socket,
            None => spare
                .bind(Family::V4, port)
                .map_err(|error| not_bound(port, &error))?,
        };
        let (v6, without_ipv6) = match inherited.take(Family::V6) {
            Some(socket) => (Some(socket), None),
            None => bind_ipv6(port, spare)?,
        };
        let v4 = beside(v4, pairs, port, inherited, spare)?.map(Some);
        let v6: Vec<_> = match v6 {
            Some(first) => beside(first, pairs, port, inherited, spare)?
                .map(Some)
                .collect(),
            None => vec![None; pairs],
        };
        let sockets = v4.zip(v6).map(|(v4, v6)| Sockets { v4, v6 });
        self.plumbings = self
            .plumbings
            .iter()
            .zip(sockets)
            .map(|(before, sockets)| {
                let (ports, gates) = (before.ports.clone(), before.gates.clone());
                Arc::new(Plumbing {
                    ports,
                    sockets,
                    gates,
                })
            })
            .collect();
        self.udp_port = port;
        self.without_ipv6 = without_ipv6;
        Ok(())
    }
}

/// `first` and as many beside it on its port as make `count`, with their offloads on. The kernel
/// gives a peer's datagrams to one of them, always the same.
fn beside(
    first: UdpSocket,
    count: usize,
    port: u16,
    inherited: &mut Inherited,
    spare: &mut Spare,
) -> Result<impl Iterator<Item = Arc<dyn DatagramSocket>> + use<>, Refusal> {
    let mut all = vec![first];
    while all.len() < count {
        let family = all[0].family();
        let next = match inherited.take(family) {
            Some(socket) => socket,
            None => spare
                .bind_beside(&all[0])
                .map_err(|error| not_bound(port, &error))?,
        };
        all.push(next);
    }
    Ok(all.into_iter().map(|mut socket| {
        socket.switch_on(Offloads::wanted().udp);
        Arc::new(socket) as Arc<dyn DatagramSocket>
    }))
}

impl Inherited {
    fn take(&mut self, family: Family) -> Option<UdpSocket> {
        let at = self
            .sockets
            .iter()
            .position(|socket| socket.family() == family)?;
        Some(self.sockets.remove(at))
    }
}

/// A host without IPv6 works with IPv4 alone.
fn bind_ipv6(port: u16, spare: &mut Spare) -> Result<(Option<UdpSocket>, Option<String>), Refusal> {
    match spare.bind(Family::V6, port) {
        Ok(socket) => Ok((Some(socket), None)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(not_bound(port, &error)),
        Err(error) => Ok((None, Some(format!("the host has no IPv6 ({error})")))),
    }
}

fn not_bound(port: u16, error: &io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::AddrInUse => Refusal::new(
            "port_in_use",
            format!(
                "UDP port {port} is in use by another process; \
                 find it with \"ss -lunp sport = :{port}\" and stop it"
            ),
        ),
        ErrorKind::PermissionDenied => Refusal::new(
            "not_permitted",
            format!("UDP port {port} may not be bound ({error}); use 8002, or run as root"),
        ),
        _ => Refusal::new(
            "udp_failed",
            format!(
                "UDP port {port} can't be bound ({error}); check the host's IPv4 and its limits"
            ),
        ),
    }
}

/// An open descriptor: its kind, its name, and itself.
pub type Described<'p> = (&'static str, String, BorrowedFd<'p>);

/// The descriptors of all that is open.
pub fn descriptors(wiring: &Wiring) -> Vec<Described<'_>> {
    let sockets = wiring.plumbings.iter().flat_map(|one| {
        [("udp4", &one.sockets.v4), ("udp6", &one.sockets.v6)]
            .into_iter()
            .filter_map(|(kind, socket)| Some((kind, String::new(), socket.as_ref()?.readiness())))
    });
    let taps = wiring
        .ports()
        .iter()
        .map(|(_, port)| ("tap", port.name.clone(), port.queue.readiness()));
    sockets.chain(taps).collect()
}
