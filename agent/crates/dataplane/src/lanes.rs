//! The packet threads: one takes frames from the TAPs to the underlay, one the other way.
//!
//! They block in epoll only, allocate nothing per packet, and never wait for
//! the thread that owns the core.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};

use cairn_device::clock;
use cairn_device::readiness::{Epoll, Interest, Ready};
use cairn_device::tap::{FrameBatch, frame_batch};
use cairn_device::udp::{Arrival, DatagramBatch, DatagramSocket, datagram_batch};
use cairn_engine::{Inbound, Outbound, Underlay, Verdict, Vni};

use crate::log;
use crate::outbox::Outbox;
use crate::plumbing::{Counters, Feed, Plumbing, Port};
use crate::slow::Submit;

/// Frames or datagrams taken from one descriptor before the next has its turn.
const BATCH: usize = 64;

/// The deepest call is a batch of 64 message headers; the rest is small.
const STACK_OCTETS: usize = 256 * 1024;

/// Token of the feed; TAPs and sockets have their place in the list.
const FEED: u64 = u64::MAX;

/// The two running threads.
pub struct Lanes {
    outward: (Arc<Feed>, JoinHandle<()>),
    inward: (Arc<Feed>, JoinHandle<()>),
}

impl Lanes {
    /// Starts both threads.
    pub fn start(
        outbound: Outbound,
        inbound: Inbound,
        submit: &Submit,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let outward = Outward {
            lane: Lane::new(submit, counters)?,
            outbound,
            frames: frame_batch(BATCH, 0, 0),
        };
        let inward = Inward {
            lane: Lane::new(submit, counters)?,
            inbound,
            datagrams: datagram_batch(BATCH),
        };
        Ok(Self {
            outward: (
                Arc::clone(&outward.lane.feed),
                spawn("outward", move || outward.run())?,
            ),
            inward: (
                Arc::clone(&inward.lane.feed),
                spawn("inward", move || inward.run())?,
            ),
        })
    }

    /// Lets both threads work on other TAPs and sockets.
    pub fn publish(&self, plumbing: &Arc<Plumbing>) {
        self.outward.0.publish(Arc::clone(plumbing));
        self.inward.0.publish(Arc::clone(plumbing));
    }

    /// Ends both threads; what they didn't read stays with the kernel.
    pub fn stop(self) {
        for (feed, thread) in [self.outward, self.inward] {
            feed.stop();
            // A thread that panicked has ended the process.
            let _ended = thread.join();
        }
    }
}

/// A packet thread that fails ends the process: half a data plane is none, and
/// the supervisor starts a whole one.
fn spawn(
    name: &'static str,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new()
        .name(name.into())
        .stack_size(STACK_OCTETS)
        .spawn(move || {
            if let Err(error) = run() {
                crate::die(&format!("the {name} packet thread failed: {error}"));
            }
        })
}

/// What both threads have.
struct Lane {
    feed: Arc<Feed>,
    plumbing: Arc<Plumbing>,
    epoll: Epoll,
    ready: Vec<Ready>,
    outbox: Outbox,
    submit: Submit,
    counters: Arc<Counters>,
}

impl Lane {
    fn new(submit: &Submit, counters: &Arc<Counters>) -> io::Result<Self> {
        let feed = Arc::new(Feed::new()?);
        let epoll = Epoll::new()?;
        epoll.add(std::os::fd::AsFd::as_fd(&feed.wake), FEED, Interest::READ)?;
        Ok(Self {
            feed,
            plumbing: Arc::default(),
            epoll,
            ready: Vec::with_capacity(BATCH),
            outbox: Outbox::new(Arc::clone(counters)),
            submit: submit.clone(),
            counters: Arc::clone(counters),
        })
    }

    /// Waits; returns whether the plumbing is to be renewed.
    fn wait(&mut self) -> io::Result<bool> {
        self.epoll.wait(&mut self.ready, None)?;
        Ok(self.ready.iter().any(|ready| ready.token == FEED))
    }
}

/// TAPs to underlay.
struct Outward {
    lane: Lane,
    outbound: Outbound,
    frames: FrameBatch,
}

impl Outward {
    fn run(mut self) -> io::Result<()> {
        loop {
            if self.lane.wait()? {
                let Some(plumbing) = self.lane.feed.take() else {
                    return Ok(());
                };
                self.connect(plumbing)?;
                continue;
            }
            for index in 0..self.lane.ready.len() {
                let at = self.lane.ready[index].token as usize;
                let Some((vni, port)) = self.lane.plumbing.ports.get(at).cloned() else {
                    continue;
                };
                self.carry(vni, &port);
            }
        }
    }

    fn connect(&mut self, plumbing: Arc<Plumbing>) -> io::Result<()> {
        for (_, port) in &self.lane.plumbing.ports {
            // A device that is gone took itself out of the set.
            let _gone = self.lane.epoll.remove(port.queue.readiness());
        }
        for (at, (_, port)) in plumbing.ports.iter().enumerate() {
            if !port.lost.load(Ordering::Acquire) {
                self.lane
                    .epoll
                    .add(port.queue.readiness(), at as u64, Interest::READ)?;
            }
        }
        self.lane.outbox.connect(plumbing.sockets.clone());
        self.lane.plumbing = plumbing;
        Ok(())
    }

    fn carry(&mut self, vni: Vni, port: &Port) {
        self.frames.clear();
        let read = port.queue.read(&mut self.frames);
        let now = clock::now();
        for mut frame in self.frames.filled() {
            if !frame.meta.is_plain() {
                self.lane
                    .counters
                    .unexpected_offload
                    .fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // The engine counts what it drops.
            let _counted = self.outbound.handle_frame(
                vni,
                frame.content(),
                now,
                &mut self.lane.outbox,
                &mut self.lane.submit,
            );
        }
        self.lane.outbox.flush();
        if let Err(error) = read {
            self.give_up(port, &error);
        }
    }

    /// The device is gone. The core's thread tells the agent; the next `apply` attaches anew.
    fn give_up(&mut self, port: &Port, error: &io::Error) {
        let _gone = self.lane.epoll.remove(port.queue.readiness());
        port.lost.store(true, Ordering::Release);
        log::warn("TAP lost", &[("tap", &port.name), ("cause", error)]);
        self.lane.submit.ring();
    }
}

/// Underlay to TAPs.
struct Inward {
    lane: Lane,
    inbound: Inbound,
    datagrams: DatagramBatch,
}

impl Inward {
    fn run(mut self) -> io::Result<()> {
        loop {
            if self.lane.wait()? {
                let Some(plumbing) = self.lane.feed.take() else {
                    return Ok(());
                };
                self.connect(plumbing)?;
                continue;
            }
            for index in 0..self.lane.ready.len() {
                let at = self.lane.ready[index].token as usize;
                let socket = self.lane.plumbing.sockets.present().nth(at).cloned();
                if let Some(socket) = socket {
                    self.carry(&*socket);
                }
            }
        }
    }

    fn connect(&mut self, plumbing: Arc<Plumbing>) -> io::Result<()> {
        for socket in self.lane.plumbing.sockets.present() {
            self.lane.epoll.remove(socket.readiness())?;
        }
        for (at, socket) in plumbing.sockets.present().enumerate() {
            self.lane
                .epoll
                .add(socket.readiness(), at as u64, Interest::READ)?;
        }
        self.lane.outbox.connect(plumbing.sockets.clone());
        self.lane.plumbing = plumbing;
        Ok(())
    }

    fn carry(&mut self, socket: &dyn DatagramSocket) {
        self.datagrams.clear();
        let counters = &self.lane.counters;
        if socket.receive(&mut self.datagrams).is_err() {
            // What the network reported of an earlier datagram; the socket goes on.
            counters.receive_errors.fetch_add(1, Ordering::Relaxed);
        }
        let now = clock::now();
        for mut slot in self.datagrams.filled() {
            let Arrival {
                from,
                segment_octets,
            } = slot.meta;
            let mut rest = slot.content();
            // At least once: an empty datagram is one, too.
            loop {
                let datagram;
                (datagram, rest) = rest.split_at_mut(segment_octets.min(rest.len()));
                counters.received.fetch_add(1, Ordering::Relaxed);
                let verdict =
                    self.inbound
                        .handle_datagram(from, datagram, now, &mut self.lane.submit);
                deliver(
                    verdict,
                    &self.lane.plumbing,
                    counters,
                    &mut self.lane.outbox,
                );
                if rest.is_empty() || segment_octets == 0 {
                    break;
                }
            }
        }
        self.lane.outbox.flush();
    }
}

fn deliver(verdict: Verdict<'_>, plumbing: &Plumbing, counters: &Counters, outbox: &mut Outbox) {
    match verdict {
        Verdict::Frame { vni, frame } => match plumbing.port(vni) {
            Some(port) => port.deliver(frame),
            None => {
                counters.no_tap.fetch_add(1, Ordering::Relaxed);
            }
        },
        Verdict::Reply(reply) => outbox.send(reply.to, &reply.datagram),
        Verdict::Consumed | Verdict::Dropped(_) => {}
    }
}
