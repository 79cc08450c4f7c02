//! Splitter, coalescer and virtio-net header (BI-4, BI-5) given any octets.
//!
//! What must hold, whatever comes from the TAP or from an authentic peer:
//! - nothing panics, and no segment is longer than was promised;
//! - what was divided and joined has every octet of the payload, once and in order;
//! - what is joined has the payloads of its frames, each once and in order;
//! - the header of whatever is written describes the frame: the kernel's checks of it, written here
//!   apart from the code under test, would pass.
#![no_main]

use cairn_engine::offload::{
    Coalescer, Content, Host, Incoming, MOST_HEADERS, Run, Split, VNET_OCTETS, VnetHeader,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        divide(rest);
    } else {
        join(rest);
    }
});

/// A superframe of the TAP.
fn divide(octets: &[u8]) {
    let Some((header, frame)) = octets.split_first_chunk::<VNET_OCTETS>() else {
        return;
    };
    let Some(split) = Split::new(frame, VnetHeader::parse(*header)) else {
        return;
    };
    let mut segments = Vec::new();
    for index in 0..split.count() {
        let mut segment = vec![0; split.headers_len()];
        split.put_headers(frame, index, &mut segment);
        segment.extend_from_slice(split.payload(frame, index));
        assert!(segment.len() <= split.longest());
        segments.push((split.content(index), segment));
    }
    let payload: Vec<u8> = segments
        .iter()
        .flat_map(|(_, segment)| segment[split.headers_len()..].to_vec())
        .collect();
    assert_eq!(payload, frame[split.headers_len()..]);
    let incoming = segments.iter().enumerate();
    let incoming = incoming.map(|(at, (content, segment))| (at as u64, *content, &segment[..]));
    let joined = collect(incoming);
    assert_eq!(joined, payload.len() + split.headers_len() * segments.len());
}

/// Frames that a hostile member sealed.
fn join(mut octets: &[u8]) {
    let mut frames = Vec::new();
    while let Some((head, rest)) = octets.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(usize::from(head[3]).min(rest.len()));
        octets = rest;
        if let Some(content) = Content::parse([head[0], head[1]]) {
            frames.push((u64::from(head[2]), content, frame));
        }
    }
    collect(frames.into_iter());
}

/// Returns how many octets of frames the host took.
fn collect<'f>(frames: impl Iterator<Item = (u64, Content, &'f [u8])>) -> usize {
    let mut tap = Tap(0);
    let mut coalescer = Coalescer::new(&mut tap);
    for (counter, content, frame) in frames {
        let incoming = Incoming {
            vni: 7,
            session: 1,
            counter,
            content,
            frame,
        };
        if !coalescer.join(&incoming) {
            // What isn't what it says is refused, and nothing comes of it.
            let _taken = coalescer.start(incoming);
        }
    }
    coalescer.finish();
    tap.0
}

struct Tap(usize);

impl Host for Tap {
    fn take(&mut self, run: &Run<'_, '_>) {
        self.0 += run.frames().map(|(_, frame)| frame.len()).sum::<usize>();
        for (header, frame) in run.frames() {
            assert!(!header.is_superframe());
            accept(header, frame);
        }
        let mut room = [0; MOST_HEADERS];
        if let Some((header, headers, payloads)) = run.superframe(&mut room) {
            let start = headers.len();
            let mut frame = headers.to_vec();
            payloads.for_each(|payload| frame.extend_from_slice(payload));
            accept(header, &frame);
            let split = Split::new(&frame, header).expect("a header that is right");
            assert_eq!(split.count(), run.len());
            let parts: Vec<u8> = run
                .frames()
                .flat_map(|(_, frame)| frame[start..].to_vec())
                .collect();
            assert_eq!(frame[start..], parts);
        }
    }
}

/// What Linux asks of a header that is written to a TAP (tun.c, virtio_net.h), and what it can
/// forward.
fn accept(header: VnetHeader, frame: &[u8]) {
    let partial = header.flags & VnetHeader::NEEDS_CHECKSUM != 0;
    let (start, offset) = (header.csum_start, header.csum_offset);
    let sum_at = usize::from(start) + usize::from(offset);
    assert!(!partial || sum_at + 2 <= frame.len(), "the sum is outside");
    if !header.is_superframe() {
        return;
    }
    let mut network = 14;
    while matches!(frame[network - 2..network], [0x81, 0x00] | [0x88, 0xa8]) {
        network += 4;
    }
    let is_v6 = frame[network - 2..network] == [0x86, 0xdd];
    let kind = match (offset, is_v6) {
        (6, _) => VnetHeader::UDP,
        (16, false) => VnetHeader::TCP4,
        (16, true) => VnetHeader::TCP6,
        other => panic!("the sum of {other:?}"),
    };
    assert_eq!(header.gso_type, kind);
    assert!(partial && header.gso_size > 0);
    let (headers, start) = (usize::from(header.hdr_len), usize::from(start));
    assert!(network < start && start < headers && headers < frame.len());
    assert!(frame.len() - network <= 65_535, "longer than IP can say");
    assert!(
        !is_v6 || start == network + 40,
        "Linux can't forward superframes with extension headers"
    );
}
