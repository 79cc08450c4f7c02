//! No parser panics on any octets, and no view hands out octets that it wasn't given.

use cairn_wire::control::Tlvs;
use cairn_wire::ethernet::{EtherType, Frame};
use cairn_wire::header::Datagram;
use cairn_wire::{arp, icmpv6, igmp, ipv4, ipv6, udp};
use proptest::prelude::*;

/// Octets that begin like something: a type in front, or an EtherType where it belongs.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let content = proptest::collection::vec(any::<u8>(), 0..300);
    let first = prop_oneof![
        any::<u8>(),
        0x11_u8..0x16,
        Just(0x45),
        Just(0x60),
        133_u8..138
    ];
    let ethertype = prop_oneof![
        any::<u16>(),
        Just(0x8100),
        Just(0x88a8),
        Just(0x0806),
        Just(0x0800),
        Just(0x86dd),
        0_u16..0x600,
    ];
    (content, first, ethertype).prop_map(|(mut octets, first, ethertype)| {
        if let Some(octet) = octets.first_mut() {
            *octet = first;
        }
        if let Some(place) = octets.get_mut(12..14) {
            place.copy_from_slice(&ethertype.to_be_bytes());
        }
        octets
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_frame_is_its_headers_and_its_payload(octets in octets()) {
        if let Ok(frame) = Frame::parse(&octets) {
            prop_assert!(octets.ends_with(frame.payload()));
            let headers = octets.len() - frame.payload().len();
            let tags = 14 + 4 * frame.tags().count();
            prop_assert!(headers == tags || headers == tags + 8);
            prop_assert!(frame.ethertype().is_none_or(|found: EtherType| !found.is_tag()));
        }
    }

    #[test]
    fn payloads_are_ends_of_packets(octets in octets()) {
        if let Ok(packet) = ipv4::Packet::parse(&octets) {
            prop_assert!(packet.payload().len() + 20 <= octets.len());
        }
        if let Ok(packet) = ipv6::Packet::parse(&octets) {
            prop_assert!(packet.payload().len() + 40 <= octets.len());
            if let Ok(upper) = packet.upper() {
                prop_assert!(packet.payload().ends_with(upper.payload));
            }
        }
        if let Ok(datagram) = udp::Datagram::parse(&octets) {
            prop_assert_eq!(datagram.payload(), &octets[8..]);
        }
    }

    #[test]
    fn all_accessors_work_on_what_was_parsed(octets in octets()) {
        if let Ok(packet) = arp::Packet::parse(&octets) {
            let _ = (packet.operation(), packet.sender_mac(), packet.sender_ip());
            let _ = (packet.target_mac(), packet.target_ip(), packet.is_announcement());
        }
        if let Ok(message) = igmp::Message::parse(&octets) {
            let _ = (message.kind(), message.group());
        }
        if let Ok(message) = icmpv6::Message::parse(&octets) {
            let _ = (message.kind(), message.target());
            prop_assert!(message.options().count() <= octets.len() / 8 + 1);
        }
        prop_assert!(Tlvs::new(&octets).count() <= octets.len() / 2 + 1);
        match Datagram::parse(&octets) {
            Ok(Datagram::Init(init)) => {
                let _ = (init.vni(), init.epoch(), init.ephemeral(), init.noise(), init.macs().mac1());
            }
            Ok(Datagram::Resp(resp)) => {
                let _ = (resp.sender(), resp.receiver(), resp.noise(), resp.macs().mac2());
            }
            Ok(Datagram::Cookie(cookie)) => {
                let _ = (cookie.receiver(), cookie.sealed());
            }
            Ok(Datagram::Data(view) | Datagram::Control(view)) => {
                prop_assert!(view.counter() < 1 << 48 && view.receiver() < 1 << 24);
            }
            Err(_) => {}
        }
    }
}
