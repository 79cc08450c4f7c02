//! A superframe divided into frames that fit a datagram.

use super::content::{Content, MOST_SEGMENTS};
use super::layout::{Layout, Transport};
use super::vnet::VnetHeader;

/// How a superframe is divided; the frame itself isn't touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    layout: Layout,
    payload: usize,
    size: usize,
}

impl Split {
    /// Checks a superframe; `None` if its header and its octets disagree.
    pub fn new(frame: &[u8], header: VnetHeader) -> Option<Self> {
        let transport = Transport::of_checksum_offset(header.csum_offset)?;
        let layout = Layout::of(frame, usize::from(header.csum_start), transport)?;
        let expected = match (transport, layout.is_v6) {
            (Transport::Udp, _) => VnetHeader::UDP,
            (Transport::Tcp, false) => VnetHeader::TCP4,
            (Transport::Tcp, true) => VnetHeader::TCP6,
        };
        let right = header.gso_type & !VnetHeader::ECN == expected
            && header.flags & VnetHeader::NEEDS_CHECKSUM != 0
            && header.gso_size > 0
            && layout.start <= usize::from(u8::MAX);
        right.then_some(Self {
            layout,
            payload: frame.len() - layout.headers,
            size: usize::from(header.gso_size),
        })
    }

    /// Divides a frame of one TCP segment as the superframe that it could be.
    pub fn of_segment(frame: &[u8], content: Content) -> Option<Self> {
        let Content::Partial {
            transport: Transport::Tcp,
            start,
            ..
        } = content
        else {
            return None;
        };
        let layout = Layout::of(frame, usize::from(start), Transport::Tcp)?;
        let payload = frame.len() - layout.headers;
        Some(Self {
            layout,
            payload,
            size: payload.max(1),
        })
    }

    /// The same with frames of at most `limit` octets; `None` where it can't be divided so: a UDP
    /// datagram is one.
    pub fn within(self, limit: usize) -> Option<Self> {
        if self.longest() <= limit {
            return Some(self);
        }
        let size = limit
            .checked_sub(self.layout.headers)
            .filter(|size| *size > 0)?;
        let divides = self.layout.transport == Transport::Tcp;
        divides.then_some(Self { size, ..self })
    }

    /// How many frames it makes; at least one.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    /// Length of the headers of each frame.
    pub fn headers_len(&self) -> usize {
        self.layout.headers
    }

    /// Length of the longest frame.
    pub fn longest(&self) -> usize {
        self.layout.headers + self.size.min(self.payload)
    }

    /// What the frame at `index` is.
    pub fn content(&self, index: usize) -> Content {
        Content::Partial {
            transport: self.layout.transport,
            start: self.layout.start as u8,
            index: (index % MOST_SEGMENTS) as u8,
        }
    }

    /// The payload of the frame at `index`.
    pub fn payload<'f>(&self, frame: &'f [u8], index: usize) -> &'f [u8] {
        let from = self.layout.headers + index * self.size;
        let to = (from + self.size).min(self.layout.headers + self.payload);
        &frame[from..to]
    }

    /// Writes the headers of the frame at `index`; `out` is [`Self::headers_len`] long.
    pub fn put_headers(&self, frame: &[u8], index: usize, out: &mut [u8]) {
        out.copy_from_slice(&frame[..self.layout.headers]);
        let last = index + 1 == self.count();
        self.layout.set_segment(out, index, self.size, last);
        let payload = self.payload(frame, index).len();
        self.layout.set_payload(out, self.payload, payload);
    }
}
