//! Sealed datagrams on their way out, collected so that one system call sends many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_device::udp::Departure;
use cairn_engine::Underlay;

use crate::plumbing::{Counters, Sockets};

/// Datagrams of one `sendmmsg`.
const MOST: usize = 64;

/// Octets after which it is sent though datagrams would still fit.
const FULL_OCTETS: usize = 128 * 1024;

/// Collects datagrams; [`Outbox::flush`] sends them in order.
pub struct Outbox {
    sockets: Sockets,
    counters: Arc<Counters>,
    octets: Vec<u8>,
    /// Where each datagram goes, and where it ends in `octets`.
    waiting: Vec<(SocketAddr, usize)>,
}

impl Outbox {
    /// An outbox without sockets: what is sent is counted as lost.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self {
            sockets: Sockets::default(),
            counters,
            octets: Vec::with_capacity(FULL_OCTETS),
            waiting: Vec::with_capacity(MOST),
        }
    }

    /// Sends by other sockets from now on.
    pub fn connect(&mut self, sockets: Sockets) {
        self.sockets = sockets;
    }

    /// Sends what was collected.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut departures = [Departure::single(self.waiting[0].0, &[]); MOST];
        let mut start = 0;
        for (departure, (to, end)) in departures.iter_mut().zip(&self.waiting) {
            *departure = Departure::single(*to, &self.octets[start..*end]);
            start = *end;
        }
        let family = |departure: &Departure<'_>| departure.to.is_ipv4();
        for same in departures[..self.waiting.len()].chunk_by(|a, b| family(a) == family(b)) {
            match self.sockets.towards(same[0].to) {
                Some(socket) => self.counters.sent.count(socket.send(same)),
                None => {
                    self.counters
                        .no_socket
                        .fetch_add(same.len() as u64, Ordering::Relaxed);
                }
            }
        }
        self.octets.clear();
        self.waiting.clear();
    }
}

impl Underlay for Outbox {
    fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.octets.extend_from_slice(datagram);
        self.waiting.push((to, self.octets.len()));
        if self.waiting.len() == MOST || self.octets.len() >= FULL_OCTETS {
            self.flush();
        }
    }
}
