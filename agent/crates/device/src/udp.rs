//! The underlay seam: datagrams to and from UDP 8002.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::address::{ROOM, RawAddress};
use crate::batch::{Batch, DATAGRAM_OCTETS, Room};
use crate::call::{check, retry};

/// Where a datagram came from, and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The sender's address as the underlay shows it.
    pub from: SocketAddr,
    /// Size of each datagram in the content; its length where it is a single one.
    pub segment_octets: usize,
}

impl Default for Arrival {
    fn default() -> Self {
        Self {
            from: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            segment_octets: 0,
        }
    }
}

/// Datagrams received in one call.
pub type DatagramBatch = Batch<Arrival>;

/// Makes buffers for `datagrams` datagrams.
pub fn datagram_batch(datagrams: usize) -> DatagramBatch {
    Batch::new(
        datagrams,
        Room {
            before: 0,
            content: DATAGRAM_OCTETS,
            after: 0,
        },
    )
}

/// One datagram to be sent, or a train of equal ones in one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Departure<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// The datagram, or the datagrams one after the other.
    pub octets: &'a [u8],
    /// Size of each datagram of a train (the last may be shorter); 0: a single one.
    pub segment_octets: usize,
}

impl<'a> Departure<'a> {
    /// A single datagram.
    pub fn single(to: SocketAddr, octets: &'a [u8]) -> Self {
        Self {
            to,
            octets,
            segment_octets: 0,
        }
    }

    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        let whole = self.octets.len().max(1);
        let size = if self.segment_octets == 0 {
            whole
        } else {
            self.segment_octets
        };
        self.octets.chunks(size)
    }

    fn is_train(&self) -> bool {
        self.segment_octets > 0 && self.octets.len() > self.segment_octets
    }

    fn count(&self) -> u64 {
        if self.is_train() {
            self.octets.len().div_ceil(self.segment_octets) as u64
        } else {
            1
        }
    }
}

/// The most datagrams of one train: older kernels take no more, and none joins more.
pub const MOST_SEGMENTS: usize = 64;

/// The most octets of one train to `to`.
pub fn most_octets(to: SocketAddr) -> usize {
    if to.is_ipv4() { 65_507 } else { 65_527 }
}

/// Which offloads of a socket are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOffloads {
    /// A train is sent as one datagram that the kernel or the device divides.
    pub segmentation: bool,
    /// The kernel may hand over datagrams of one sender as a train.
    pub coalescing: bool,
}

/// Why an offload of a socket is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// It wasn't wanted.
    NotWanted,
    /// The kernel refused it with this error number.
    Refused(i32),
}

/// What became of the datagrams of a send: counted, never fatal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Taken by the kernel.
    pub datagrams: u64,
    /// The socket's buffer or the device's queue is full.
    pub no_buffer: u64,
    /// Larger than the device's MTU: nothing is ever fragmented.
    pub too_big: u64,
    /// No route, network or host down.
    pub unreachable: u64,
    /// A local firewall refused it.
    pub filtered: u64,
    /// Any other reason.
    pub failed: u64,
    /// Trains that were refused and sent again datagram by datagram.
    pub fallbacks: u64,
}

impl Sent {
    /// Adds the counts of another send.
    pub fn add(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.no_buffer += other.no_buffer;
        self.too_big += other.too_big;
        self.unreachable += other.unreachable;
        self.filtered += other.filtered;
        self.failed += other.failed;
        self.fallbacks += other.fallbacks;
    }

    fn count_error(&mut self, error: &io::Error, datagrams: u64) {
        let counter = match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => &mut self.no_buffer,
            Some(libc::EMSGSIZE) => &mut self.too_big,
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EADDRNOTAVAIL
                | libc::ECONNREFUSED,
            ) => &mut self.unreachable,
            Some(libc::EPERM | libc::EACCES) => &mut self.filtered,
            _ => &mut self.failed,
        };
        *counter += datagrams;
    }
}

/// A socket of the underlay. Calls never block.
pub trait DatagramSocket: Send + Sync {
    /// Appends the datagrams that wait to `batch`, until it is full or none is left.
    ///
    /// # Errors
    /// What the socket reports; it can be used again.
    fn receive(&self, batch: &mut DatagramBatch) -> io::Result<()>;

    /// Sends datagrams in order; one that fails doesn't keep the next ones back.
    fn send(&self, departures: &[Departure<'_>]) -> Sent;

    /// The descriptor that is readable while datagrams wait.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Why trains are divided here and not by the kernel, if so.
    fn segmentation_off(&self) -> Option<Off> {
        None
    }

    /// Why datagrams come one by one, if so.
    fn coalescing_off(&self) -> Option<Off> {
        None
    }
}

/// IPv4 or IPv6, never both in one socket: each has its own path MTU setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6 alone.
    V6,
}

/// A real UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: OwnedFd,
    family: Family,
    segments: AtomicBool,
    /// The error that switched it off; 0: it wasn't wanted.
    segmentation_error: AtomicI32,
    coalescing_off: Option<Off>,
}

/// Most datagrams for one system call.
const BATCH: usize = 64;

/// The first call asks for so many: with trains that is plenty.
const FEW: usize = 4;

/// A batch of so many octets is enough.
const ENOUGH_OCTETS: usize = 128 << 10;

/// Asked for in both directions; the default of 208 KiB holds a few trains only.
const BUFFER_OCTETS: libc::c_int = 4 << 20;

impl UdpSocket {
    /// Binds `port` on all addresses of the family.
    ///
    /// # Errors
    /// `AddrInUse` where another process has the port; `EAFNOSUPPORT` without the family.
    pub fn bind(family: Family, port: u16) -> io::Result<Self> {
        let socket = Self::open(family)?;
        socket.bind_to(port)?;
        Ok(socket)
    }

    /// Makes a socket that is bound to nothing yet, with its buffers.
    fn open(family: Family) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointer is passed; the result is checked before it is owned.
        let fd = check(unsafe { libc::socket(domain, kind, 0) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self::plain(socket, family);
        socket.set_path_mtu_probing()?;
        socket.set_buffers();
        Ok(socket)
    }

    fn bind_to(&self, port: u16) -> io::Result<()> {
        let any = match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let address = RawAddress::from(SocketAddr::new(any, port));
        // SAFETY: pointer and length describe `address`, which outlives the call.
        check(unsafe {
            libc::bind(
                self.fd(),
                (&raw const address.storage).cast(),
                address.length,
            )
        })?;
        Ok(())
    }

    /// Takes over a socket that another process bound.
    ///
    /// # Errors
    /// It is not a UDP socket of either family.
    pub fn from_descriptor(socket: OwnedFd) -> io::Result<Self> {
        let family = match local_address(&socket)? {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        };
        Ok(Self::plain(socket, family))
    }

    fn plain(socket: OwnedFd, family: Family) -> Self {
        Self {
            socket,
            family,
            segments: AtomicBool::new(false),
            segmentation_error: AtomicI32::new(0),
            coalescing_off: Some(Off::NotWanted),
        }
    }

    /// Switches offloads on, as far as the kernel has them.
    pub fn switch_on(&mut self, wanted: UdpOffloads) {
        if wanted.segmentation {
            // Sets what is the default already: the kernel knows the option, or it doesn't.
            match self.set(libc::SOL_UDP, libc::UDP_SEGMENT, 0) {
                Ok(()) => self.segments.store(true, Ordering::Relaxed),
                Err(error) => self.stop_segmentation(&error),
            }
        }
        let coalescing = libc::c_int::from(wanted.coalescing);
        self.coalescing_off = match self.set(libc::SOL_UDP, libc::UDP_GRO, coalescing) {
            _ if !wanted.coalescing => Some(Off::NotWanted),
            Ok(()) => None,
            Err(error) => Some(Off::Refused(error.raw_os_error().unwrap_or(0))),
        };
    }

    fn stop_segmentation(&self, error: &io::Error) {
        let number = error.raw_os_error().unwrap_or(libc::EINVAL);
        self.segmentation_error.store(number, Ordering::Relaxed);
        self.segments.store(false, Ordering::Release);
    }

    /// The family it was bound with.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The address it is bound to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        local_address(&self.socket)
    }

    fn fd(&self) -> libc::c_int {
        self.socket.as_raw_fd()
    }

    /// Sets the don't-fragment bit and ignores the path MTU that ICMP claims, which
    /// anyone can forge; the path is probed by the protocol instead.
    fn set_path_mtu_probing(&self) -> io::Result<()> {
        match self.family {
            Family::V4 => self.set(
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
            ),
            Family::V6 => {
                self.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
                self.set(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_PROBE,
                )
            }
        }
    }

    /// Asks for large buffers, beyond the system's limit where that is permitted.
    fn set_buffers(&self) {
        for (forced, plain) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if self.set(libc::SOL_SOCKET, forced, BUFFER_OCTETS).is_err() {
                // Without the privilege the kernel caps it at net.core.*mem_max.
                let _capped = self.set(libc::SOL_SOCKET, plain, BUFFER_OCTETS);
            }
        }
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: pointer and length describe `value`, which outlives the call.
        check(unsafe {
            libc::setsockopt(
                self.fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// Fills at most `N` slots; returns whether more may wait.
    fn receive_some<const N: usize>(&self, batch: &mut DatagramBatch) -> io::Result<bool> {
        let wanted = batch.left().min(N);
        let mut addresses = [RawAddress::empty(); N];
        let mut controls = [Control::EMPTY; N];
        let mut parts = [NO_PART; N];
        // SAFETY: mmsghdr is plain data, all zero is a valid value of it.
        let mut messages: [libc::mmsghdr; N] = unsafe { std::mem::zeroed() };
        for (index, area) in batch.free_areas().take(wanted).enumerate() {
            parts[index] = libc::iovec {
                iov_base: area.as_mut_ptr().cast(),
                iov_len: area.len(),
            };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut addresses[index].storage).cast();
            header.msg_namelen = ROOM;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut controls[index]).cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        let count = retry(|| {
            // SAFETY: `wanted` messages are set up; what they point to (addresses, controls,
            // parts, areas of the batch) is not touched by others and outlives the call.
            check(unsafe {
                libc::recvmmsg(
                    self.fd(),
                    messages.as_mut_ptr(),
                    wanted as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            })
        })? as usize;
        for index in 0..count {
            let length = messages[index].msg_len as usize;
            let controls_length = messages[index].msg_hdr.msg_controllen as usize;
            let joined = controls[index].segment_octets(controls_length);
            // An address of no family we know can't be answered: nobody's.
            let from = addresses[index].parse().unwrap_or(Arrival::default().from);
            let arrival = Arrival {
                from,
                segment_octets: joined.unwrap_or(length),
            };
            batch.fill(length, arrival);
        }
        Ok(count == wanted)
    }

    /// Sends as many of the first `N` departures as the kernel takes, at least one.
    fn send_some<const N: usize>(&self, departures: &[Departure<'_>]) -> io::Result<usize> {
        let count = departures.len().min(N);
        let mut addresses = [RawAddress::empty(); N];
        let mut controls = [Control::EMPTY; N];
        let mut parts = [NO_PART; N];
        // SAFETY: mmsghdr is plain data, all zero is a valid value of it.
        let mut messages: [libc::mmsghdr; N] = unsafe { std::mem::zeroed() };
        for (index, departure) in departures[..count].iter().enumerate() {
            addresses[index] = departure.to.into();
            parts[index] = libc::iovec {
                iov_base: departure.octets.as_ptr().cast_mut().cast(),
                iov_len: departure.octets.len(),
            };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut addresses[index].storage).cast();
            header.msg_namelen = addresses[index].length;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            if departure.is_train() {
                controls[index] = Control::segment(departure.segment_octets);
                header.msg_control = (&raw mut controls[index]).cast();
                header.msg_controllen = Control::SEGMENT_LENGTH as _;
            }
        }
        let sent = retry(|| {
            // SAFETY: `count` messages are set up; what they point to outlives the call, and
            // sendmmsg only reads the datagrams.
            check(unsafe {
                libc::sendmmsg(
                    self.fd(),
                    messages.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            })
        })?;
        Ok(sent as usize)
    }

    /// Sends all; what the kernel refuses is counted and left out.
    fn send_all(&self, mut departures: &[Departure<'_>], sent: &mut Sent) {
        while let Some(first) = departures.first() {
            let taken = if departures.len() == 1 {
                self.send_some::<1>(departures)
            } else {
                self.send_some::<BATCH>(departures)
            };
            match taken {
                Ok(count) => {
                    let (gone, rest) = departures.split_at(count.max(1));
                    sent.datagrams += gone.iter().map(Departure::count).sum::<u64>();
                    departures = rest;
                }
                Err(error) => {
                    if first.is_train() && may_be_of_the_train(&error) {
                        self.send_again(first, &error, sent);
                    } else {
                        sent.count_error(&error, first.count());
                    }
                    departures = &departures[1..];
                }
            }
        }
    }

    /// Sends a train that was refused datagram by datagram. If that works the train was the
    /// trouble, and there are no more of them.
    fn send_again(&self, train: &Departure<'_>, error: &io::Error, sent: &mut Sent) {
        let before = sent.datagrams;
        self.send_divided(train, sent);
        sent.fallbacks += 1;
        if sent.datagrams - before == train.count() {
            self.stop_segmentation(error);
        }
    }

    fn send_divided(&self, train: &Departure<'_>, sent: &mut Sent) {
        let mut singles = [Departure::single(train.to, &[]); BATCH];
        let mut count = 0;
        for octets in train.datagrams() {
            singles[count].octets = octets;
            count += 1;
            if count == BATCH {
                self.send_all(&singles, sent);
                count = 0;
            }
        }
        self.send_all(&singles[..count], sent);
    }
}

/// Sockets that are bound to nothing yet, made while the process still had the capability to
/// lift the system's limit on their buffers.
#[derive(Debug, Default)]
pub struct Spare {
    sockets: Vec<UdpSocket>,
}

impl Spare {
    /// Makes so many of each family that there is.
    pub fn prepare(count: usize) -> Self {
        let families = [Family::V4, Family::V6].into_iter();
        let all = families.flat_map(|family| std::iter::repeat_n(family, count));
        Self {
            sockets: all
                .filter_map(|family| UdpSocket::open(family).ok())
                .collect(),
        }
    }

    /// As [`UdpSocket::bind`], with a spare socket while there is one.
    ///
    /// # Errors
    /// As [`UdpSocket::bind`]; the socket is kept then.
    pub fn bind(&mut self, family: Family, port: u16) -> io::Result<UdpSocket> {
        let socket = self.take(family)?;
        if let Err(error) = socket.bind_to(port) {
            self.sockets.push(socket);
            return Err(error);
        }
        Ok(socket)
    }

    /// Binds another socket on the port of `first` (`SO_REUSEPORT`, socket(7)): the kernel
    /// spreads senders over them. `first` was bound alone, so that the port was nobody else's.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind_beside(&mut self, first: &UdpSocket) -> io::Result<UdpSocket> {
        first.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        let socket = self.take(first.family)?;
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        socket.bind_to(first.local_address()?.port())?;
        Ok(socket)
    }

    fn take(&mut self, family: Family) -> io::Result<UdpSocket> {
        let at = self.sockets.iter().position(|one| one.family == family);
        at.map_or_else(|| UdpSocket::open(family), |at| Ok(self.sockets.remove(at)))
    }
}

/// EIO: no checksum offload, or IPsec on the route; EINVAL and EMSGSIZE: by kernel, where a
/// segment exceeds the route's MTU, which single datagrams then tell.
fn may_be_of_the_train(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
    )
}

const NO_PART: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// Room for one control message, in the layout of `cmsghdr` and its data.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    /// UDP_GRO has an int here, UDP_SEGMENT a u16.
    value: libc::c_int,
    padding: libc::c_int,
}

impl Control {
    // SAFETY: cmsghdr is plain data, all zero is a valid value of it.
    const EMPTY: Self = unsafe { std::mem::zeroed() };
    const HEADER_LENGTH: usize = size_of::<libc::cmsghdr>();
    const SEGMENT_LENGTH: usize = Self::HEADER_LENGTH + size_of::<u64>();

    fn segment(octets: usize) -> Self {
        let mut control = Self::EMPTY;
        control.header.cmsg_len = (Self::HEADER_LENGTH + size_of::<u16>()) as _;
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        let [a, b] = (octets as u16).to_ne_bytes();
        control.value = libc::c_int::from_ne_bytes([a, b, 0, 0]);
        control
    }

    /// Size of the datagrams that the kernel joined; `None`: it is a single one.
    fn segment_octets(&self, length: usize) -> Option<usize> {
        let present = length >= Self::HEADER_LENGTH + size_of::<libc::c_int>()
            && self.header.cmsg_level == libc::SOL_UDP
            && self.header.cmsg_type == libc::UDP_GRO;
        usize::try_from(self.value)
            .ok()
            .filter(|&octets| present && octets > 0)
    }
}

impl DatagramSocket for UdpSocket {
    fn receive(&self, batch: &mut DatagramBatch) -> io::Result<()> {
        // Trains are large: what waits in the cache is opened first.
        let mut few = true;
        while !batch.is_full() && batch.octets() < ENOUGH_OCTETS {
            let received = if batch.left() == 1 {
                self.receive_some::<1>(batch)
            } else if few {
                self.receive_some::<FEW>(batch)
            } else {
                self.receive_some::<BATCH>(batch)
            };
            few = false;
            match received {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&self, departures: &[Departure<'_>]) -> Sent {
        let mut sent = Sent::default();
        let divide = |departure: &Departure<'_>| {
            departure.is_train() && !self.segments.load(Ordering::Acquire)
        };
        for alike in departures.chunk_by(|a, b| !divide(a) && !divide(b)) {
            match alike {
                [train] if divide(train) => self.send_divided(train, &mut sent),
                _ => self.send_all(alike, &mut sent),
            }
        }
        sent
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn segmentation_off(&self) -> Option<Off> {
        if self.segments.load(Ordering::Acquire) {
            return None;
        }
        match self.segmentation_error.load(Ordering::Relaxed) {
            0 => Some(Off::NotWanted),
            number => Some(Off::Refused(number)),
        }
    }

    fn coalescing_off(&self) -> Option<Off> {
        self.coalescing_off
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let mut address = RawAddress::empty();
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe {
        libc::getsockname(
            socket.as_raw_fd(),
            (&raw mut address.storage).cast(),
            &raw mut address.length,
        )
    })?;
    address
        .parse()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(family: Family, port: u16) -> SocketAddr {
        match family {
            Family::V4 => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            Family::V6 => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
        }
    }

    fn pair(family: Family) -> Option<(UdpSocket, UdpSocket, SocketAddr)> {
        match (UdpSocket::bind(family, 0), UdpSocket::bind(family, 0)) {
            (Ok(a), Ok(b)) => {
                let to = loopback(family, b.local_address().unwrap().port());
                Some((a, b, to))
            }
            (a, b) => {
                eprintln!("skipped: no {family:?} here: {a:?} {b:?}");
                None
            }
        }
    }

    fn contents(batch: &mut DatagramBatch) -> Vec<Vec<u8>> {
        batch
            .filled()
            .map(|mut slot| slot.content().to_vec())
            .collect()
    }

    #[test]
    fn datagrams_arrive_in_order_with_their_source() {
        for family in [Family::V4, Family::V6] {
            let Some((a, b, to)) = pair(family) else {
                continue;
            };
            let texts: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; usize::from(n) + 1]).collect();
            let departures: Vec<_> = texts.iter().map(|t| Departure::single(to, t)).collect();

            let sent = a.send(&departures);

            assert_eq!(
                sent,
                Sent {
                    datagrams: 100,
                    ..Sent::default()
                }
            );
            let mut batch = datagram_batch(128);
            b.receive(&mut batch).unwrap();
            let source = loopback(family, a.local_address().unwrap().port());
            assert!(batch.filled().all(|slot| slot.meta.from == source));
            assert_eq!(contents(&mut batch), texts);
        }
    }

    #[test]
    fn a_train_is_sent_as_single_datagrams() {
        let Some((a, b, to)) = pair(Family::V4) else {
            return;
        };
        a.send(&[Departure {
            to,
            octets: b"aaabbbc",
            segment_octets: 3,
        }]);
        let mut batch = datagram_batch(8);
        b.receive(&mut batch).unwrap();
        assert_eq!(contents(&mut batch), [&b"aaa"[..], b"bbb", b"c"]);
    }

    #[test]
    fn a_train_crosses_as_one_and_arrives_as_it_was() {
        for family in [Family::V4, Family::V6] {
            let Some((mut a, mut b, to)) = pair(family) else {
                continue;
            };
            for socket in [&mut a, &mut b] {
                socket.switch_on(UdpOffloads {
                    segmentation: true,
                    coalescing: true,
                });
            }
            let octets: Vec<u8> = (0..40_u8).flat_map(|n| vec![n; 1448]).collect();
            let octets = &octets[..39 * 1448 + 7];

            let sent = a.send(&[
                Departure {
                    to,
                    octets,
                    segment_octets: 1448,
                },
                Departure::single(to, b"single"),
            ]);

            assert_eq!((sent.datagrams, sent.fallbacks), (41, 0));
            assert_eq!((a.segmentation_off(), b.coalescing_off()), (None, None));
            let mut batch = datagram_batch(64);
            b.receive(&mut batch).unwrap();
            let (mut together, mut slots) = (Vec::new(), 0);
            for slot in batch.filled() {
                slots += 1;
                assert!(slot.meta.segment_octets <= 1448);
                together.extend_from_slice(slot.into_content());
            }
            assert_eq!(together, [octets, b"single"].concat());
            assert!(slots < 41, "joined: {slots}");
        }
    }

    #[test]
    fn a_refused_train_is_sent_again_and_is_the_last() {
        let Some((mut a, b, to)) = pair(Family::V4) else {
            return;
        };
        a.switch_on(UdpOffloads {
            segmentation: true,
            coalescing: false,
        });
        // Without UDP checksums the kernel refuses trains, and single datagrams pass.
        a.set(libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let train = Departure {
            to,
            octets: b"aaabbbc",
            segment_octets: 3,
        };
        let first = a.send(&[Departure::single(to, b"before"), train]);
        let second = a.send(&[train]);
        assert_eq!((first.datagrams, first.fallbacks), (4, 1));
        assert_eq!((second.datagrams, second.fallbacks), (3, 0));
        assert_eq!(a.segmentation_off(), Some(Off::Refused(libc::EINVAL)));
        let mut batch = datagram_batch(16);
        b.receive(&mut batch).unwrap();
        let expected: [&[u8]; 7] = [b"before", b"aaa", b"bbb", b"c", b"aaa", b"bbb", b"c"];
        assert_eq!(contents(&mut batch), expected);
    }

    #[test]
    fn a_datagram_that_fails_does_not_keep_the_next_one_back() {
        let Some((a, b, to)) = pair(Family::V4) else {
            return;
        };
        let huge = vec![0u8; 65_530];
        let sent = a.send(&[
            Departure::single(to, b"one"),
            Departure::single(to, &huge),
            Departure::single(to, b"two"),
        ]);
        assert_eq!(
            sent,
            Sent {
                datagrams: 2,
                too_big: 1,
                ..Sent::default()
            }
        );
        let mut batch = datagram_batch(8);
        b.receive(&mut batch).unwrap();
        assert_eq!(contents(&mut batch), [b"one", b"two"]);
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let Some((a, _, _)) = pair(Family::V4) else {
            return;
        };
        let port = a.local_address().unwrap().port();
        let error = UdpSocket::bind(Family::V4, port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn sockets_beside_each_other_share_a_port_that_is_nobody_elses() {
        for family in [Family::V4, Family::V6] {
            let Some((a, first, to)) = pair(family) else {
                continue;
            };
            let second = Spare::default().bind_beside(&first).unwrap();
            let error = UdpSocket::bind(family, to.port()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            let mut others = vec![a];
            others.extend((0..31).map(|_| UdpSocket::bind(family, 0).unwrap()));
            for one in &others {
                assert_eq!(one.send(&[Departure::single(to, b"x"); 3]).datagrams, 3);
            }
            let (mut of_first, mut of_second) = (datagram_batch(96), datagram_batch(96));
            first.receive(&mut of_first).unwrap();
            second.receive(&mut of_second).unwrap();
            assert_eq!(of_first.len() + of_second.len(), 96);
            assert!(
                of_first.len().is_multiple_of(3),
                "a sender's go to one of them"
            );
            assert!(!of_first.is_empty() && !of_second.is_empty());
        }
    }

    #[test]
    fn both_families_share_a_port() {
        let Some((a, _, _)) = pair(Family::V4) else {
            return;
        };
        if pair(Family::V6).is_some() {
            UdpSocket::bind(Family::V6, a.local_address().unwrap().port()).unwrap();
        }
    }
}
