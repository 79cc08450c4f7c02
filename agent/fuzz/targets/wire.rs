//! All parsers of `cairn-wire` on arbitrary octets (BI-1, BI-4): none panics, and whatever a
//! view hands out lies within the octets it was made from.
#![no_main]

use cairn_wire::control::{Tlvs, without_padding};
use cairn_wire::ethernet::{self, Frame};
use cairn_wire::header::{self, Datagram};
use cairn_wire::{arp, icmpv6, igmp, ipv4, ipv6, udp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    datagram(octets);
    control(octets);
    frame(octets);
    // Also without anything around them, so that lengths of 0 and up are reached directly.
    packet(octets);
});

fn datagram(octets: &[u8]) {
    match Datagram::parse(octets) {
        Ok(Datagram::Init(init)) => {
            let key = header::public_key_len(init.suite()).expect("a known suite");
            assert_eq!(octets.len(), header::init_len(key));
            assert_eq!(init.ephemeral().len(), key);
            within(octets, init.noise());
            macs(octets, &init.macs());
            let again = header::init(init.sender(), init.vni(), init.epoch(), init.suite());
            assert_eq!(again, init.header());
            assert_eq!(again, octets[..header::HEADER_LEN]);
        }
        Ok(Datagram::Resp(resp)) => {
            within(octets, resp.noise());
            macs(octets, &resp.macs());
            let again = header::resp(resp.sender(), resp.receiver());
            assert_eq!(again, octets[..header::HEADER_LEN]);
        }
        Ok(Datagram::Cookie(cookie)) => {
            assert_eq!(octets.len(), header::COOKIE_LEN);
            assert_eq!(cookie.header(), octets[..header::HEADER_LEN]);
            assert_eq!(cookie.sealed(), octets[header::HEADER_LEN..]);
            assert!(cookie.receiver() < 1 << 24);
        }
        Ok(Datagram::Data(view)) => sealed(octets, header::Type::Data, &view),
        Ok(Datagram::Control(view)) => sealed(octets, header::Type::Control, &view),
        Err(_) => {}
    }
}

fn macs(octets: &[u8], macs: &header::Macs<'_>) {
    let mac1_end = octets.len() - header::MAC_LEN;
    assert_eq!(macs.before_mac2(), &octets[..mac1_end]);
    assert_eq!(macs.mac2(), octets[mac1_end..]);
    assert_eq!(macs.before_mac1(), &octets[..mac1_end - header::MAC_LEN]);
    assert_eq!(macs.mac1(), octets[mac1_end - header::MAC_LEN..mac1_end]);
}

fn sealed(octets: &[u8], kind: header::Type, view: &header::Sealed<'_>) {
    assert!(octets.len() >= header::HEADER_LEN + header::TAG_LEN);
    assert!(view.counter() < header::COUNTER_LIMIT);
    let again = header::sealed(kind, view.receiver(), view.salt(), view.counter());
    assert_eq!(again, octets[..header::HEADER_LEN]);
}

fn control(octets: &[u8]) {
    let mut used = 0;
    assert!(octets.starts_with(without_padding(octets)));
    for tlv in Tlvs::new(octets) {
        let Ok(tlv) = tlv else {
            continue;
        };
        // A keepalive may carry a value that is skipped, so it can be shorter here.
        used += tlv.encode().1;
        assert!(used <= octets.len());
    }
}

fn frame(octets: &[u8]) {
    let Ok(frame) = Frame::parse(octets) else {
        return;
    };
    let tags = frame.tags().count();
    assert!(tags <= ethernet::MAX_TAGS);
    assert_eq!(frame.destination().0, octets[..6]);
    assert_eq!(frame.source().0, octets[6..12]);
    let at = within(octets, frame.payload());
    let headers = ethernet::HEADER_LEN + tags * ethernet::TAG_LEN;
    assert!(at == headers || at == headers + 8);
    assert_eq!(at + frame.payload().len(), octets.len());
    assert!(frame.ethertype().is_none_or(|found| !found.is_tag()));
    packet(frame.payload());
}

fn packet(octets: &[u8]) {
    if let Ok(packet) = arp::Packet::parse(octets) {
        assert!(octets.len() >= arp::LEN);
        assert_eq!(packet.sender_mac().0, octets[8..14]);
        assert_eq!(packet.sender_ip().octets(), octets[14..18]);
        assert_eq!(packet.target_mac().0, octets[18..24]);
        assert_eq!(packet.target_ip().octets(), octets[24..28]);
        assert!(!(packet.is_probe() && packet.is_announcement()));
    }
    if let Ok(packet) = ipv4::Packet::parse(octets) {
        let at = within(octets, packet.payload());
        assert!((20..=60).contains(&at) && at.is_multiple_of(4));
        assert!(packet.has_upper_header() || packet.is_fragment());
        assert_eq!(packet.source().octets(), octets[12..16]);
        assert_eq!(packet.destination().octets(), octets[16..20]);
        upper(packet.payload());
    }
    if let Ok(packet) = ipv6::Packet::parse(octets) {
        assert_eq!(within(octets, packet.payload()), ipv6::HEADER_LEN);
        assert_eq!(packet.source().octets(), octets[8..24]);
        assert_eq!(packet.destination().octets(), octets[24..40]);
        if let Ok(found) = packet.upper() {
            let at = within(packet.payload(), found.payload);
            assert_eq!(at + found.payload.len(), packet.payload().len());
            assert!(found.has_header() || found.fragment.is_some());
            upper(found.payload);
        }
    }
    upper(octets);
}

fn upper(octets: &[u8]) {
    if let Ok(datagram) = udp::Datagram::parse(octets) {
        assert_eq!(within(octets, datagram.payload()), udp::HEADER_LEN);
        assert_eq!(datagram.source().to_be_bytes(), octets[..2]);
        assert_eq!(datagram.destination().to_be_bytes(), octets[2..4]);
    }
    if let Ok(message) = igmp::Message::parse(octets) {
        let _ = message.kind();
        assert_eq!(message.group().octets(), octets[4..8]);
    }
    if let Ok(message) = icmpv6::Message::parse(octets) {
        assert_eq!(
            message.target().is_some(),
            message.kind().is_discovery()
                && !matches!(
                    message.kind(),
                    icmpv6::Kind::RouterSolicitation | icmpv6::Kind::RouterAdvertisement
                )
        );
        // Each option takes at least eight octets, and an error is the last.
        let options: Vec<_> = message.options().collect();
        assert!(options.len() <= octets.len() / 8 + 1);
        assert!(options.iter().rev().skip(1).all(Result::is_ok));
    }
}

/// Where `part` begins in `whole`; it must lie within.
fn within(whole: &[u8], part: &[u8]) -> usize {
    let outer = whole.as_ptr_range();
    let inner = part.as_ptr_range();
    assert!(outer.start <= inner.start && inner.end <= outer.end);
    inner.start.addr() - outer.start.addr()
}
