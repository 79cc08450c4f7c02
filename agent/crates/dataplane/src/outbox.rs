//! Sealed datagrams on their way out, collected so that one system call sends many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_device::clock;
use cairn_device::udp::{Departure, MOST_SEGMENTS, most_octets};
use cairn_engine::{Gate, Underlay};

use crate::plumbing::{Counters, Sockets};

/// Datagrams that are collected before they are sent.
const MOST: usize = 128;

/// A superframe is one train; setting up room for many would cost as much as a segment.
const FEW: usize = 4;

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
    /// What is collected may be sent while this is open.
    fence: Option<Arc<Gate>>,
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
            fence: None,
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

    /// Lets what is collected from now on be sent only while a gate is open. For frames that
    /// were let through it: what passes a closed gate has no fence.
    pub fn fence(&mut self, gate: Option<Arc<Gate>>) {
        self.fence = gate;
    }

    /// Sends what was collected.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(gate) = &self.fence
            && !gate.is_open(clock::now())
        {
            let late = self.waiting.len() as u64;
            self.counters.fenced.fetch_add(late, Ordering::Relaxed);
            return self.clear();
        }
        let [first, .., last] = &self.waiting[..] else {
            self.send_trains::<1>(0);
            return self.clear();
        };
        let mut sent = 0;
        if first.0 == last.0 {
            sent = self.send_trains::<FEW>(0);
        }
        while sent < self.waiting.len() {
            sent = self.send_trains::<MOST>(sent);
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.used = 0;
        self.waiting.clear();
    }

    /// Sends at most `N` trains of what waits from `first` on; returns where the next begins.
    fn send_trains<const N: usize>(&mut self, first: usize) -> usize {
        let mut departures = [Departure::single(self.waiting[first].0, &[]); N];
        let (count, next) = trains(&self.octets, &self.waiting, first, &mut departures);
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
        next
    }
}

/// Datagrams to one place that stand side by side and are of equal length are a train; its
/// last may be shorter. From `first` on, as many as there is room for; returns how many, and
/// which datagram is the first that has none.
fn trains<'o>(
    octets: &'o [u8],
    waiting: &[(SocketAddr, usize)],
    first: usize,
    departures: &mut [Departure<'o>],
) -> (usize, usize) {
    let mut count = 0;
    let mut start = first.checked_sub(1).map_or(0, |before| waiting[before].1);
    let (mut segments, mut closed) = (0, true);
    let mut begun = start;
    for (at, (to, end)) in waiting.iter().enumerate().skip(first) {
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
        } else if count == departures.len() {
            return (count, at);
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
    (count, waiting.len())
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

    #[test]
    fn trains_that_have_no_room_are_the_next_ones() {
        let [a, b] = ["192.0.2.1:1", "192.0.2.2:1"].map(|text| text.parse().unwrap());
        let octets = [7; 500];
        let waiting: [(SocketAddr, usize); 4] = [(a, 100), (a, 200), (b, 300), (a, 350)];
        let mut departures = [Departure::single(a, &[]); 2];

        assert_eq!(trains(&octets, &waiting, 0, &mut departures), (2, 3));
        assert_eq!(departures[0].octets.len(), 200);
        assert_eq!(trains(&octets, &waiting, 3, &mut departures), (1, 4));
        assert_eq!((departures[0].to, departures[0].octets.len()), (a, 50));
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
        let (count, next) = trains(octets, &waiting, 0, &mut departures);
        assert_eq!(next, waiting.len());
        departures[..count]
            .iter()
            .map(|one| (one.to, one.octets.len(), one.segment_octets))
            .collect()
    }
}
