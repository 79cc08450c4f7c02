//! Sealed datagrams on their way out, collected so that one system call sends many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_device::udp::{Departure, MOST_SEGMENTS, most_octets};
use cairn_engine::Underlay;

use crate::plumbing::{Counters, Sockets};

/// Datagrams that are collected before they are sent.
const MOST: usize = 128;

/// Room for a train of the largest kind, and as much again of what follows it.
const ROOM: usize = 128 * 1024;

/// Collects datagrams; [`Outbox::flush`] sends them in order.
pub struct Outbox {
    sockets: Sockets,
    counters: Arc<Counters>,
    octets: Box<[u8]>,
    used: usize,
    /// Where each datagram goes, and where it ends in `octets`.
    waiting: Vec<(SocketAddr, usize)>,
    /// A socket went without an offload since this was last cleared.
    pub fell_back: bool,
}

impl Outbox {
    /// An outbox without sockets: what is sent is counted as lost.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self {
            sockets: Sockets::default(),
            counters,
            octets: vec![0; ROOM].into_boxed_slice(),
            used: 0,
            waiting: Vec::with_capacity(MOST),
            fell_back: false,
        }
    }

    /// Sends by other sockets from now on.
    pub fn connect(&mut self, sockets: Sockets) {
        self.sockets = sockets;
    }

    /// Sends a datagram that is whole already.
    pub fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.datagram(to, datagram.len()).copy_from_slice(datagram);
    }

    /// Sends what was collected.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut departures = [Departure::single(self.waiting[0].0, &[]); MOST];
        let count = trains(&self.octets, &self.waiting, &mut departures);
        let family = |departure: &Departure<'_>| departure.to.is_ipv4();
        for same in departures[..count].chunk_by(|a, b| family(a) == family(b)) {
            match self.sockets.towards(same[0].to) {
                Some(socket) => {
                    let sent = socket.send(same);
                    self.fell_back |= sent.fallbacks > 0;
                    self.counters.sent.count(sent);
                }
                None => {
                    self.counters
                        .no_socket
                        .fetch_add(same.len() as u64, Ordering::Relaxed);
                }
            }
        }
        self.used = 0;
        self.waiting.clear();
    }
}

/// Datagrams to one place that stand side by side and are of equal length are a train; its
/// last may be shorter.
fn trains<'o>(
    octets: &'o [u8],
    waiting: &[(SocketAddr, usize)],
    departures: &mut [Departure<'o>; MOST],
) -> usize {
    let mut count = 0;
    let (mut start, mut segments, mut closed) = (0, 0, true);
    let mut begun = 0;
    for (to, end) in waiting {
        let length = end - start;
        let joins = count > 0 && !closed && {
            let train = &departures[count - 1];
            train.to == *to
                && segments < MOST_SEGMENTS
                && length <= train.segment_octets
                && end - begun <= most_octets(*to)
        };
        if joins {
            let train = &mut departures[count - 1];
            closed = length < train.segment_octets;
            train.octets = &octets[begun..*end];
            segments += 1;
        } else {
            departures[count] = Departure {
                to: *to,
                octets: &octets[start..*end],
                segment_octets: length,
            };
            count += 1;
            (begun, segments, closed) = (start, 1, length == 0);
        }
        start = *end;
    }
    count
}

impl Underlay for Outbox {
    fn datagram(&mut self, to: SocketAddr, len: usize) -> &mut [u8] {
        if self.waiting.len() == MOST || self.used + len > ROOM {
            self.flush();
        }
        let start = self.used;
        self.used += len;
        self.waiting.push((to, self.used));
        &mut self.octets[start..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_to_one_place_are_a_train_and_a_shorter_one_ends_it() {
        let a: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let b: SocketAddr = "192.0.2.2:1".parse().unwrap();
        let octets = [0; 70 * 1448];
        let lengths: &[(SocketAddr, usize)] = &[
            (a, 100),
            (a, 100),
            (a, 40),
            (a, 40),
            (b, 40),
            (b, 0),
            (a, 100),
            (a, 101),
        ];
        assert_eq!(
            trains_of(&octets, lengths),
            [
                (a, 240, 100),
                (a, 40, 40),
                (b, 40, 40),
                (a, 100, 100),
                (a, 101, 101)
            ],
        );
        let many = vec![(a, 1448); 50];
        assert_eq!(
            trains_of(&octets, &many),
            [(a, 45 * 1448, 1448), (a, 5 * 1448, 1448)],
            "no more octets than a datagram has",
        );
        let many = vec![(a, 100); 70];
        assert_eq!(trains_of(&octets, &many), [(a, 6400, 100), (a, 600, 100)]);
    }

    fn trains_of(
        octets: &[u8],
        lengths: &[(SocketAddr, usize)],
    ) -> Vec<(SocketAddr, usize, usize)> {
        let mut end = 0;
        let waiting: Vec<_> = lengths
            .iter()
            .map(|(to, length)| {
                end += length;
                (*to, end)
            })
            .collect();
        let mut departures = [Departure::single(lengths[0].0, &[]); MOST];
        let count = trains(octets, &waiting, &mut departures);
        departures[..count]
            .iter()
            .map(|one| (one.to, one.octets.len(), one.segment_octets))
            .collect()
    }
}
