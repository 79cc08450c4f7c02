//! Twins of both seams in memory: whole networks of nodes in one process, without root.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::Batch;
use crate::readiness::EventFd;
use crate::tap::{FrameBatch, OutgoingFrame, TapQueue, VnetHeader, Written};
use crate::udp::{Arrival, DatagramBatch, DatagramSocket, Departure, Sent};

/// Frames or datagrams that wait, with a descriptor that shows it.
#[derive(Debug)]
struct Queue<M> {
    waiting: Mutex<VecDeque<(M, Vec<u8>)>>,
    ready: EventFd,
}

/// Like the ring of a real TAP; what comes on top is lost.
const LONGEST_QUEUE: usize = 1_000;

impl<M: Copy + Default> Queue<M> {
    fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            ready: EventFd::new()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(M, Vec<u8>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, meta: M, octets: &[u8]) -> bool {
        let mut waiting = self.lock();
        if waiting.len() == LONGEST_QUEUE {
            return false;
        }
        waiting.push_back((meta, octets.to_vec()));
        self.ready.signal();
        true
    }

    fn pop(&self) -> Option<(M, Vec<u8>)> {
        let mut waiting = self.lock();
        let first = waiting.pop_front();
        if waiting.is_empty() {
            self.ready.clear();
        }
        first
    }

    fn drain_into(&self, batch: &mut Batch<M>) {
        while !batch.is_full() {
            let Some((meta, octets)) = self.pop() else {
                break;
            };
            let area = batch.area(batch.len());
            let length = octets.len().min(area.len());
            area[..length].copy_from_slice(&octets[..length]);
            batch.fill(length, meta);
        }
    }
}

/// A TAP whose host side is the test.
#[derive(Debug)]
pub struct MemoryTap {
    from_host: Queue<VnetHeader>,
    to_host: Queue<VnetHeader>,
}

impl MemoryTap {
    /// Makes a TAP with empty queues.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            from_host: Queue::new()?,
            to_host: Queue::new()?,
        })
    }

    /// The host sends a frame. Returns whether there was room for it.
    pub fn host_sends(&self, frame: &[u8]) -> bool {
        self.from_host.push(VnetHeader::default(), frame)
    }

    /// Returns the next frame that the host got.
    pub fn host_receives(&self) -> Option<Vec<u8>> {
        self.to_host.pop().map(|(_, octets)| octets)
    }
}

impl TapQueue for MemoryTap {
    fn read(&self, batch: &mut FrameBatch) -> io::Result<()> {
        self.from_host.drain_into(batch);
        Ok(())
    }

    fn write(&self, frames: &[OutgoingFrame<'_>]) -> Written {
        let mut written = Written::default();
        for frame in frames {
            let octets = frame.parts.concat();
            if octets.len() < 14 {
                written.refused += 1;
            } else if self.to_host.push(frame.header, &octets) {
                written.frames += 1;
            } else {
                written.unavailable += 1;
            }
        }
        written
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.from_host.ready.as_fd()
    }
}

/// An underlay that delivers at once, in order, and loses what has no receiver.
#[derive(Clone, Debug, Default)]
pub struct MemoryUnderlay {
    sockets: Arc<Mutex<HashMap<SocketAddr, Arc<Queue<Arrival>>>>>,
}

impl MemoryUnderlay {
    /// Binds an address; a socket that had it before gets nothing any more.
    pub fn bind(&self, address: SocketAddr) -> io::Result<MemorySocket> {
        let queue = Arc::new(Queue::new()?);
        self.lock().insert(address, Arc::clone(&queue));
        Ok(MemorySocket {
            underlay: self.clone(),
            address,
            queue,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Queue<Arrival>>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket of a [`MemoryUnderlay`].
#[derive(Debug)]
pub struct MemorySocket {
    underlay: MemoryUnderlay,
    address: SocketAddr,
    queue: Arc<Queue<Arrival>>,
}

impl DatagramSocket for MemorySocket {
    fn receive(&self, batch: &mut DatagramBatch) -> io::Result<()> {
        self.queue.drain_into(batch);
        Ok(())
    }

    fn send(&self, departures: &[Departure<'_>]) -> Sent {
        let mut sent = Sent::default();
        for departure in departures {
            let Some(queue) = self.underlay.lock().get(&departure.to).cloned() else {
                sent.unreachable += 1;
                continue;
            };
            for octets in departure.datagrams() {
                // A full receiver loses silently, as on a real network.
                queue.push(
                    Arrival {
                        from: self.address,
                        segment_octets: octets.len(),
                    },
                    octets,
                );
                sent.datagrams += 1;
            }
        }
        sent
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.queue.ready.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::{Epoll, Interest};
    use crate::tap::frame_batch;
    use crate::udp::datagram_batch;
    use std::time::Duration;

    #[test]
    fn a_twin_is_ready_while_something_waits() {
        let tap = MemoryTap::new().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(tap.readiness(), 1, Interest::READ).unwrap();
        let mut ready = Vec::new();
        tap.host_sends(&[1; 60]);
        tap.host_sends(&[2; 60]);
        epoll
            .wait(&mut ready, Some(Duration::from_secs(1)))
            .unwrap();
        assert_eq!(ready.len(), 1);

        let mut batch = frame_batch(1);
        tap.read(&mut batch).unwrap();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!((batch.len(), ready.len()), (1, 1), "one frame is left");

        batch.clear();
        tap.read(&mut batch).unwrap();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!((batch.len(), ready.len()), (1, 0));
    }

    #[test]
    fn a_datagram_reaches_the_socket_it_is_for() {
        let underlay = MemoryUnderlay::default();
        let (a, b) = (
            "192.0.2.1:8002".parse().unwrap(),
            "192.0.2.2:8002".parse().unwrap(),
        );
        let (from, to) = (underlay.bind(a).unwrap(), underlay.bind(b).unwrap());

        let sent = from.send(&[
            Departure {
                to: b,
                octets: b"aabbc",
                segment_octets: 2,
            },
            Departure::single("192.0.2.3:1".parse().unwrap(), b"nobody"),
        ]);

        assert_eq!(
            sent,
            Sent {
                datagrams: 3,
                unreachable: 1,
                ..Sent::default()
            }
        );
        let mut batch = datagram_batch(4);
        to.receive(&mut batch).unwrap();
        assert!(batch.filled().all(|slot| slot.meta.from == a));
        let contents: Vec<_> = batch
            .filled()
            .map(|mut slot| slot.content().to_vec())
            .collect();
        assert_eq!(contents, [b"aa".to_vec(), b"bb".to_vec(), b"c".to_vec()]);
    }
}
