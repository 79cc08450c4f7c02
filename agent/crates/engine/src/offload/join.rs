//! Frames that belong together, joined into superframes for one write to the TAP.

use super::content::{Content, MOST_SEGMENTS};
use super::layout::{Layout, Transport};
use super::vnet::VnetHeader;
use crate::ids::Vni;

/// A frame that was opened.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Its vSubnet.
    pub vni: Vni,
    /// Our index of the session that it came by.
    pub session: u32,
    /// The counter of its datagram.
    pub counter: u64,
    /// What it is; not a bundle.
    pub content: Content,
    /// The frame.
    pub frame: &'a [u8],
}

/// Where joined frames go.
pub trait Host {
    /// Takes a run of at least one frame for the TAP of a vSubnet.
    fn take(&mut self, run: &Run<'_, '_>);

    /// Takes one whole frame that came by no session.
    fn take_frame(&mut self, vni: Vni, frame: &[u8]) {
        let whole = Incoming {
            vni,
            session: 0,
            counter: 0,
            content: Content::Whole,
            frame,
        };
        let head = Head {
            first: whole,
            layout: None,
            counter: 0,
            index: 0,
            closed: true,
            payload: 0,
        };
        self.take(&Run {
            head: &head,
            frames: &[frame],
        });
    }
}

/// Takes each frame by itself, as the far kernel would make them of a superframe.
impl Host for Vec<(Vni, Vec<u8>)> {
    fn take(&mut self, run: &Run<'_, '_>) {
        let frames = run.frames().map(|(_, frame)| (run.vni(), frame.to_vec()));
        self.extend(frames);
    }
}

/// Frames that can be one superframe: the segments of a train, or equal UDP datagrams of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Run<'r, 'a> {
    head: &'r Head<'a>,
    frames: &'r [&'a [u8]],
}

/// What a run is, beside its frames.
#[derive(Debug)]
struct Head<'a> {
    first: Incoming<'a>,
    /// Where its headers are; `None` where nothing can be joined to it.
    layout: Option<Layout>,
    counter: u64,
    index: u8,
    /// Nothing more is joined to it: a shorter frame came, or nothing may be.
    closed: bool,
    payload: usize,
}

impl<'a> Head<'a> {
    /// Of a run of one frame; `None` if its checksum isn't where it is said to be.
    fn new(first: Incoming<'a>) -> Option<Self> {
        let (layout, index) = match first.content {
            Content::Whole => (None, 0),
            Content::Bundle => return None,
            Content::Partial {
                transport,
                start,
                index,
            } => (
                Some(Layout::of(first.frame, usize::from(start), transport)?),
                index,
            ),
        };
        let payload = layout.map_or(0, |layout| first.frame.len() - layout.headers);
        // Linux (6.18) takes destination options for the TCP header when it forwards a superframe,
        // finds it too big and drops it.
        let alone = layout.is_none_or(|layout| layout.has_extensions());
        Some(Self {
            first,
            layout,
            counter: first.counter,
            index,
            closed: payload == 0 || alone,
            payload,
        })
    }

    /// Notes a frame that follows if it continues the run. Its headers then need no further
    /// look: only those of the first frame reach the host, or they are the same.
    fn join(&mut self, next: &Incoming<'a>) -> bool {
        let Some(layout) = self.layout.filter(|layout| self.continues(layout, next)) else {
            return false;
        };
        let payload = next.frame.len() - layout.headers;
        self.closed = next.frame.len() < self.first.frame.len();
        self.payload += payload;
        self.counter = next.counter;
        self.index = self.index.wrapping_add(1);
        true
    }

    fn continues(&self, layout: &Layout, next: &Incoming<'_>) -> bool {
        let first = &self.first;
        !self.closed
            && first.session == next.session
            && next.frame.len() > layout.headers
            && next.frame.len() <= first.frame.len()
            && self.payload + next.frame.len() - layout.headers <= layout.most_payload()
            // Each copy to a group counts against the storm limit.
            && first.frame[0] & 1 == 0
            && (self.is_next_of_train(layout, next) || is_same_flow(layout, first, next))
    }

    fn is_next_of_train(&self, layout: &Layout, next: &Incoming<'_>) -> bool {
        let Content::Partial {
            transport,
            start,
            index,
        } = next.content
        else {
            return false;
        };
        let words = layout.start + 12;
        index > 0
            && index == self.index + 1
            && next.counter == self.counter + 1
            && transport == layout.transport
            && usize::from(start) == layout.start
            && (transport == Transport::Udp
                || next.frame[words] >> 4 == self.first.frame[words] >> 4)
    }
}

impl<'a> Run<'_, 'a> {
    /// The vSubnet.
    pub fn vni(&self) -> Vni {
        self.head.first.vni
    }

    /// How many frames it has.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether its frames are UDP's, as far as that matters.
    pub fn is_udp(&self) -> bool {
        self.head
            .layout
            .is_some_and(|layout| layout.transport == Transport::Udp)
    }

    /// A run has at least one frame.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frames one by one, each with its header.
    pub fn frames(&self) -> impl Iterator<Item = (VnetHeader, &'a [u8])> {
        let header = self.head.layout.map_or_else(VnetHeader::default, |layout| {
            partial(&layout, VnetHeader::WHOLE, 0)
        });
        self.frames.iter().map(move |frame| (header, *frame))
    }

    /// The same as one superframe: its header and its frame headers, which are written to
    /// `room`, and the payloads that follow them. `None` for a run of one.
    pub fn superframe<'r>(
        &self,
        room: &'r mut [u8; MOST_HEADERS],
    ) -> Option<(VnetHeader, &'r [u8], impl Iterator<Item = &'a [u8]>)> {
        let layout = self.head.layout.filter(|_| self.frames.len() > 1)?;
        let first = self.head.first.frame;
        let headers = room.get_mut(..layout.headers)?;
        headers.copy_from_slice(&first[..layout.headers]);
        layout.take_last_flags(headers, self.frames.last()?);
        let size = first.len() - layout.headers;
        layout.set_payload(headers, size, self.head.payload);
        let kind = match (layout.transport, layout.is_v6) {
            (Transport::Udp, _) => VnetHeader::UDP,
            (Transport::Tcp, false) => VnetHeader::TCP4,
            (Transport::Tcp, true) => VnetHeader::TCP6,
        };
        let payloads = self
            .frames
            .iter()
            .map(move |frame| &frame[layout.headers..]);
        Some((partial(&layout, kind, size), headers, payloads))
    }
}

/// The longest headers: 255 octets before the transport, 60 of TCP.
pub const MOST_HEADERS: usize = 315;

fn partial(layout: &Layout, gso_type: u8, size: usize) -> VnetHeader {
    VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        gso_type,
        hdr_len: layout.headers as u16,
        gso_size: size as u16,
        csum_start: layout.start as u16,
        csum_offset: layout.transport.checksum_offset() as u16,
    }
}

/// Whether two UDP frames that are in no train differ in identification, lengths, checksums
/// and payload only.
fn is_same_flow(layout: &Layout, first: &Incoming<'_>, next: &Incoming<'_>) -> bool {
    if layout.transport != Transport::Udp
        || first.content != next.content
        || !matches!(next.content, Content::Partial { index: 0, .. })
    {
        return false;
    }
    let (a, b, ip) = (first.frame, next.frame, layout.network);
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let ports_end = layout.start + 4;
    if layout.is_v6 {
        same(0, ip + 4) && same(ip + 6, ports_end)
    } else {
        same(0, ip + 2) && same(ip + 6, ip + 10) && same(ip + 12, ports_end)
    }
}

/// Collects frames into runs and hands each to the host when it ends.
pub struct Coalescer<'a, 'h, H> {
    host: &'h mut H,
    head: Option<Head<'a>>,
    /// In place, because a run is too large to be handed around for each frame.
    frames: [&'a [u8]; MOST_SEGMENTS],
    count: usize,
}

impl<'a, 'h, H: Host> Coalescer<'a, 'h, H> {
    /// A coalescer with no run.
    pub fn new(host: &'h mut H) -> Self {
        Self {
            host,
            head: None,
            frames: [&[]; MOST_SEGMENTS],
            count: 0,
        }
    }

    /// Adds a frame to the run if it continues it.
    pub fn join(&mut self, next: &Incoming<'a>) -> bool {
        let Some(head) = &mut self.head else {
            return false;
        };
        if self.count == MOST_SEGMENTS || !head.join(next) {
            return false;
        }
        self.frames[self.count] = next.frame;
        self.count += 1;
        true
    }

    /// Ends the run and starts another; false if the frame's checksum isn't where it is said
    /// to be, and then nothing happened.
    #[must_use]
    pub fn start(&mut self, first: Incoming<'a>) -> bool {
        let Some(head) = Head::new(first) else {
            return false;
        };
        self.finish();
        self.frames[0] = head.first.frame;
        self.count = 1;
        self.head = Some(head);
        true
    }

    /// Ends the run; call it at the end of a batch.
    pub fn finish(&mut self) {
        if let Some(head) = self.head.take() {
            self.host.take(&Run {
                head: &head,
                frames: &self.frames[..self.count],
            });
        }
    }
}
