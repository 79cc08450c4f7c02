//! The underlay seam: datagrams to and from UDP 8002.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
    }

    fn count_error(&mut self, error: &io::Error) {
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
        *counter += 1;
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
}

/// Most datagrams for one system call.
const BATCH: usize = 64;

/// Asked for in both directions; the default of 208 KiB holds a few trains only.
const BUFFER_OCTETS: libc::c_int = 4 << 20;

impl UdpSocket {
    /// Binds `port` on all addresses of the family.
    ///
    /// # Errors
    /// `AddrInUse` where another process has the port; `EAFNOSUPPORT` without the family.
    pub fn bind(family: Family, port: u16) -> io::Result<Self> {
        let (domain, any) = match family {
            Family::V4 => (libc::AF_INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => (libc::AF_INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointer is passed; the result is checked before it is owned.
        let fd = check(unsafe { libc::socket(domain, kind, 0) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { socket, family };
        socket.set_path_mtu_probing()?;
        socket.set_buffers();
        let address = RawAddress::from(SocketAddr::new(any, port));
        // SAFETY: pointer and length describe `address`, which outlives the call.
        check(unsafe {
            libc::bind(
                socket.fd(),
                (&raw const address.storage).cast(),
                address.length,
            )
        })?;
        Ok(socket)
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
        Ok(Self { socket, family })
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

    /// Returns whether more may wait.
    fn receive_some(&self, batch: &mut DatagramBatch) -> io::Result<bool> {
        let wanted = (batch.capacity() - batch.len()).min(BATCH);
        let mut addresses = [RawAddress::empty(); BATCH];
        let mut parts = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        // SAFETY: mmsghdr is plain data, all zero is a valid value of it.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
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
        }
        let count = retry(|| {
            // SAFETY: `wanted` messages are set up; what they point to (addresses, parts,
            // areas of the batch) is not touched by others and outlives the call.
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
        for (message, address) in messages[..count].iter().zip(&addresses) {
            let length = message.msg_len as usize;
            // An address of no family we know can't be answered: nobody's.
            let from = address.parse().unwrap_or(Arrival::default().from);
            batch.fill(
                length,
                Arrival {
                    from,
                    segment_octets: length,
                },
            );
        }
        Ok(count == wanted)
    }
}

impl DatagramSocket for UdpSocket {
    fn receive(&self, batch: &mut DatagramBatch) -> io::Result<()> {
        while !batch.is_full() {
            match self.receive_some(batch) {
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
        let mut outbox = Outbox::new(self);
        for departure in departures {
            for octets in departure.datagrams() {
                outbox.push(departure.to, octets, &mut sent);
            }
        }
        outbox.flush(&mut sent);
        sent
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Datagrams collected for one `sendmmsg`.
struct Outbox<'a> {
    socket: &'a UdpSocket,
    addresses: [RawAddress; BATCH],
    octets: [&'a [u8]; BATCH],
    count: usize,
}

impl<'a> Outbox<'a> {
    fn new(socket: &'a UdpSocket) -> Self {
        Self {
            socket,
            addresses: [RawAddress::empty(); BATCH],
            octets: [&[]; BATCH],
            count: 0,
        }
    }

    fn push(&mut self, to: SocketAddr, octets: &'a [u8], sent: &mut Sent) {
        self.addresses[self.count] = to.into();
        self.octets[self.count] = octets;
        self.count += 1;
        if self.count == BATCH {
            self.flush(sent);
        }
    }

    /// Sends all; a datagram that the kernel refuses is counted and left out.
    fn flush(&mut self, sent: &mut Sent) {
        let mut from = 0;
        while from < self.count {
            match self.send_from(from) {
                Ok(count) => {
                    sent.datagrams += count as u64;
                    from += count.max(1);
                }
                Err(error) => {
                    sent.count_error(&error);
                    from += 1;
                }
            }
        }
        self.count = 0;
    }

    fn send_from(&mut self, from: usize) -> io::Result<usize> {
        let mut parts = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        // SAFETY: mmsghdr is plain data, all zero is a valid value of it.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for index in from..self.count {
            parts[index] = libc::iovec {
                iov_base: self.octets[index].as_ptr().cast_mut().cast(),
                iov_len: self.octets[index].len(),
            };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index].storage).cast();
            header.msg_namelen = self.addresses[index].length;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
        }
        retry(|| {
            // SAFETY: the messages from `from` on are set up; what they point to outlives
            // the call, and sendmmsg only reads the datagrams.
            let result = check(unsafe {
                libc::sendmmsg(
                    self.socket.fd(),
                    messages[from..].as_mut_ptr(),
                    (self.count - from) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            })?;
            Ok(result as usize)
        })
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
    fn both_families_share_a_port() {
        let Some((a, _, _)) = pair(Family::V4) else {
            return;
        };
        if pair(Family::V6).is_some() {
            UdpSocket::bind(Family::V6, a.local_address().unwrap().port()).unwrap();
        }
    }
}
