//! From a desired state to TAPs and sockets that are open.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_device::tap::Tap;
use cairn_device::udp::{DatagramSocket, Family, Off, UdpSocket};
use cairn_engine::{State, Vni};

use crate::offloads::{self, Offloads};
use crate::plumbing::{Plumbing, Port, Sockets};
use crate::refusal::Refusal;

/// What is open now, and for which port.
#[derive(Clone, Default)]
pub struct Wiring {
    /// TAPs and sockets.
    pub plumbing: Arc<Plumbing>,
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
    /// Opens what `state` needs and isn't open yet. Nothing is closed or changed:
    /// on an error what is open goes on.
    pub fn plan(&self, state: &State, inherited: &mut Inherited) -> Result<Self, Refusal> {
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
            plan.bind(state.port, inherited)?;
        }
        let ports: Result<Vec<_>, Refusal> = state
            .vsubnets
            .iter()
            .map(|one| Ok((one.vni, self.port(&one.tap, inherited)?)))
            .collect();
        let mut ports = ports?;
        ports.sort_unstable_by_key(|(vni, _)| *vni);
        let sockets = plan.plumbing.sockets.clone();
        plan.plumbing = Arc::new(Plumbing { ports, sockets });
        Ok(plan)
    }

    /// Whether the same TAPs and sockets are open in both.
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |(vni, port): &(Vni, Arc<Port>)| (*vni, Arc::as_ptr(port).cast::<()>());
        self.udp_port == other.udp_port
            && self
                .plumbing
                .ports
                .iter()
                .map(id)
                .eq(other.plumbing.ports.iter().map(id))
    }

    /// The state of each offload by its name in `hello`; of several TAPs or sockets that of
    /// the worst.
    pub fn offloads(&self) -> [(&'static str, String); 5] {
        let wanted = Offloads::wanted().tap;
        let tap = |is_on: fn(&Port) -> bool, wanted: bool| {
            let mut ports = self.plumbing.ports.iter();
            offloads::of_tap(ports.all(|(_, port)| is_on(port)), wanted)
        };
        let socket = |off: fn(&dyn DatagramSocket) -> Option<Off>| {
            let mut sockets = self.plumbing.sockets.present();
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
        let open = self.plumbing.ports.iter().map(|(_, port)| port);
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

    fn bind(&mut self, port: u16, inherited: &mut Inherited) -> Result<(), Refusal> {
        let v4 = match inherited.take(Family::V4) {
            Some(socket) => socket,
            None => UdpSocket::bind(Family::V4, port).map_err(|error| not_bound(port, &error))?,
        };
        let (v6, without_ipv6) = match inherited.take(Family::V6) {
            Some(socket) => (Some(socket), None),
            None => bind_ipv6(port)?,
        };
        let shared = |mut socket: UdpSocket| {
            socket.switch_on(Offloads::wanted().udp);
            Arc::new(socket) as Arc<dyn DatagramSocket>
        };
        let sockets = Sockets {
            v4: Some(shared(v4)),
            v6: v6.map(shared),
        };
        self.plumbing = Arc::new(Plumbing {
            ports: self.plumbing.ports.clone(),
            sockets,
        });
        self.udp_port = port;
        self.without_ipv6 = without_ipv6;
        Ok(())
    }
}

impl Inherited {
    fn take(&mut self, family: Family) -> Option<UdpSocket> {
        let at = self
            .sockets
            .iter()
            .position(|socket| socket.family() == family)?;
        Some(self.sockets.swap_remove(at))
    }
}

/// A host without IPv6 works with IPv4 alone.
fn bind_ipv6(port: u16) -> Result<(Option<UdpSocket>, Option<String>), Refusal> {
    match UdpSocket::bind(Family::V6, port) {
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

/// The descriptors of all that is open, with what each is.
pub fn descriptors(
    plumbing: &Plumbing,
) -> Vec<(&'static str, String, std::os::fd::BorrowedFd<'_>)> {
    let sockets = [
        ("udp4", &plumbing.sockets.v4),
        ("udp6", &plumbing.sockets.v6),
    ];
    let sockets = sockets
        .into_iter()
        .filter_map(|(kind, socket)| Some((kind, String::new(), socket.as_ref()?.readiness())));
    let taps = plumbing
        .ports
        .iter()
        .map(|(_, port)| ("tap", port.name.clone(), port.queue.readiness()));
    sockets.chain(taps).collect()
}
