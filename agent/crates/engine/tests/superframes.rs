//! Superframes: divided, sealed, opened and joined again, whatever they carry.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use cairn_engine::offload::{
    Coalescer, Content, Fragments, Host, Incoming, MOST_HEADERS, MOST_SEGMENTS, Run, Split,
    Transport, VnetHeader, clamp_mss, complete,
};
use proptest::prelude::*;

/// What a superframe is made of.
#[derive(Clone, Debug)]
struct Recipe {
    tags: usize,
    is_v6: bool,
    extensions: usize,
    ip_options: usize,
    is_udp: bool,
    tcp_options: usize,
    flags: u8,
    size: usize,
    payload: usize,
    seed: u8,
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let network = (0..=2_usize, any::<bool>(), 0..=2_usize, 0..=10_usize);
    let transport = (any::<bool>(), 0..=10_usize, any::<u8>());
    let sizes = prop_oneof![1..=9_usize, 500..=1500_usize, Just(8960_usize)];
    (network, transport, sizes, 0..=9000_usize, any::<u8>()).prop_map(
        |(
            (tags, is_v6, extensions, ip_options),
            (is_udp, tcp_options, flags),
            size,
            want,
            seed,
        )| {
            Recipe {
                tags,
                is_v6,
                extensions,
                ip_options,
                is_udp,
                tcp_options,
                flags,
                size,
                payload: want.min(size * 150).max(1),
                seed,
            }
        },
    )
}

impl Recipe {
    /// The frame with a partial checksum, and its header.
    fn cook(&self) -> (VnetHeader, Vec<u8>) {
        let protocol = if self.is_udp { 17 } else { 6 };
        let mut transport = vec![0x12, 0x34, 0x56, 0x78];
        if self.is_udp {
            transport.extend(((8 + self.payload) as u16).to_be_bytes());
            transport.extend([0, 0]);
        } else {
            transport.extend([0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4]);
            transport.extend([
                ((5 + self.tcp_options) << 4) as u8,
                self.flags,
                9,
                9,
                0,
                0,
                0,
                0,
            ]);
            transport.extend(vec![1; 4 * self.tcp_options]);
        }
        let length = transport.len() + self.payload;
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for tag in 0..self.tags {
            frame.extend([[0x81, 0x00, 0, 5], [0x88, 0xa8, 0, 7]][tag]);
        }
        let pseudo = if self.is_v6 {
            self.put_v6(&mut frame, protocol, length)
        } else {
            self.put_v4(&mut frame, protocol, length)
        };
        let start = frame.len();
        let offset = if self.is_udp { 6 } else { 16 };
        transport[offset..offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        frame.extend(transport);
        let headers = frame.len();
        frame.extend((0..self.payload).map(|at| (at as u8).wrapping_mul(31) ^ self.seed));
        let gso_type = match (self.is_udp, self.is_v6) {
            (true, _) => VnetHeader::UDP,
            (false, false) => VnetHeader::TCP4,
            (false, true) => VnetHeader::TCP6,
        };
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type,
            hdr_len: headers as u16,
            gso_size: self.size as u16,
            csum_start: start as u16,
            csum_offset: offset as u16,
        };
        (header, frame)
    }

    fn put_v4(&self, frame: &mut Vec<u8>, protocol: u8, length: usize) -> u16 {
        frame.extend([0x08, 0x00]);
        let header = 20 + 4 * self.ip_options;
        let at = frame.len();
        frame.push(0x40 | (header / 4) as u8);
        frame.push(3);
        frame.extend(((header + length) as u16).to_be_bytes());
        frame.extend([0xff, 0xf0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 7, 0, 1, 10, 7, 0, 2]);
        frame.extend(vec![1; 4 * self.ip_options]);
        let sum = !sum(&frame[at..]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        let mut pseudo = vec![10, 7, 0, 1, 10, 7, 0, 2, 0, protocol];
        pseudo.extend((length as u16).to_be_bytes());
        super_sum(&pseudo)
    }

    fn put_v6(&self, frame: &mut Vec<u8>, protocol: u8, length: usize) -> u16 {
        frame.extend([0x86, 0xdd, 0x61, 2, 3, 4]);
        frame.extend(((length + 8 * self.extensions) as u16).to_be_bytes());
        let kinds = [60, 0];
        let next = |at: usize| {
            if at < self.extensions {
                kinds[at]
            } else {
                protocol
            }
        };
        frame.extend([next(0), 64]);
        let addresses: Vec<u8> = (0..32).map(|at| 0xfd ^ at).collect();
        frame.extend(&addresses);
        for at in 0..self.extensions {
            frame.extend([next(at + 1), 0, 1, 4, 0, 0, 0, 0]);
        }
        let mut pseudo = addresses;
        pseudo.extend((length as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        super_sum(&pseudo)
    }
}

/// Written apart from the code under test.
fn sum(octets: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn super_sum(pseudo: &[u8]) -> u16 {
    sum(pseudo)
}

/// What a segment must be: made by building it as a frame of its own.
fn expected(recipe: &Recipe, index: usize, count: usize, payload: &[u8]) -> Vec<u8> {
    let alone = Recipe {
        payload: payload.len(),
        ..recipe.clone()
    };
    let (header, mut frame) = alone.cook();
    let start = usize::from(header.csum_start);
    let headers = frame.len() - payload.len();
    frame[headers..].copy_from_slice(payload);
    if !recipe.is_udp {
        let sequence = 0xffff_ff00_u32.wrapping_add((index * recipe.size) as u32);
        frame[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < count {
            frame[start + 13] &= !0x09;
        }
        if index > 0 {
            frame[start + 13] &= !0x80;
        }
    }
    if !recipe.is_v6 {
        let at = 14 + 4 * recipe.tags;
        let id = 0xfff0_u16.wrapping_add(index as u16);
        frame[at + 4..at + 6].copy_from_slice(&id.to_be_bytes());
        frame[at + 10..at + 12].fill(0);
        let sum = !sum(&frame[at..start.min(at + 20 + 4 * recipe.ip_options)]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn divide(header: VnetHeader, frame: &[u8]) -> Vec<(Content, Vec<u8>)> {
    divide_as(Split::new(frame, header).unwrap(), frame)
}

fn divide_as(split: Split, frame: &[u8]) -> Vec<(Content, Vec<u8>)> {
    let segment = |index| {
        let mut segment = vec![0; split.headers_len()];
        split.put_headers(frame, index, &mut segment);
        segment.extend_from_slice(split.payload(frame, index));
        assert!(segment.len() <= split.longest());
        (split.content(index), segment)
    };
    (0..split.count()).map(segment).collect()
}

/// Superframes and single frames as the TAP would get them.
#[derive(Default)]
struct Tap(Vec<(VnetHeader, Vec<u8>)>);

impl Host for Tap {
    fn take(&mut self, run: &Run<'_, '_>) {
        let mut room = [0; MOST_HEADERS];
        let joined = run.superframe(&mut room);
        match joined {
            Some((header, headers, payloads)) => {
                let mut frame = headers.to_vec();
                payloads.for_each(|payload| frame.extend_from_slice(payload));
                self.0.push((header, frame));
            }
            None => self
                .0
                .extend(run.frames().map(|(header, frame)| (header, frame.to_vec()))),
        }
    }
}

fn join<'f>(segments: impl IntoIterator<Item = (u64, Content, &'f [u8])>) -> Tap {
    let mut tap = Tap::default();
    let mut coalescer = Coalescer::new(&mut tap);
    for (counter, content, frame) in segments {
        let incoming = Incoming {
            vni: 7,
            session: 1,
            counter,
            content,
            frame,
        };
        if !coalescer.join(&incoming) {
            assert!(coalescer.start(incoming));
        }
    }
    coalescer.finish();
    tap
}

/// The packet of which these are the fragments, in order.
fn reassemble(parts: &[Vec<u8>], network: usize, is_v6: bool) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut next_offset = 0;
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        let body = if is_v6 {
            let mut at = network + 40;
            let mut next = network + 6;
            while part[next] != 44 {
                assert!([0, 43].contains(&part[next]));
                next = at;
                at += 8 + 8 * usize::from(part[at + 1]);
            }
            let length = usize::from(u16::from_be_bytes([part[network + 4], part[network + 5]]));
            assert_eq!(length, part.len() - network - 40);
            assert_eq!(&part[at + 4..at + 8], &0x1234_5678_u32.to_be_bytes());
            let field = u16::from_be_bytes([part[at + 2], part[at + 3]]);
            assert_eq!(field & 1 == 0, last);
            assert_eq!(usize::from(field & !7), next_offset);
            if index == 0 {
                whole.extend_from_slice(&part[..at]);
                whole[next] = part[at];
            }
            at + 8
        } else {
            let ip = &part[network..];
            assert_eq!(sum(&ip[..20]), 0xffff);
            assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
            let field = u16::from_be_bytes([ip[6], ip[7]]);
            assert_eq!(field & 0x2000 == 0, last);
            assert_eq!(usize::from(field & 0x1fff) * 8, next_offset);
            if index == 0 {
                whole.extend_from_slice(&part[..network + 20]);
            }
            network + 20
        };
        next_offset += part.len() - body;
        whole.extend_from_slice(&part[body..]);
    }
    let length = whole.len() - network;
    if is_v6 {
        whole[network + 4..network + 6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    } else {
        whole[network + 2..network + 4].copy_from_slice(&(length as u16).to_be_bytes());
        whole[network + 6] &= 0x40;
        whole[network + 10..network + 12].fill(0);
        let sum = !sum(&whole[network..network + 20]);
        whole[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
    }
    whole
}

proptest! {
    #[test]
    fn each_segment_is_what_the_kernel_would_have_sent(recipe in recipes()) {
        let (header, frame) = recipe.cook();
        let segments = divide(header, &frame);
        prop_assert_eq!(segments.len(), recipe.payload.div_ceil(recipe.size));
        let payload = &frame[frame.len() - recipe.payload..];
        let parts: Vec<&[u8]> = payload.chunks(recipe.size).collect();
        for (index, (_, segment)) in segments.iter().enumerate() {
            let right = expected(&recipe, index, parts.len(), parts[index]);
            prop_assert_eq!(segment, &right, "segment {}", index);
        }
    }

    #[test]
    fn what_was_divided_and_joined_is_what_it_was(recipe in recipes()) {
        let (header, frame) = recipe.cook();
        let segments = divide(header, &frame);
        let tap = join(segments.iter().enumerate().map(|(at, (content, segment))| {
            (at as u64, *content, &segment[..])
        }));
        let joins = !recipe.is_v6 || recipe.extensions == 0;
        let trains = segments.len().div_ceil(if joins { MOST_SEGMENTS } else { 1 });
        prop_assert_eq!(tap.0.len(), trains);
        if trains == 1 && segments.len() > 1 {
            prop_assert_eq!(&tap.0[0], &(header, frame));
        } else {
            let again: Vec<Vec<u8>> = tap.0.iter().flat_map(|(header, frame)| {
                if header.is_superframe() {
                    divide(*header, frame).into_iter().map(|(_, one)| one).collect()
                } else {
                    vec![frame.clone()]
                }
            }).collect();
            prop_assert_eq!(again, segments.into_iter().map(|(_, one)| one).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_lost_takes_nothing_else_with_it(
        recipe in recipes(),
        lost in proptest::collection::vec(any::<bool>(), 150),
    ) {
        let (header, frame) = recipe.cook();
        let segments = divide(header, &frame);
        let arrived: Vec<_> = segments.iter().enumerate().filter(|(at, _)| !lost[*at]).collect();
        let tap = join(arrived.iter().map(|(at, (content, segment))| {
            (*at as u64, *content, &segment[..])
        }));
        let mut again = Vec::new();
        for (header, frame) in &tap.0 {
            if header.is_superframe() {
                again.extend(divide(*header, frame).into_iter().map(|(_, one)| one));
            } else {
                again.push(frame.clone());
            }
        }
        let right: Vec<_> = arrived.into_iter().map(|(_, (_, segment))| segment.clone()).collect();
        // Across a gap nothing is joined by index; equal UDP datagrams may be by their flow, and
        // then only the identification differs.
        if recipe.is_udp && !recipe.is_v6 {
            prop_assert_eq!(again.len(), right.len());
        } else {
            prop_assert_eq!(again, right);
        }
    }

    #[test]
    fn any_octets_are_refused_or_divided_within_bounds(
        octets in proptest::collection::vec(any::<u8>(), 0..200),
        recipe in recipes(),
        at in any::<usize>(),
        header in any::<[u8; 10]>(),
        damaged in any::<bool>(),
    ) {
        let header = VnetHeader::parse(header);
        if let Some(split) = Split::new(&octets, header) {
            let _ = (split.count(), split.longest());
        }
        // Nearly right ones reach further.
        let (mut near, mut frame) = recipe.cook();
        let at = at % frame.len().min(120);
        frame[at] ^= header.flags;
        if damaged {
            near.csum_start = header.csum_start % 200;
            near.gso_size = header.gso_size;
        }
        if Split::new(&frame, near).is_some() {
            let segments = divide(near, &frame);
            join(segments.iter().enumerate().map(|(at, (content, one))| {
                (at as u64, *content, &one[..])
            }));
        }
    }

    #[test]
    fn tcp_is_divided_further_for_a_narrow_path_and_a_datagram_is_not(
        recipe in recipes(),
        limit in 300..1400_usize,
    ) {
        let (header, frame) = recipe.cook();
        let split = Split::new(&frame, header).unwrap();
        let fits = split.longest() <= limit;
        let Some(within) = split.within(limit) else {
            prop_assert!(recipe.is_udp && !fits);
            return Ok(());
        };
        prop_assert!(within.longest() <= limit);
        prop_assert!(!fits || within == split);
        let segments = divide_as(within, &frame);
        let tap = join(segments.iter().enumerate().map(|(at, (content, segment))| {
            (at as u64, *content, &segment[..])
        }));
        let joins = !recipe.is_v6 || recipe.extensions == 0;
        if joins && segments.len() > 1 && segments.len() <= MOST_SEGMENTS {
            let size = (within.longest() - within.headers_len()) as u16;
            let right = VnetHeader { gso_size: size, ..header };
            prop_assert_eq!(&tap.0[..], &[(right, frame.clone())]);
        }
    }

    #[test]
    fn a_segment_by_itself_is_divided_as_a_superframe_is(recipe in recipes(), limit in 300..1400_usize) {
        let (header, frame) = recipe.cook();
        let content = Content::Partial {
            transport: if recipe.is_udp { Transport::Udp } else { Transport::Tcp },
            start: header.csum_start as u8,
            index: 0,
        };
        let split = Split::of_segment(&frame, content);
        prop_assert_eq!(split.is_none(), recipe.is_udp);
        if let Some(split) = split.and_then(|split| split.within(limit)) {
            let segments = divide_as(split, &frame);
            let payload: Vec<u8> = segments.iter().flat_map(|(_, segment)| {
                segment[split.headers_len()..].to_vec()
            }).collect();
            prop_assert!(segments.iter().all(|(_, segment)| segment.len() <= limit));
            prop_assert_eq!(&payload[..], &frame[split.headers_len()..]);
            prop_assert_eq!(segments.len() == 1, frame.len() <= limit);
        }
    }

    #[test]
    fn fragments_are_the_packet_again(recipe in recipes(), limit in 120..1300_usize, partial in any::<bool>()) {
        let (header, mut frame) = recipe.cook();
        let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
        let network = 14 + 4 * recipe.tags;
        if !recipe.is_v6 {
            frame[network + 6] &= !0x40;
            frame[network + 10..network + 12].fill(0);
            let sum = !sum(&frame[network..start]);
            frame[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let mut content = Content::Partial {
            transport: if recipe.is_udp { Transport::Udp } else { Transport::Tcp },
            start: start as u8,
            index: 0,
        };
        if !partial {
            complete(&mut frame, start, offset).unwrap();
            content = Content::Whole;
        }
        let may = if recipe.is_v6 {
            frame.len() - network <= 1280
        } else {
            recipe.ip_options == 0
        };
        let Some(fragments) = Fragments::new(&frame, content, limit) else {
            prop_assert!(!may || partial, "only for what it may not or where the sum is too far");
            return Ok(());
        };
        prop_assert!(may);
        let parts: Vec<Vec<u8>> = (0..fragments.count()).map(|index| {
            let mut part = vec![0; fragments.len_of(index)];
            fragments.put(&frame, index, 0x1234_5678, &mut part);
            part
        }).collect();
        prop_assert!(parts.iter().all(|part| part.len() <= limit));
        if partial {
            complete(&mut frame, start, offset).unwrap();
        }
        prop_assert_eq!(&reassemble(&parts, network, recipe.is_v6), &frame);
        // A fragment of a fragment is one, too.
        if let Some(again) = Fragments::new(&parts[0], Content::Whole, limit - 40) {
            let mut smaller: Vec<Vec<u8>> = (0..again.count()).map(|index| {
                let mut part = vec![0; again.len_of(index)];
                again.put(&parts[0], index, 9, &mut part);
                part
            }).collect();
            smaller.extend(parts[1..].iter().cloned());
            prop_assert_eq!(reassemble(&smaller, network, recipe.is_v6), frame);
        }
    }

    #[test]
    fn fragments_of_any_octets_are_within_bounds(
        recipe in recipes(),
        changed in proptest::collection::vec((0..120_usize, any::<u8>()), 0..5),
        limit in 0..1400_usize,
    ) {
        let (header, mut frame) = recipe.cook();
        for (at, value) in changed {
            let at = at % frame.len();
            frame[at] = value;
        }
        let content = Content::Partial {
            transport: Transport::Udp,
            start: header.csum_start as u8,
            index: 0,
        };
        for content in [Content::Whole, content] {
            clamp_mss(&mut frame, content, limit, usize::MAX);
            if let Some(fragments) = Fragments::new(&frame, content, limit) {
                for index in 0..fragments.count() {
                    let mut part = vec![0; fragments.len_of(index)];
                    fragments.put(&frame, index, 1, &mut part);
                    prop_assert!(part.len() <= limit);
                }
            }
        }
    }

    #[test]
    fn the_mss_of_a_syn_is_lowered_and_its_checksum_stays_right(
        recipe in recipes(),
        options in proptest::collection::vec(0..3_u8, 0..6),
        mss in any::<u16>(),
        limit in 600..9000_usize,
        partial in any::<bool>(),
        is_syn in any::<bool>(),
    ) {
        let recipe = Recipe {
            is_udp: false,
            tcp_options: 10,
            flags: if is_syn { 0x02 } else { 0x10 },
            payload: recipe.payload.min(20),
            ..recipe
        };
        let (header, mut frame) = recipe.cook();
        let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
        let mut list = Vec::new();
        for kind in options {
            list.extend_from_slice([&[1][..], &[4, 2], &[3, 3, 7]][usize::from(kind)]);
        }
        let at = start + 20 + list.len() + 2;
        list.extend([2, 4]);
        list.extend(mss.to_be_bytes());
        list.resize(40, 0);
        frame[start + 20..start + 60].copy_from_slice(&list);
        let pseudo = u16::from_be_bytes([frame[start + offset], frame[start + offset + 1]]);
        let mut content = Content::Partial { transport: Transport::Tcp, start: start as u8, index: 0 };
        if !partial {
            complete(&mut frame, start, offset).unwrap();
            content = Content::Whole;
        }
        let before = frame.clone();

        clamp_mss(&mut frame, content, limit, usize::MAX);

        let largest = (limit - start - 20) as u16;
        let now = u16::from_be_bytes([frame[at], frame[at + 1]]);
        prop_assert_eq!(now, if is_syn { mss.min(largest) } else { mss });
        if partial {
            let sum = u16::from_be_bytes([frame[start + offset], frame[start + offset + 1]]);
            prop_assert_eq!(sum, pseudo);
        } else {
            let all = [&pseudo.to_be_bytes()[..], &frame[start..]].concat();
            prop_assert_eq!(sum(&all), 0xffff);
        }
        if now == mss {
            prop_assert_eq!(frame, before);
        }
    }

    #[test]
    fn a_completed_checksum_is_right(recipe in recipes()) {
        let (header, mut frame) = recipe.cook();
        let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
        let pseudo = u16::from_be_bytes([frame[start + offset], frame[start + offset + 1]]);
        complete(&mut frame, start, offset).unwrap();
        let all = [&pseudo.to_be_bytes()[..], &frame[start..]].concat();
        prop_assert!(matches!(sum(&all), 0xffff), "the sum over all is zero");
    }
}

#[test]
fn udp_datagrams_of_a_flow_are_joined_and_others_are_not() {
    let recipe = Recipe {
        tags: 0,
        is_v6: false,
        extensions: 0,
        ip_options: 0,
        is_udp: true,
        tcp_options: 0,
        flags: 0,
        size: 100,
        payload: 100,
        seed: 1,
    };
    let frame = |payload: usize| {
        Recipe {
            payload,
            ..recipe.clone()
        }
        .cook()
        .1
    };
    let content = Content::Partial {
        transport: Transport::Udp,
        start: 34,
        index: 0,
    };
    let (full, short, long) = (frame(100), frame(30), frame(101));
    let mut other_port = full.clone();
    other_port[35] ^= 1;
    let mut other_tos = full.clone();
    other_tos[15] ^= 1;
    let sizes = |frames: &[&[u8]]| -> Vec<(usize, u16)> {
        let tap = join(frames.iter().map(|frame| (9, content, *frame)));
        tap.0
            .iter()
            .map(|(header, frame)| (frame.len() - 42, header.gso_size))
            .collect()
    };

    assert_eq!(sizes(&[&full, &full, &short]), [(230, 100)]);
    assert_eq!(
        sizes(&[&full, &short, &full]),
        [(130, 100), (100, 0)],
        "a shorter one is the last"
    );
    assert_eq!(sizes(&[&full, &long]), [(100, 0), (101, 0)]);
    assert_eq!(sizes(&[&full, &other_port]), [(100, 0), (100, 0)]);
    assert_eq!(sizes(&[&full, &other_tos]), [(100, 0), (100, 0)]);
    let mut group = full.clone();
    group[0] |= 1;
    assert_eq!(
        sizes(&[&group, &group]),
        [(100, 0), (100, 0)],
        "each counts as a copy"
    );
}
