//! Which TAPs and sockets the packet threads work on: a value, replaced as a whole.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_device::clock;
use cairn_device::readiness::EventFd;
use cairn_device::tap::{MOST_PARTS, OutgoingFrame, TapOffloads, TapQueue, Written};
use cairn_device::udp::{DatagramSocket, Sent};
use cairn_engine::offload::{Host, MOST_HEADERS, Run, VnetHeader};
use cairn_engine::switch::is_loop_probe;
use cairn_engine::{Gate, Vni};

/// A TAP and what is known of it.
pub struct Port<T: ?Sized = dyn TapQueue> {
    /// Name of the device.
    pub name: String,
    /// Set when the device is gone; the next `apply` attaches anew.
    pub lost: AtomicBool,
    /// Set when the loss was told.
    pub reported: AtomicBool,
    /// What the device gives and is given; all off for a queue that isn't asked.
    pub offloads: TapOffloads,
    /// Superframes that the device refused in a row, each then written frame by frame.
    refused_in_a_row: AtomicU32,
    /// Frames that the device took or refused.
    pub written: WrittenCounters,
    /// The queue of frames.
    pub queue: T,
}

/// A device that refused so many superframes and took none gets no more of them.
const REFUSALS: u32 = 16;

impl<T: TapQueue> Port<T> {
    /// A port on a queue that works.
    pub fn new(name: impl Into<String>, queue: T, offloads: TapOffloads) -> Self {
        Self {
            name: name.into(),
            lost: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            offloads,
            refused_in_a_row: AtomicU32::new(0),
            written: WrittenCounters::default(),
            queue,
        }
    }
}

impl Port {
    /// Whether the device, asked for superframes, has refused them.
    pub fn refuses_superframes(&self) -> bool {
        self.refused_in_a_row.load(Ordering::Relaxed) >= REFUSALS
    }

    /// Writes frames that came from a peer, as one superframe if they are one. Returns whether
    /// the device has just been found to refuse superframes.
    fn deliver(&self, run: &Run<'_, '_>) -> bool {
        let mut room = [0; MOST_HEADERS];
        if self.takes_superframes(run)
            && let Some((header, headers, payloads)) = run.superframe(&mut room)
        {
            let written = self.write_superframe(header, headers, payloads);
            if written.refused == 0 {
                self.refused_in_a_row.store(0, Ordering::Relaxed);
                self.written.count(Written {
                    frames: written.frames * run.len() as u64,
                    ..written
                });
                return false;
            }
            let refused = self.refused_in_a_row.fetch_add(1, Ordering::Relaxed);
            self.write_singly(run);
            return refused + 1 == REFUSALS;
        }
        self.write_singly(run);
        false
    }

    fn takes_superframes(&self, run: &Run<'_, '_>) -> bool {
        let wanted = if run.is_udp() {
            self.offloads.udp_segmentation
        } else {
            self.offloads.segmentation
        };
        wanted && !self.refuses_superframes()
    }

    fn write_superframe<'p>(
        &self,
        header: VnetHeader,
        headers: &'p [u8],
        payloads: impl Iterator<Item = &'p [u8]>,
    ) -> Written {
        let mut parts: [&[u8]; MOST_PARTS] = [&[]; MOST_PARTS];
        parts[0] = headers;
        let mut count = 1;
        for (part, payload) in parts[1..].iter_mut().zip(payloads) {
            *part = payload;
            count += 1;
        }
        let parts = &parts[..count];
        self.queue.write(&[OutgoingFrame { header, parts }])
    }

    fn write_singly(&self, run: &Run<'_, '_>) {
        for (header, frame) in run.frames() {
            let parts = &[frame][..];
            let written = self.queue.write(&[OutgoingFrame { header, parts }]);
            self.written.count(written);
        }
    }
}

/// The two sockets; a family that the host lacks has none.
#[derive(Clone, Default)]
pub struct Sockets {
    /// IPv4.
    pub v4: Option<Arc<dyn DatagramSocket>>,
    /// IPv6.
    pub v6: Option<Arc<dyn DatagramSocket>>,
}

impl Sockets {
    /// The socket that reaches `to`.
    pub fn towards(&self, to: SocketAddr) -> Option<&dyn DatagramSocket> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.as_deref()
    }

    /// Those that there are.
    pub fn present(&self) -> impl Iterator<Item = &Arc<dyn DatagramSocket>> {
        [&self.v4, &self.v6].into_iter().flatten()
    }
}

/// Everything that the packet threads read from and write to.
#[derive(Clone, Default)]
pub struct Plumbing {
    /// Sorted by VNI.
    pub ports: Vec<(Vni, Arc<Port>)>,
    /// The underlay.
    pub sockets: Sockets,
    /// Of the vSubnets whose gateway this node is, sorted by VNI.
    pub gates: Vec<(Vni, Arc<Gate>)>,
}

impl Plumbing {
    /// The TAP of a vSubnet.
    pub fn port(&self, vni: Vni) -> Option<&Arc<Port>> {
        let at = self
            .ports
            .binary_search_by_key(&vni, |(vni, _)| *vni)
            .ok()?;
        Some(&self.ports[at].1)
    }

    /// The gate of a vSubnet whose gateway this node is.
    pub fn gate(&self, vni: Vni) -> Option<&Arc<Gate>> {
        let at = self
            .gates
            .binary_search_by_key(&vni, |(vni, _)| *vni)
            .ok()?;
        Some(&self.gates[at].1)
    }

    /// Whether the LAN of a vSubnet may be sent to at this very moment. The engine has asked
    /// before the batch, and this thread may have been held up since.
    fn may_deliver(&self, vni: Vni) -> bool {
        self.gate(vni).is_none_or(|gate| gate.is_open(clock::now()))
    }

    /// Writes a frame of our own to a TAP; one that is gone has nobody to tell.
    pub fn deliver(&self, vni: Vni, frame: &[u8]) {
        if !self.may_deliver(vni) {
            return;
        }
        if let Some(port) = self.port(vni) {
            let header = VnetHeader::default();
            let parts = &[frame][..];
            let written = port.queue.write(&[OutgoingFrame { header, parts }]);
            port.written.count(written);
        }
    }
}

/// Brings runs of frames to their TAPs.
pub struct Delivery<'p> {
    plumbing: &'p Plumbing,
    counters: &'p Counters,
    /// A device was found to refuse superframes.
    pub fell_back: bool,
}

impl<'p> Delivery<'p> {
    /// A delivery to these TAPs.
    pub fn new(plumbing: &'p Plumbing, counters: &'p Counters) -> Self {
        Self {
            plumbing,
            counters,
            fell_back: false,
        }
    }
}

impl Host for Delivery<'_> {
    fn take(&mut self, run: &Run<'_, '_>) {
        if !self.plumbing.may_deliver(run.vni()) && !is_probe(run) {
            let frames = run.len() as u64;
            self.counters.fenced.fetch_add(frames, Ordering::Relaxed);
            return;
        }
        match self.plumbing.port(run.vni()) {
            Some(port) => self.fell_back |= port.deliver(run),
            None => {
                let frames = run.len() as u64;
                self.counters.no_tap.fetch_add(frames, Ordering::Relaxed);
            }
        }
    }
}

fn is_probe(run: &Run<'_, '_>) -> bool {
    run.frames().all(|(_, frame)| is_loop_probe(frame))
}

/// A batch takes less than a millisecond of a core; the rest is for cores that are busy.
const LONGEST_BATCH: Duration = Duration::from_millis(50);
const BETWEEN_LOOKS: Duration = Duration::from_micros(50);

/// How a packet thread learns of a new [`Plumbing`], or that it must end.
pub struct Feed {
    newest: Mutex<Arc<Plumbing>>,
    stop: AtomicBool,
    /// Odd while the thread has packets in its hands.
    batches: AtomicU64,
    /// Readable when something is new.
    pub wake: EventFd,
}

impl Feed {
    /// A feed that has nothing connected.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            newest: Mutex::default(),
            stop: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            wake: EventFd::new()?,
        })
    }

    /// Publishes; the thread takes it up when it next looks for packets.
    pub fn publish(&self, plumbing: Arc<Plumbing>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = plumbing;
        self.wake.signal();
    }

    /// The thread takes packets; it looks at the gates after this.
    pub fn begin_batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        // Either the thread sees a gate closed, or whoever closed it sees the batch.
        fence(Ordering::SeqCst);
    }

    /// The thread has sent them.
    pub fn end_batch(&self) {
        self.batches.fetch_add(1, Ordering::Release);
    }

    /// Waits for the end of the batch under way, at most [`LONGEST_BATCH`].
    pub fn wait_for_batch(&self) {
        fence(Ordering::SeqCst);
        let begun = self.batches.load(Ordering::Acquire);
        let start = Instant::now();
        while begun % 2 == 1
            && self.batches.load(Ordering::Acquire) == begun
            && start.elapsed() < LONGEST_BATCH
        {
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.signal();
    }

    /// Clears the wake and returns the newest, or nothing if the thread must end.
    pub fn take(&self) -> Option<Arc<Plumbing>> {
        self.wake.clear();
        if self.stop.load(Ordering::Acquire) {
            return None;
        }
        Some(Arc::clone(
            &self.newest.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident counts $value:ident { $($field:ident => $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name { $($field: AtomicU64),* }

        impl $name {
            /// Adds what one call did.
            pub fn count(&self, value: $value) {
                $(if value.$field != 0 {
                    self.$field.fetch_add(value.$field, Ordering::Relaxed);
                })*
            }

            /// Reads all of them, with their names in `stats`.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$field.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters! {
    /// What became of frames written to a TAP.
    WrittenCounters counts Written {
        frames => "tap_written",
        unavailable => "tap_unavailable",
        refused => "tap_refused",
    }
}

counters! {
    /// What became of datagrams sent.
    SentCounters counts Sent {
        datagrams => "udp_sent",
        no_buffer => "udp_no_buffer",
        too_big => "udp_too_big",
        unreachable => "udp_unreachable",
        filtered => "udp_filtered",
        failed => "udp_failed",
        fallbacks => "udp_train_fallbacks",
    }
}

/// What the threads count beside the engine.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams sent, by outcome.
    pub sent: SentCounters,
    /// Datagrams for which there is no socket of their family.
    pub no_socket: AtomicU64,
    /// Datagrams received.
    pub received: AtomicU64,
    /// Errors that a socket reported when reading.
    pub receive_errors: AtomicU64,
    /// Frames for a vSubnet whose TAP is gone.
    pub no_tap: AtomicU64,
    /// Frames and datagrams of a gateway that were ready when its gate closed.
    pub fenced: AtomicU64,
}

impl Counters {
    /// Reads all of them, with their names in `stats`.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        let mut named = self.sent.named();
        named.extend(
            [
                ("udp_no_socket", &self.no_socket),
                ("udp_received", &self.received),
                ("udp_receive_errors", &self.receive_errors),
                ("tap_missing", &self.no_tap),
                ("gate_closed", &self.fenced),
            ]
            .map(|(name, counter)| (name, counter.load(Ordering::Relaxed))),
        );
        named
    }
}
