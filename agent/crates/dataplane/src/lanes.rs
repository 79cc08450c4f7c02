//! The packet threads: one takes frames from the TAPs to the underlay, one the other way.
//! There are several such pairs where the host has cores for them. A TAP is read by one thread,
//! and what a peer sends comes to one, so that every flow keeps its order. (The kernel would
//! spread a TAP's flows over queues, but puts fragments elsewhere than the rest of their flow.)
//!
//! They block in epoll only, allocate nothing per packet, and never wait for
//! the thread that owns the core.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use cairn_device::clock;
use cairn_device::readiness::{Epoll, Interest, Ready};
use cairn_device::tap::{FrameBatch, frame_batch};
use cairn_device::udp::{Arrival, DatagramBatch, DatagramSocket, datagram_batch};
use cairn_engine::offload::Coalescer;
use cairn_engine::{Core, Inbound, Outbound, TapFrame, Time, Verdict, Vni};

use crate::log;
use crate::outbox::Outbox;
use crate::plumbing::{Counters, Delivery, Feed, Plumbing, Port};
use crate::slow::Submit;

/// Frames or datagrams taken from one descriptor before the next has its turn.
const BATCH: usize = 64;

/// How many frames or datagrams to take at once: one after a wait, so that it goes on before
/// anybody looks whether there is another, and more while they come faster than they go.
#[derive(Clone, Copy, Debug)]
struct Appetite {
    most: usize,
    /// When the last ones had gone on.
    done: Time,
}

impl Appetite {
    const GROWTH: usize = 8;
    /// Whoever slept and was woken was away for longer.
    const NO_WAIT: Duration = Duration::from_micros(3);

    fn new() -> Self {
        Self {
            most: 1,
            done: Time::ZERO,
        }
    }

    /// How many to take now.
    fn most(&mut self, now: Time) -> usize {
        self.most = if now.since(self.done) < Self::NO_WAIT {
            (self.most * Self::GROWTH).min(BATCH)
        } else {
            1
        };
        self.most
    }
}

/// Frames of a read that brought superframes.
const FEW: usize = 2;

/// The deepest call is a batch of 64 message headers; the rest is small.
const STACK_OCTETS: usize = 256 * 1024;

/// Token of the feed; TAPs and sockets have their place in the list.
const FEED: u64 = u64::MAX;

/// The most pairs of threads: a node is there for its own programs first.
const MOST_PAIRS: usize = 4;

/// How many pairs of threads there are to be; a test setting.
const PAIRS: &str = "CAIRN_TEST_THREAD_PAIRS";

/// A pair of threads for every two cores.
pub fn pairs() -> usize {
    let asked = std::env::var(PAIRS).ok().and_then(|text| text.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    asked.unwrap_or(cores / 2).clamp(1, MOST_PAIRS)
}

/// Which TAPs a pair reads.
#[derive(Clone, Copy, Debug)]
struct Share {
    number: usize,
    pairs: usize,
}

impl Share {
    /// Depends on nothing else, so that no TAP is ever passed from one thread to another.
    fn has(self, vni: Vni) -> bool {
        vni as usize % self.pairs == self.number
    }
}

/// Starts so many pairs of threads.
pub fn start(
    pairs: usize,
    core: &Core,
    submit: &Submit,
    counters: &Arc<Counters>,
) -> io::Result<Vec<Lanes>> {
    (0..pairs)
        .map(|number| {
            let share = Share { number, pairs };
            Lanes::start(share, core.outbound(), core.inbound(), submit, counters)
        })
        .collect()
}

/// A running pair of threads.
pub struct Lanes {
    outward: (Arc<Feed>, JoinHandle<()>),
    inward: (Arc<Feed>, JoinHandle<()>),
}

impl Lanes {
    /// Starts both threads.
    fn start(
        share: Share,
        outbound: Outbound,
        inbound: Inbound,
        submit: &Submit,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let outward = Outward {
            lane: Lane::new(submit, counters)?,
            share,
            outbound,
            frames: frame_batch(BATCH),
            appetite: Appetite::new(),
        };
        let inward = Inward {
            lane: Lane::new(submit, counters)?,
            inbound,
            datagrams: datagram_batch(BATCH),
            appetite: Appetite::new(),
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

    /// Waits until what both threads had in hand is sent, at most for a moment: a thread that
    /// the kernel doesn't run asks again before it sends.
    pub fn wait_for_batches(&self) {
        for (feed, _) in [&self.outward, &self.inward] {
            feed.wait_for_batch();
        }
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

    /// Sends what was collected; the core's thread tells of an offload that failed.
    fn flush(&mut self) {
        self.outbox.flush();
        if std::mem::take(&mut self.outbox.fell_back) {
            self.submit.ring();
        }
    }

    /// Waits; returns whether the plumbing is to be renewed.
    fn wait(&mut self) -> io::Result<bool> {
        self.epoll.wait(&mut self.ready, None)?;
        Ok(self.ready.iter().any(|ready| ready.token == FEED))
    }
}

/// Packets in a thread's hands: whoever closes a gate waits for their end. Only where there is a
/// gate, so that others pay nothing.
struct Batch(Option<Arc<Feed>>);

impl Batch {
    fn begin(lane: &Lane) -> Self {
        let feed = (!lane.plumbing.gates.is_empty()).then(|| Arc::clone(&lane.feed));
        if let Some(feed) = &feed {
            feed.begin_batch();
        }
        Self(feed)
    }

    fn end(self) {
        if let Some(feed) = self.0 {
            feed.end_batch();
        }
    }
}

/// TAPs to underlay.
struct Outward {
    lane: Lane,
    share: Share,
    outbound: Outbound,
    frames: FrameBatch,
    appetite: Appetite,
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
        for (at, (vni, port)) in plumbing.ports.iter().enumerate() {
            if self.share.has(*vni) && !port.lost.load(Ordering::Acquire) {
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
        let gate = self.lane.plumbing.gate(vni).cloned();
        let batch = Batch::begin(&self.lane);
        let now = clock::now();
        // What is let through a closed gate goes out whatever becomes of it.
        self.lane
            .outbox
            .fence(gate.filter(|gate| gate.is_open(now)));
        self.frames.clear_for(self.appetite.most(now));
        let read = port.queue.read(&mut self.frames);
        // A superframe mostly comes alone; setting up room for 64 would cost as much as a segment.
        if self.frames.len() <= FEW {
            self.hand_over::<FEW>(vni, now);
        } else {
            self.hand_over::<BATCH>(vni, now);
        }
        self.lane.flush();
        batch.end();
        self.appetite.done = clock::now();
        if let Err(error) = read {
            self.give_up(port, &error);
        }
    }

    /// Gives the engine what was read, at most `N` frames.
    fn hand_over<const N: usize>(&mut self, vni: Vni, now: Time) {
        let mut filled = self.frames.filled();
        let mut count = 0;
        let mut frames: [TapFrame<'_>; N] = std::array::from_fn(|_| {
            let Some(frame) = filled.next() else {
                return TapFrame::default();
            };
            count += 1;
            TapFrame::new(frame.meta, frame.into_content())
        });
        let mut delivery = Delivery::new(&self.lane.plumbing, &self.lane.counters);
        // The engine counts what it drops.
        let _counted = self.outbound.handle_frames(
            vni,
            &mut frames[..count],
            now,
            &mut self.lane.outbox,
            &mut self.lane.submit,
            &mut delivery,
        );
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
    appetite: Appetite,
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
        let batch = Batch::begin(&self.lane);
        let now = clock::now();
        self.datagrams.clear_for(self.appetite.most(now));
        let counters = &self.lane.counters;
        if socket.receive(&mut self.datagrams).is_err() {
            // What the network reported of an earlier datagram; the socket goes on.
            counters.receive_errors.fetch_add(1, Ordering::Relaxed);
        }
        let mut receiving = self.inbound.begin(now);
        let lane = &mut self.lane;
        let counters = &lane.counters;
        let mut received = 0;
        let mut delivery = Delivery::new(&lane.plumbing, counters);
        let mut frames = Coalescer::new(&mut delivery);
        for slot in self.datagrams.filled() {
            let Arrival {
                from,
                segment_octets,
            } = slot.meta;
            let mut rest = slot.into_content();
            // At least once: an empty datagram is one, too.
            loop {
                let datagram;
                (datagram, rest) = rest.split_at_mut(segment_octets.min(rest.len()));
                received += 1;
                let verdict =
                    receiving.handle_datagram(from, datagram, &mut lane.submit, &mut frames);
                if let Verdict::Reply(reply) = verdict {
                    lane.outbox.send(reply.to, &reply.datagram);
                }
                if rest.is_empty() || segment_octets == 0 {
                    break;
                }
            }
        }
        drop(receiving);
        frames.finish();
        counters.received.fetch_add(received, Ordering::Relaxed);
        if delivery.fell_back {
            lane.submit.ring();
        }
        batch.end();
        self.lane.flush();
        self.appetite.done = clock::now();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use cairn_device::entropy::SystemEntropy;
    use cairn_device::memory::{MemorySocket, MemoryTap, MemoryUnderlay};

    use super::*;
    use crate::desired;
    use crate::offloads::Offloads;
    use crate::plumbing::Sockets;
    use crate::slow::{self, Collect};

    const HOSTS: [&str; 2] = ["192.0.2.1:8002", "192.0.2.2:8002"];
    const PRIVATE: [&str; 2] = [
        "EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8=",
        "MDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk8=",
    ];

    /// Of [`PRIVATE`] (RFC 7748).
    const PUBLIC: [&str; 2] = [
        "2J47rXlDfb7Z+ENBgwT0YP8Fx/6B/kqVd6gEy5Nn/2Y=",
        "NOQtSvXvlKB6OoQgG4idTNGnQ8snsRtqEEOKj+uOWEc=",
    ];

    #[test]
    fn frames_cross_two_pairs_of_threads_in_order() {
        let underlay = MemoryUnderlay::default();
        let (mut a, mut b) = (Node::new(0, &underlay), Node::new(1, &underlay));
        for number in 0..100 {
            assert!(a.tap.queue.host_sends(&frame(number)));
        }

        // The first 64 wait for the session; all come, and none before another.
        let mut received = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while received.len() < 64 && Instant::now() < deadline {
            a.turn();
            b.turn();
            received.extend(std::iter::from_fn(|| b.tap.queue.host_receives()));
        }

        let numbers: Vec<u8> = received.iter().map(|frame| frame[14]).collect();
        assert!(numbers.len() >= 64, "{numbers:?}");
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert_eq!(received[0], frame(numbers[0]));
        a.lanes.stop();
        b.lanes.stop();
    }

    #[test]
    fn a_question_for_a_bound_address_is_answered_to_the_tap() {
        let underlay = MemoryUnderlay::default();
        let a = Node::new(0, &underlay);
        let question = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 0, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 0, 10, 7, 0, 0, 0, 0, 0, 0, 0, 0, 10, 7, 0, 1],
        ]
        .concat();
        assert!(a.tap.queue.host_sends(&question));

        let deadline = Instant::now() + Duration::from_secs(10);
        let mut answer = None;
        while answer.is_none() && Instant::now() < deadline {
            answer = a.tap.queue.host_receives();
        }

        let answer = answer.expect("an answer");
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1]);
        assert_eq!(answer[20..22], [0, 2], "a reply");
        let counted = a.core.stats(clock::now()).vsubnets[0].counters.clone();
        assert_eq!(counted, [("arp_answered", 1)]);
        a.lanes.stop();
    }

    #[test]
    fn one_is_taken_after_a_wait_and_more_while_they_come_without_one() {
        let mut appetite = Appetite::new();
        let at = |micros: u64| Time::from_nanos(micros * 1000);
        assert_eq!(appetite.most(at(100)), 1);
        for expected in [8, 64, 64] {
            appetite.done = at(200);
            assert_eq!(appetite.most(at(201)), expected);
        }
        appetite.done = at(200);
        assert_eq!(appetite.most(at(210)), 1);
    }

    #[test]
    fn a_packet_thread_that_fails_ends_the_process() {
        const INSIDE: &str = "CAIRN_TEST_FAILING_THREAD";
        if std::env::var_os(INSIDE).is_some() {
            let thread = spawn("broken", || Err(io::Error::other("no more\nwork"))).unwrap();
            thread.join().unwrap();
            return;
        }
        let name = "lanes::tests::a_packet_thread_that_fails_ends_the_process";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("error: the broken packet thread failed: no more work\n"),
            "{text}"
        );
    }

    struct Node {
        core: Core,
        collect: Collect,
        lanes: Lanes,
        tap: Arc<Port<MemoryTap>>,
        outbox: Outbox,
    }

    impl Node {
        fn new(number: usize, underlay: &MemoryUnderlay) -> Self {
            let mut core = Core::new(Arc::new(SystemEntropy::new()));
            let (submit, collect) = slow::queue().unwrap();
            let counters = Arc::new(Counters::default());
            let lanes = start(1, &core, &submit, &counters).unwrap().remove(0);
            let tap = Arc::new(Port::new(
                "t",
                MemoryTap::new().unwrap(),
                Offloads::wanted().tap,
            ));
            let socket: MemorySocket = underlay.bind(HOSTS[number].parse().unwrap()).unwrap();
            let sockets = Sockets {
                v4: Some(Arc::new(socket)),
                v6: None,
            };
            let ports: Vec<(Vni, Arc<Port>)> = vec![(7, Arc::clone(&tap) as Arc<Port>)];
            let mut outbox = Outbox::new(counters);
            outbox.connect(sockets.clone());
            core.apply(desired::read(&state(number)).unwrap(), clock::now())
                .unwrap();
            lanes.publish(&Arc::new(Plumbing {
                ports,
                sockets,
                gates: Vec::new(),
            }));
            Self {
                core,
                collect,
                lanes,
                tap,
                outbox,
            }
        }

        /// What the control thread does.
        fn turn(&mut self) {
            self.collect.silence();
            let now = clock::now();
            while let Some(message) = self.collect.take() {
                self.core.handle(message, now);
            }
            self.core.handle_timeout(now);
            while let Some(transmit) = self.core.poll_transmit() {
                self.outbox.send(transmit.to, &transmit.datagram);
            }
            self.outbox.flush();
            while self.core.poll_event().is_some() {}
        }
    }

    fn state(number: usize) -> String {
        let other = 1 - number;
        let id = |number: usize| format!("00000000-0000-4000-8000-{number:012}");
        let mac = |number: usize| format!("02:00:00:00:00:{number:02x}");
        format!(
            r#"{{"cluster_id": "{}", "node": {{"id": "{}", "private_key": "{}"}},
                 "vsubnets": [{{"vni": 7, "tap": "t", "macs": ["{}"],
                   "ips": ["10.7.0.{number}"],
                   "peers": [{{"id": "{}", "public_key": "{}", "macs": ["{}"],
                               "ips": ["10.7.0.{other}"], "endpoints": ["{}"]}}]}}]}}"#,
            id(9),
            id(number),
            PRIVATE[number],
            mac(number),
            id(other),
            PUBLIC[other],
            mac(other),
            HOSTS[other],
        )
    }

    fn frame(number: u8) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x81, 0x37, number];
        frame.resize(60, 0);
        frame
    }
}
