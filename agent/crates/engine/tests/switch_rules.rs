//! What the switch forwards and what it refuses, case by case.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cairn_engine::switch::{Accepted, Config, Egress, Learning, Refused, Role, Switch};
use cairn_engine::{PeerId, Time};
use cairn_wire::Mac;

mod frames;
use frames::*;

const NOW: Time = Time::from_millis(1_000);
const HOST: Role = Role::Host;
const GATEWAY: Role = Role::Gateway;
const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const NOBODYS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 200);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A station on a LAN: bound to no member.
fn station(number: u8) -> Mac {
    Mac([0, 0x11, 0x22, 0x33, 0x44, number])
}

fn data(destination: Mac, source: Mac) -> Vec<u8> {
    frame(destination, source, IPX, b"anything")
}

fn after(seconds: u64) -> Time {
    NOW + Duration::from_secs(seconds)
}

/// What member 0, a host, says of `payload` that peer A (of `role`) sends with its own MAC.
fn from_a(
    role: Role,
    change: impl FnOnce(&mut Config),
    ethertype: u16,
    payload: &[u8],
) -> Result<(), Refused> {
    let mut config = config(HOST, &[role, HOST]);
    change(&mut config);
    let frame = frame(Mac::BROADCAST, mac(1), ethertype, payload);
    Switch::new(config).ingress(&frame, A, NOW).map(|_| ())
}

fn managed(config: &mut Config) {
    config.policy.dhcp_server_from_hosts = false;
}

fn nothing(_: &mut Config) {}

// Where frames from the TAP go.

#[test]
fn a_bound_address_gets_the_frame_alone() {
    let switch = Switch::new(config(HOST, &[HOST, HOST]));
    assert_eq!(
        switch.egress(&data(mac(2), mac(0)), NOW),
        Ok(Egress::Unicast(B))
    );
}

#[test]
fn broadcast_and_multicast_go_to_every_peer() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    for group in [Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1])] {
        assert_eq!(
            switch.egress(&data(group, mac(0)), NOW),
            Ok(Egress::Flood(&[A, B]))
        );
    }
}

#[test]
fn what_went_to_many_is_counted_across_a_rebuild_and_nothing_else() {
    let bum_sent = |switch: &Switch| switch.counters()[5];
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    for destination in [Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1]), station(1)] {
        assert!(switch.egress(&data(destination, mac(0)), NOW).is_ok());
    }
    assert_eq!(bum_sent(&switch), ("bum_sent", 3));

    assert!(switch.egress(&data(mac(1), mac(0)), NOW).is_ok());
    assert!(switch.egress(&data(Mac::BROADCAST, mac(1)), NOW).is_err());
    assert!(
        switch
            .ingress(&data(Mac::BROADCAST, mac(1)), A, NOW)
            .is_ok()
    );
    assert_eq!(bum_sent(&switch).1, 3);
    let passed = (0..1_000).filter(|_| switch.egress(&data(Mac::BROADCAST, mac(0)), NOW).is_ok());
    assert_eq!(passed.count(), 397); // its limit stops the others
    let newer = switch.rebuild(config(HOST, &[HOST]));
    assert_eq!(bum_sent(&newer).1, 400);
}

#[test]
fn an_unknown_address_is_looked_for_behind_gateways_only() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    assert_eq!(
        switch.egress(&data(station(1), mac(0)), NOW),
        Ok(Egress::Flood(&[B]))
    );

    let without = Switch::new(config(HOST, &[HOST, HOST]));
    assert_eq!(
        without.egress(&data(station(1), mac(0)), NOW),
        Err(Refused::UnknownDestination)
    );
}

#[test]
fn alone_in_a_vsubnet_there_is_nobody_to_tell() {
    let switch = Switch::new(config(HOST, &[]));
    assert_eq!(
        switch.egress(&data(Mac::BROADCAST, mac(0)), NOW),
        Err(Refused::NoPeer)
    );
}

#[test]
fn a_frame_to_ourselves_is_not_sent() {
    let switch = forwarding(config(GATEWAY, &[HOST]));
    assert_eq!(
        switch.egress(&data(mac(0), station(1)), NOW),
        Err(Refused::SameSide)
    );
}

#[test]
fn what_is_local_to_a_bridge_crosses_in_neither_direction() {
    let switch = forwarding(config(GATEWAY, &[GATEWAY]));
    let lldp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    assert_eq!(
        switch.egress(&data(lldp, station(1)), NOW),
        Err(Refused::BridgeLocal)
    );
    assert_eq!(
        switch.ingress(&data(lldp, station(1)), A, NOW),
        Err(Refused::BridgeLocal)
    );
}

// Questions that are answered here (RFC 9161).

fn managed_config(peers: &[Role]) -> Config {
    let mut config = config(HOST, peers);
    managed(&mut config);
    config
}

fn who_has(target: Ipv4Addr) -> Vec<u8> {
    let question = arp(1, (mac(0), ip4(0)), (Mac::ZERO, target));
    frame(Mac::BROADCAST, mac(0), ARP, &question)
}

fn neighbour(target: Ipv6Addr) -> Vec<u8> {
    neighbour_question((mac(0), ip6(0)), target, Some(mac(0)))
}

fn answer(switch: &Switch, question: &[u8]) -> Option<(PeerId, Vec<u8>)> {
    match switch.egress(question, NOW).expect("goes somewhere") {
        Egress::Answer(answer) => {
            switch.note_answered(answer.asked);
            Some((answer.peer, answer.frame().to_vec()))
        }
        _ => None,
    }
}

fn is_flooded(switch: &Switch, question: &[u8]) -> bool {
    matches!(switch.egress(question, NOW), Ok(Egress::Flood(_)))
}

#[test]
fn arp_for_a_bound_address_is_answered_as_its_owner_would() {
    let switch = Switch::new(managed_config(&[HOST, GATEWAY]));
    for number in [1, 2] {
        let reply = arp(2, (mac(number), ip4(number)), (mac(0), ip4(0)));
        let reply = frame(mac(0), mac(number), ARP, &reply);
        let peer = PeerId(u32::from(number));
        let question = who_has(ip4(number));
        assert_eq!(answer(&switch, &question), Some((peer, reply.clone())));

        let padded = [&question[..], &[0; 18]].concat();
        assert_eq!(answer(&switch, &padded), Some((peer, reply.clone())));
        for (question, reply) in [
            (tagged(&question, VLAN, 42), tagged(&reply, VLAN, 42)),
            (
                tagged(&tagged(&question, VLAN, 42), 0x88a8, 7),
                tagged(&tagged(&reply, VLAN, 42), 0x88a8, 7),
            ),
        ] {
            assert_eq!(answer(&switch, &question), Some((peer, reply)));
        }
    }
    assert_eq!(switch.counters()[0], ("arp_answered", 8));
}

#[test]
fn a_neighbour_solicitation_for_a_bound_address_is_answered_as_its_owner_would() {
    let switch = Switch::new(managed_config(&[HOST, HOST]));
    for link_layer in [Some(mac(0)), None] {
        let question = neighbour_question((mac(0), ip6(0)), ip6(1), link_layer);
        let mut message = advertisement(ip6(1), Some(mac(1)));
        message[4] = 0x60; // Solicited, override.
        let message = summed(ip6(1), ip6(0), &message);
        let reply = frame(mac(0), mac(1), IPV6, &ipv6(ip6(1), ip6(0), 58, &message));
        assert_eq!(icmpv6_sum(ip6(1), ip6(0), &reply[54..]), 0xffff);
        assert_eq!(answer(&switch, &question), Some((A, reply.clone())));

        let question = tagged(&question, VLAN, 42);
        let reply = tagged(&reply, VLAN, 42);
        assert_eq!(answer(&switch, &question), Some((A, reply)));
    }
    assert_eq!(switch.counters()[1], ("nd_answered", 4));
}

#[test]
fn answers_are_not_limited_and_go_on_being_counted_after_a_change() {
    let mut config = managed_config(&[HOST]);
    config.policy.bum_burst = 1;
    let switch = Switch::new(config.clone());
    for _ in 0..10 {
        assert!(answer(&switch, &who_has(ip4(1))).is_some());
    }
    let switch = switch.rebuild(config);
    assert!(answer(&switch, &who_has(ip4(1))).is_some());
    assert_eq!(switch.counters()[0].1, 11);
}

#[test]
fn what_checks_for_a_duplicate_or_announces_an_address_is_told_to_everybody() {
    let switch = Switch::new(managed_config(&[HOST, HOST]));
    let told = |operation, sender, target: Ipv4Addr| {
        let packet = arp(operation, (mac(0), sender), (Mac::ZERO, target));
        is_flooded(&switch, &frame(Mac::BROADCAST, mac(0), ARP, &packet))
    };
    assert!(told(1, Ipv4Addr::UNSPECIFIED, ip4(1)), "a probe");
    assert!(told(1, ip4(0), ip4(0)), "an announcement");
    assert!(told(2, ip4(0), ip4(0)), "a gratuitous reply");
    assert!(told(2, ip4(0), ip4(1)), "a reply to everybody");

    let duplicate = neighbour_question((mac(0), Ipv6Addr::UNSPECIFIED), ip6(1), None);
    assert!(is_flooded(&switch, &duplicate));
    let message = summed(ip6(0), ALL_NODES, &advertisement(ip6(0), Some(mac(0))));
    let packet = ipv6(ip6(0), ALL_NODES, 58, &message);
    let unsolicited = frame(Mac([0x33, 0x33, 0, 0, 0, 1]), mac(0), IPV6, &packet);
    assert!(is_flooded(&switch, &unsolicited));
}

#[test]
fn a_neighbour_that_is_probed_answers_itself() {
    let switch = Switch::new(managed_config(&[HOST]));
    let probe = arp(1, (mac(0), ip4(0)), (mac(1), ip4(1)));
    let probe = frame(mac(1), mac(0), ARP, &probe);
    assert_eq!(switch.egress(&probe, NOW), Ok(Egress::Unicast(A)));

    let message = summed(ip6(0), ip6(1), &solicitation(ip6(1), Some(mac(0))));
    let probe = frame(mac(1), mac(0), IPV6, &ipv6(ip6(0), ip6(1), 58, &message));
    assert_eq!(switch.egress(&probe, NOW), Ok(Egress::Unicast(A)));
}

#[test]
fn for_whom_the_bindings_are_not_certain_everybody_is_asked() {
    let asks = |config: Config, number: u8| {
        let switch = Switch::new(config);
        let questions = [who_has(ip4(number)), neighbour(ip6(number))];
        questions.map(|question| is_flooded(&switch, &question))
    };
    let certain = || managed_config(&[HOST, HOST]);
    assert_eq!(asks(certain(), 1), [false; 2]);
    assert_eq!(asks(certain(), 200), [true; 2], "bound to nobody");
    assert_eq!(asks(certain(), 0), [true; 2], "bound to this node");

    let mut shared = certain();
    shared.peers[1].1.ips = shared.peers[0].1.ips.clone();
    assert_eq!(asks(shared, 1), [true; 2], "bound to two");
    let mut moving = certain();
    moving.peers[1].1.macs = vec![mac(1)];
    assert_eq!(asks(moving, 1), [true; 2], "the MAC is bound to two");
    let mut several = certain();
    several.peers[0].1.macs.push(mac(9));
    assert_eq!(asks(several, 1), [true; 2], "with which of its MACs?");

    let mut unmanaged = certain();
    unmanaged.policy.dhcp_server_from_hosts = true;
    assert_eq!(asks(unmanaged, 1), [true; 2], "members give out addresses");
    let mut removed = certain();
    removed.peers.remove(0);
    assert_eq!(asks(removed, 1), [true; 2], "removed");

    let mut routers = certain();
    routers.policy.ra_from_hosts = true;
    assert_eq!(asks(routers, 1), [false, true], "may be a router");
    assert_eq!(asks(managed_config(&[GATEWAY]), 1), [false, true]);
}

#[test]
fn a_link_local_address_is_answered_for_only_where_it_is_bound() {
    // Of 02:00:00:00:00:01, as Linux derives it; the owner may have another.
    let derived = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
    let mut config = managed_config(&[HOST]);
    assert!(is_flooded(
        &Switch::new(config.clone()),
        &neighbour(derived)
    ));
    config.peers[0].1.ips.push(derived.into());
    assert!(!is_flooded(&Switch::new(config), &neighbour(derived)));
}

#[test]
fn a_solicitation_that_its_target_would_not_take_or_that_says_more_is_not_answered() {
    let switch = Switch::new(managed_config(&[HOST]));
    let question = neighbour(ip6(1));
    let changed = |at: usize, octet: u8| {
        let mut question = question.clone();
        question[at] = octet;
        is_flooded(&switch, &question)
    };
    assert!(!changed(0, question[0]));
    assert!(changed(14 + 7, 254), "hop limit");
    assert!(changed(54 + 2, !question[56]), "checksum");
    let with_sum = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = solicitation(ip6(1), Some(mac(0)));
        change(&mut message);
        let [group, ..] = [Ipv6Addr::from(
            <[u8; 16]>::try_from(&question[38..54]).unwrap(),
        )];
        let message = summed(ip6(0), group, &message);
        let packet = ipv6(ip6(0), group, 58, &message);
        let destination = Mac(question[..6].try_into().unwrap());
        is_flooded(&switch, &frame(destination, mac(0), IPV6, &packet))
    };
    assert!(!with_sum(&|_| {}));
    assert!(with_sum(&|message| message[1] = 1), "a code");
    assert!(
        with_sum(&|message| message.extend_from_slice(&[14, 1, 1, 2, 3, 4, 5, 6])),
        "a nonce"
    );
    // In SNAP, which needs another length.
    assert!(is_flooded(&switch, &snap(&who_has(ip4(1)))));
}

// Who may send from which address.

#[test]
fn a_host_sends_from_its_own_addresses_only() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    for source in [mac(1), mac(2), station(1)] {
        assert_eq!(
            switch.egress(&data(Mac::BROADCAST, source), NOW),
            Err(Refused::ForeignSource)
        );
    }
    for source in [mac(0), mac(2), station(1)] {
        assert_eq!(
            switch.ingress(&data(mac(0), source), A, NOW),
            Err(Refused::ForeignSource)
        );
    }
    assert!(switch.ingress(&data(mac(0), mac(1)), A, NOW).is_ok());
}

#[test]
fn a_gateway_sends_from_any_address_that_is_not_bound_to_another_member() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    for source in [mac(2), station(1)] {
        assert!(switch.ingress(&data(mac(0), source), B, NOW).is_ok());
    }
    for source in [mac(0), mac(1)] {
        assert_eq!(
            switch.ingress(&data(mac(0), source), B, NOW),
            Err(Refused::ForeignSource)
        );
    }

    let here = forwarding(config(GATEWAY, &[HOST]));
    assert!(here.egress(&data(mac(1), station(1)), NOW).is_ok());
    assert_eq!(
        here.egress(&data(Mac::BROADCAST, mac(1)), NOW),
        Err(Refused::ForeignSource)
    );
}

#[test]
fn groups_and_zero_send_nothing() {
    let switch = forwarding(config(GATEWAY, &[GATEWAY]));
    for source in [Mac::BROADCAST, Mac([3, 0, 0, 0, 0, 1]), Mac::ZERO] {
        assert_eq!(
            switch.egress(&data(Mac::BROADCAST, source), NOW),
            Err(Refused::BadSource)
        );
        assert_eq!(
            switch.ingress(&data(mac(0), source), A, NOW),
            Err(Refused::BadSource)
        );
    }
}

#[test]
fn a_stranger_is_not_heard() {
    let switch = Switch::new(config(HOST, &[HOST]));
    assert_eq!(
        switch.ingress(&data(mac(0), mac(9)), PeerId(9), NOW),
        Err(Refused::UnknownPeer)
    );
}

#[test]
fn spoofing_is_counted_per_peer_with_the_address_that_was_used() {
    let switch = Switch::new(config(HOST, &[HOST, HOST]));
    let claim = arp(2, (mac(1), ip4(2)), (mac(0), ip4(0)));
    let _ = switch.ingress(&frame(mac(0), mac(1), ARP, &claim), A, NOW);
    let _ = switch.ingress(&data(mac(0), mac(2)), A, NOW);
    let _ = switch.ingress(&data(station(1), mac(2)), B, NOW);

    let spoofing = switch.spoofing();

    assert_eq!(spoofing.len(), 1);
    assert_eq!(
        (spoofing[0].peer, spoofing[0].mac, spoofing[0].count),
        (A, mac(2), 2)
    );
    let counted: Vec<_> = switch.refusals().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        counted,
        [
            (Refused::ForeignSource, 1),
            (Refused::ForeignClaim, 1),
            (Refused::NotHere, 1)
        ]
    );
}

// What frames from peers are for us.

#[test]
fn a_host_takes_what_is_for_it_and_for_groups() {
    let switch = Switch::new(config(HOST, &[HOST, HOST]));
    assert!(switch.ingress(&data(mac(0), mac(1)), A, NOW).is_ok());
    assert!(
        switch
            .ingress(&data(Mac::BROADCAST, mac(1)), A, NOW)
            .is_ok()
    );
    for elsewhere in [mac(2), station(1), mac(1)] {
        assert_eq!(
            switch.ingress(&data(elsewhere, mac(1)), A, NOW),
            Err(Refused::NotHere)
        );
    }
}

#[test]
fn a_gateway_takes_what_may_be_for_its_lan() {
    let switch = forwarding(config(GATEWAY, &[HOST, HOST]));
    for here in [mac(0), station(1), Mac::BROADCAST] {
        assert!(switch.ingress(&data(here, mac(1)), A, NOW).is_ok());
    }
    assert_eq!(
        switch.ingress(&data(mac(2), mac(1)), A, NOW),
        Err(Refused::NotHere)
    );
}

// Any Ethernet.

#[test]
fn any_ethertype_and_tagged_frames_pass() {
    let switch = Switch::new(config(HOST, &[HOST]));
    for ethertype in [IPX, 0x88b5, 0x0842, 0x05dc, 0x0000, 0xffff] {
        let plain = frame(mac(1), mac(0), ethertype, &[0; 46]);
        for frame in [
            plain.clone(),
            tagged(&plain, VLAN, 42),
            tagged(&tagged(&plain, VLAN, 42), 0x88a8, 7),
        ] {
            assert!(switch.egress(&frame, NOW).is_ok());
        }
    }
}

#[test]
fn runts_are_malformed() {
    let switch = Switch::new(config(HOST, &[HOST]));
    for len in 0..14 {
        let runt = &data(mac(1), mac(0))[..len];
        assert_eq!(switch.egress(runt, NOW), Err(Refused::Malformed));
        assert_eq!(switch.ingress(runt, A, NOW), Err(Refused::Malformed));
    }
}

// ARP.

#[test]
fn a_host_answers_for_itself_only() {
    let asks = (Mac::ZERO, ip4(0));
    assert_eq!(
        from_a(HOST, nothing, ARP, &arp(1, (mac(1), ip4(1)), asks)),
        Ok(())
    );
    for (mac, ip) in [(mac(1), ip4(2)), (mac(1), ip4(0)), (mac(2), ip4(1))] {
        assert_eq!(
            from_a(HOST, nothing, ARP, &arp(2, (mac, ip), asks)),
            Err(Refused::ForeignClaim)
        );
    }
}

#[test]
fn gratuitous_arp_and_probes_are_honoured() {
    let announced = arp(1, (mac(1), ip4(1)), (Mac::ZERO, ip4(1)));
    let probe = arp(1, (mac(1), Ipv4Addr::UNSPECIFIED), (Mac::ZERO, ip4(2)));
    assert_eq!(from_a(HOST, managed, ARP, &announced), Ok(()));
    assert_eq!(from_a(HOST, managed, ARP, &probe), Ok(()));
}

#[test]
fn an_address_that_nobody_has_is_free_where_members_give_addresses_out() {
    let claim = arp(1, (mac(1), NOBODYS), (Mac::ZERO, ip4(0)));
    assert_eq!(from_a(HOST, nothing, ARP, &claim), Ok(()));
    assert_eq!(
        from_a(HOST, managed, ARP, &claim),
        Err(Refused::ForeignClaim)
    );
}

#[test]
fn an_address_that_nobody_has_is_free_to_a_member_without_addresses_in_the_netmap() {
    let claim = arp(1, (mac(1), NOBODYS), (Mac::ZERO, ip4(0)));
    let unlisted = |config: &mut Config| {
        managed(config);
        config.peers[0].1.ips.retain(IpAddr::is_ipv6);
    };
    assert_eq!(from_a(HOST, unlisted, ARP, &claim), Ok(()));
    let anothers = arp(1, (mac(1), ip4(2)), (Mac::ZERO, ip4(0)));
    assert_eq!(
        from_a(HOST, unlisted, ARP, &anothers),
        Err(Refused::ForeignClaim)
    );
}

#[test]
fn a_shared_address_is_free_to_each_member_and_a_members_own_is_not() {
    let shared = |config: &mut Config| {
        managed(config);
        config.policy.shared_ips = vec![NOBODYS.into(), ip4(2).into()];
    };
    let claim = arp(1, (mac(1), NOBODYS), (Mac::ZERO, NOBODYS));
    assert_eq!(from_a(HOST, shared, ARP, &claim), Ok(()));
    let with_anothers_mac = arp(2, (mac(2), NOBODYS), (Mac::ZERO, ip4(0)));
    let bound = arp(1, (mac(1), ip4(2)), (Mac::ZERO, ip4(2)));
    for claim in [with_anothers_mac, bound] {
        assert_eq!(
            from_a(HOST, shared, ARP, &claim),
            Err(Refused::ForeignClaim)
        );
    }
}

#[test]
fn a_gateway_speaks_for_its_lan_but_for_no_member() {
    let lan = arp(2, (station(1), NOBODYS), (mac(0), ip4(0)));
    assert_eq!(from_a(GATEWAY, managed, ARP, &lan), Ok(()));
    let of_a_member = arp(2, (station(1), ip4(2)), (mac(0), ip4(0)));
    assert_eq!(
        from_a(GATEWAY, managed, ARP, &of_a_member),
        Err(Refused::ForeignClaim)
    );
}

#[test]
fn arp_is_found_behind_tags_and_snap_and_refused_where_it_could_hide() {
    let switch = Switch::new(config(HOST, &[HOST, HOST]));
    let plain = frame(
        Mac::BROADCAST,
        mac(1),
        ARP,
        &arp(2, (mac(1), ip4(2)), (mac(0), ip4(0))),
    );
    let once = tagged(&plain, VLAN, 0);
    let twice = tagged(&once, 0x88a8, 0);
    for found in [
        &plain,
        &once,
        &twice,
        &snap(&plain),
        &tagged(&snap(&plain), VLAN, 0),
    ] {
        assert_eq!(switch.ingress(found, A, NOW), Err(Refused::ForeignClaim));
    }
    for hidden in [tagged(&twice, VLAN, 0), snap(&once)] {
        assert_eq!(switch.ingress(&hidden, A, NOW), Err(Refused::Concealed));
    }
    let cut_short = &plain[..plain.len() - 1];
    assert_eq!(switch.ingress(cut_short, A, NOW), Err(Refused::Concealed));
}

#[test]
fn our_own_tap_is_held_to_the_same_rules() {
    let switch = Switch::new(config(HOST, &[HOST]));
    let send = |ethertype, payload: &[u8]| {
        switch
            .egress(&frame(Mac::BROADCAST, mac(0), ethertype, payload), NOW)
            .map(|_| ())
    };
    assert_eq!(
        send(ARP, &arp(1, (mac(0), ip4(0)), (Mac::ZERO, ip4(1)))),
        Ok(())
    );
    assert_eq!(
        send(ARP, &arp(1, (mac(0), ip4(1)), (Mac::ZERO, ip4(1)))),
        Err(Refused::ForeignClaim)
    );
    assert_eq!(
        send(
            IPV6,
            &ipv6(ip6(0), ALL_NODES, 58, &router_advertisement(None))
        ),
        Err(Refused::Router)
    );
}

// Neighbor Discovery.

#[test]
fn a_host_solicits_and_advertises_for_itself_only() {
    let good = [
        (ip6(1), solicitation(ip6(2), Some(mac(1)))),
        (ip6(1), advertisement(ip6(1), Some(mac(1)))),
        (ip6(1), advertisement(ip6(1), None)),
        (ip6(1), router_solicitation(Some(mac(1)))),
    ];
    for (source, message) in good {
        let packet = ipv6(source, ALL_NODES, 58, &message);
        assert_eq!(from_a(HOST, managed, IPV6, &packet), Ok(()));
    }
    let bad = [
        (ip6(2), solicitation(ip6(0), Some(mac(1)))),
        (ip6(1), solicitation(ip6(0), Some(mac(2)))),
        (ip6(1), advertisement(ip6(2), Some(mac(1)))),
        (ip6(1), advertisement(ip6(1), Some(mac(2)))),
        (ip6(1), advertisement(ip6(1), Some(station(1)))),
        (ip6(1), router_solicitation(Some(mac(2)))),
    ];
    for (source, message) in bad {
        let packet = ipv6(source, ALL_NODES, 58, &message);
        for policy in [nothing, managed] {
            assert_eq!(
                from_a(HOST, policy, IPV6, &packet),
                Err(Refused::ForeignClaim)
            );
        }
    }
}

#[test]
fn duplicate_address_detection_may_ask_for_any_address() {
    let probe = solicitation(ip6(2), None);
    let packet = ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, 58, &probe);
    assert_eq!(from_a(HOST, managed, IPV6, &packet), Ok(()));
}

#[test]
fn link_local_addresses_need_not_be_listed_but_are_their_owners() {
    let link_local =
        |number: u8| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, u16::from(number));
    let privacy = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x1234, 0x5678, 0x9abc, 0xdef0);
    for own in [link_local(1), privacy] {
        let packet = ipv6(own, ALL_NODES, 58, &advertisement(own, Some(mac(1))));
        assert_eq!(from_a(HOST, managed, IPV6, &packet), Ok(()));
    }
    let anothers = link_local(2);
    let packet = ipv6(
        anothers,
        ALL_NODES,
        58,
        &advertisement(anothers, Some(mac(1))),
    );
    assert_eq!(
        from_a(HOST, managed, IPV6, &packet),
        Err(Refused::ForeignClaim)
    );
}

#[test]
fn only_gateways_advertise_and_redirect_unless_the_policy_lets_hosts() {
    let allowed = |config: &mut Config| config.policy.ra_from_hosts = true;
    let messages = [
        router_advertisement(Some(mac(1))),
        redirect(ip6(2), ip6(3), Some(mac(2))),
    ];
    for message in messages {
        let packet = ipv6(ip6(1), ALL_NODES, 58, &message);
        assert_eq!(from_a(HOST, nothing, IPV6, &packet), Err(Refused::Router));
        assert_eq!(from_a(HOST, allowed, IPV6, &packet), Ok(()));
        assert_eq!(from_a(GATEWAY, nothing, IPV6, &packet), Ok(()));
    }
}

#[test]
fn a_router_advertisement_is_found_behind_extension_headers() {
    let message = router_advertisement(None);
    let hop_by_hop = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
    let authenticated = [&[58, 4][..], &[0; 22], &message].concat();
    let cases = [(0, hop_by_hop), (51, authenticated)];
    for (next, payload) in cases {
        let packet = ipv6(ip6(1), ALL_NODES, next, &payload);
        assert_eq!(from_a(HOST, nothing, IPV6, &packet), Err(Refused::Router));
    }
}

#[test]
fn discovery_that_is_fragmented_or_cut_short_is_refused() {
    let message = router_advertisement(None);
    let atomic = [&[58, 0, 0, 0, 0, 0, 0, 9][..], &message].concat();
    let headless = [&[60, 0, 0, 1, 0, 0, 0, 9][..], &[58, 3, 0, 0, 0, 0, 0, 0]].concat();
    let bad_option = [&advertisement(ip6(1), None)[..], &[2, 0, 0, 0, 0, 0, 0, 0]].concat();
    let too_deep = [&[60, 0, 0, 0, 0, 0, 0, 0].repeat(9)[..], &message].concat();
    for (next, payload) in [
        (44, atomic),
        (44, headless),
        (58, bad_option),
        (58, message[..15].to_vec()),
        (60, too_deep),
    ] {
        let packet = ipv6(ip6(1), ALL_NODES, next, &payload);
        assert_eq!(
            from_a(HOST, nothing, IPV6, &packet),
            Err(Refused::Concealed)
        );
    }
}

#[test]
fn fragments_of_other_packets_pass() {
    let first = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &udp(1000, 2000)].concat();
    let second = [&[17, 0, 5, 1, 0, 0, 0, 9][..], &[0xff; 3]].concat();
    for payload in [first, second] {
        let packet = ipv6(ip6(1), ip6(0), 44, &payload);
        assert_eq!(from_a(HOST, managed, IPV6, &packet), Ok(()));
    }
    let mut packet = ipv4(ip4(1), ip4(0), 17, &[1]);
    packet[6..8].copy_from_slice(&[0x20, 0x10]);
    assert_eq!(from_a(HOST, managed, IPV4, &packet), Ok(()));
}

// DHCP.

#[test]
fn a_dhcp_server_in_a_host_is_a_matter_of_policy() {
    let offers = [
        (IPV4, ipv4(ip4(1), Ipv4Addr::BROADCAST, 17, &udp(67, 68))),
        (IPV6, ipv6(ip6(1), ALL_NODES, 17, &udp(547, 546))),
    ];
    for (ethertype, packet) in offers {
        assert_eq!(from_a(HOST, nothing, ethertype, &packet), Ok(()));
        assert_eq!(
            from_a(HOST, managed, ethertype, &packet),
            Err(Refused::DhcpServer)
        );
        assert_eq!(from_a(GATEWAY, managed, ethertype, &packet), Ok(()));
    }
}

#[test]
fn a_dhcp_client_may_always_ask() {
    let discover = ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &udp(68, 67));
    assert_eq!(from_a(HOST, managed, IPV4, &discover), Ok(()));
}

// Storm limit.

#[test]
fn copies_share_one_budget_and_unicast_is_free() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    for turn in 0..400 {
        let to = if turn % 2 == 0 {
            Mac::BROADCAST
        } else {
            station(1)
        };
        assert!(switch.egress(&data(to, mac(0)), NOW).is_ok());
    }

    assert_eq!(
        switch.egress(&data(Mac::BROADCAST, mac(0)), NOW),
        Err(Refused::StormLimit)
    );
    assert_eq!(
        switch.egress(&data(station(1), mac(0)), NOW),
        Err(Refused::StormLimit)
    );
    assert!(switch.egress(&data(mac(1), mac(0)), NOW).is_ok());
    let later = NOW + Duration::from_millis(5);
    assert!(switch.egress(&data(Mac::BROADCAST, mac(0)), later).is_ok());
}

#[test]
fn a_peer_that_storms_uses_up_its_own_budget_and_nobody_elses() {
    let switch = Switch::new(config(HOST, &[HOST, HOST]));
    let storm = data(Mac::BROADCAST, mac(1));
    let passed = (0..1_000).filter(|_| switch.ingress(&storm, A, NOW).is_ok());

    assert_eq!(passed.count(), 400);
    assert!(switch.ingress(&data(mac(0), mac(1)), A, NOW).is_ok());
    assert!(
        switch
            .ingress(&data(Mac::BROADCAST, mac(2)), B, NOW)
            .is_ok()
    );
}

#[test]
fn refused_frames_cost_no_budget() {
    let switch = Switch::new(config(HOST, &[HOST]));
    for _ in 0..1_000 {
        let _ = switch.ingress(&data(Mac::BROADCAST, station(1)), A, NOW);
    }
    assert!(
        switch
            .ingress(&data(Mac::BROADCAST, mac(1)), A, NOW)
            .is_ok()
    );
}

// Learning.

#[test]
fn a_station_behind_a_gateway_is_learned_until_it_ages_out() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    let heard = data(mac(0), station(1));

    assert_eq!(
        switch
            .ingress(&heard, B, NOW)
            .map(|accepted| accepted.learn),
        Ok(Some(station(1)))
    );
    assert_eq!(switch.learn(station(1), B, NOW), Learning::New);
    assert_eq!(
        switch
            .ingress(&heard, B, after(100))
            .map(|accepted| accepted.learn),
        Ok(None)
    );

    let answer = data(station(1), mac(0));
    assert_eq!(switch.egress(&answer, after(399)), Ok(Egress::Unicast(B)));
    assert_eq!(switch.learned(after(399)).len(), 1);
    assert_eq!(switch.egress(&answer, after(400)), Ok(Egress::Flood(&[B])));
    assert_eq!(switch.learned(after(400)).len(), 0);
}

#[test]
fn a_station_that_moves_to_another_gateway_is_followed() {
    let switch = Switch::new(config(HOST, &[GATEWAY, GATEWAY]));
    switch.learn(station(1), A, NOW);

    let heard = switch.ingress(&data(mac(0), station(1)), B, after(1));
    assert_eq!(heard.map(|accepted| accepted.learn), Ok(Some(station(1))));
    assert_eq!(switch.learn(station(1), B, after(1)), Learning::Moved(A));
    assert_eq!(
        switch.egress(&data(station(1), mac(0)), after(1)),
        Ok(Egress::Unicast(B))
    );
}

#[test]
fn a_station_that_comes_to_our_lan_is_no_longer_looked_for_elsewhere() {
    let switch = forwarding(config(GATEWAY, &[GATEWAY]));
    switch.learn(station(1), A, NOW);

    assert!(
        switch
            .egress(&data(Mac::BROADCAST, station(1)), NOW)
            .is_ok()
    );

    assert_eq!(switch.learned(NOW), []);
}

#[test]
fn nothing_is_learned_from_hosts_or_of_members() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    assert_eq!(switch.learn(station(1), A, NOW), Learning::Refused);
    assert_eq!(switch.learn(station(1), PeerId(9), NOW), Learning::Refused);
    for bound in [mac(0), mac(1), mac(2), Mac::BROADCAST, Mac::ZERO] {
        assert_eq!(switch.learn(bound, B, NOW), Learning::Refused);
    }
}

#[test]
fn a_mac_flood_harms_no_binding_and_the_table_stays_within_its_cap() {
    let mut config = config(HOST, &[HOST, GATEWAY]);
    config.policy.learned_cap = 100;
    let switch = Switch::new(config);
    for number in 0..100_000_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        let source = Mac([0, 0x10, 0, b, c, d]);
        let heard = switch.ingress(&data(mac(0), source), B, NOW).unwrap();
        switch.learn(heard.learn.unwrap(), B, NOW);
    }

    assert!(switch.learned(NOW).len() <= 112);
    assert!(switch.evicted() > 99_000);
    assert_eq!(
        switch.egress(&data(mac(1), mac(0)), NOW),
        Ok(Egress::Unicast(A))
    );
}

// Newer netmaps.

#[test]
fn a_newer_netmap_keeps_what_was_learned_spent_and_counted() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    switch.learn(station(1), B, NOW);
    for _ in 0..400 {
        let _ = switch.ingress(&data(Mac::BROADCAST, mac(1)), A, NOW);
        let _ = switch.egress(&data(Mac::BROADCAST, mac(0)), NOW);
    }
    let _ = switch.ingress(&data(mac(0), mac(2)), A, NOW);

    let newer = switch.rebuild(config(HOST, &[HOST, GATEWAY, HOST]));

    assert_eq!(
        newer.egress(&data(station(1), mac(0)), NOW),
        Ok(Egress::Unicast(B))
    );
    assert_eq!(
        newer.ingress(&data(Mac::BROADCAST, mac(1)), A, NOW),
        Err(Refused::StormLimit)
    );
    assert_eq!(
        newer.egress(&data(Mac::BROADCAST, mac(0)), NOW),
        Err(Refused::StormLimit)
    );
    assert_eq!(newer.spoofing().len(), 1);
}

#[test]
fn a_removed_peer_is_not_heard_and_what_was_behind_it_is_forgotten() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY, GATEWAY]));
    switch.learn(station(1), B, NOW);
    switch.learn(station(2), PeerId(3), NOW);

    let mut without = config(HOST, &[HOST, GATEWAY, GATEWAY]);
    without.peers.remove(1);
    let newer = switch.rebuild(without);

    assert_eq!(
        newer.ingress(&data(mac(0), mac(2)), B, NOW),
        Err(Refused::UnknownPeer)
    );
    let left: Vec<_> = newer.learned(NOW).iter().map(|known| known.mac).collect();
    assert_eq!(left, [station(2)]);
}

#[test]
fn a_newcomer_does_not_inherit_what_was_behind_the_one_it_replaces() {
    let switch = Switch::new(config(HOST, &[GATEWAY]));
    switch.learn(station(1), A, NOW);

    let mut replaced = config(HOST, &[GATEWAY]);
    replaced.peers[0].0 = PeerId(77);
    let newer = switch.rebuild(replaced);

    assert_eq!(newer.learned(NOW), []);
    assert_eq!(newer.learn(station(2), PeerId(77), NOW), Learning::New);
    assert_eq!(
        newer.egress(&data(station(2), mac(0)), NOW),
        Ok(Egress::Unicast(PeerId(77)))
    );
}

#[test]
fn an_address_that_becomes_bound_is_no_longer_learned() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    switch.learn(station(1), B, NOW);

    let mut bound = config(HOST, &[HOST, GATEWAY]);
    bound.peers[0].1.macs.push(station(1));
    let newer = switch.rebuild(bound);

    assert_eq!(
        newer.egress(&data(station(1), mac(0)), NOW),
        Ok(Egress::Unicast(A))
    );
    assert_eq!(newer.learned(NOW), []);
}

#[test]
fn an_address_bound_twice_is_this_nodes_first_then_the_first_listed_members() {
    let mut twice = config(HOST, &[HOST, HOST]);
    twice.local.macs.push(station(1));
    for (_, peer) in &mut twice.peers {
        peer.macs.extend([station(1), station(2)]);
    }
    let switch = Switch::new(twice);

    assert_eq!(
        switch.egress(&data(station(1), mac(0)), NOW),
        Err(Refused::SameSide)
    );
    assert_eq!(
        switch.egress(&data(station(2), mac(0)), NOW),
        Ok(Egress::Unicast(A))
    );
    // A move that is under way cuts neither of them off.
    for peer in [A, B] {
        assert!(switch.ingress(&data(mac(0), station(2)), peer, NOW).is_ok());
    }
}

#[test]
fn a_changed_cap_keeps_what_was_learned() {
    let switch = Switch::new(config(HOST, &[GATEWAY]));
    for number in 0..100 {
        switch.learn(station(number), A, NOW);
    }
    let mut larger = config(HOST, &[GATEWAY]);
    larger.policy.learned_cap = 8_192;

    let newer = switch.rebuild(larger);

    assert_eq!(newer.learned(NOW).len(), 100);
}

// Gateways: the gate.

/// Member 0, a gateway, and peers of these roles; members give out no addresses.
fn at_the_edge(peers: &[Role]) -> Config {
    let mut config = config(GATEWAY, peers);
    managed(&mut config);
    config
}

#[test]
fn a_gateway_carries_nothing_until_its_gate_is_opened_and_nothing_after() {
    let switch = Switch::new(at_the_edge(&[HOST, GATEWAY]));
    let out = data(mac(1), station(1));
    let question = arp(1, (station(1), NOBODYS), (Mac::ZERO, ip4(1)));
    let question = frame(Mac::BROADCAST, station(1), ARP, &question);
    let into = data(station(1), mac(1));
    let passes = |now| {
        let to_vsubnet = switch.egress(&out, now);
        let asked = switch.egress(&question, now);
        let to_lan = switch
            .ingress(&into, A, now)
            .expect("nothing is wrong with it");
        assert_eq!(to_vsubnet.is_ok(), asked.is_ok());
        assert_eq!(to_vsubnet.is_ok(), to_lan.withheld.is_none());
        if to_vsubnet.is_err() {
            assert_eq!(to_vsubnet, Err(Refused::GateClosed));
            assert_eq!(to_lan.withheld, Some(Refused::GateClosed));
        }
        to_vsubnet.is_ok()
    };
    assert!(!passes(NOW));
    let gate = switch.gate().expect("a gateway has one");
    gate.set(4, after(2)).expect("the first term");
    assert!(passes(NOW) && passes(after(1)));
    assert!(!passes(after(2)) && !passes(after(3)));
    gate.set(4, after(9)).expect("the same term");
    assert!(passes(after(3)));
    gate.set(5, Time::ZERO).expect("a newer term");
    assert!(!passes(after(3)));
    assert_eq!(count_of(&switch, Refused::GateClosed), 12);
}

fn count_of(switch: &Switch, reason: Refused) -> u64 {
    let mut counts = switch.refusals();
    counts
        .find(|(other, _)| *other == reason)
        .expect("has a counter")
        .1
}

#[test]
fn a_host_has_no_gate() {
    assert!(Switch::new(config(HOST, &[GATEWAY])).gate().is_none());
}

#[test]
fn a_newer_netmap_leaves_the_gate_as_it_is_and_a_change_of_role_closes_it() {
    let switch = Switch::new(config(GATEWAY, &[HOST]));
    switch
        .gate()
        .expect("has one")
        .set(3, after(10))
        .expect("opened");
    let newer = switch.rebuild(config(GATEWAY, &[HOST, HOST]));
    assert!(newer.egress(&data(mac(1), station(1)), NOW).is_ok());
    newer
        .gate()
        .expect("has one")
        .set(3, Time::ZERO)
        .expect("closed");
    assert!(
        switch.egress(&data(mac(1), station(1)), NOW).is_err(),
        "it is the same gate"
    );

    newer
        .gate()
        .expect("has one")
        .set(3, after(10))
        .expect("opened");
    let again = newer
        .rebuild(config(HOST, &[HOST]))
        .rebuild(config(GATEWAY, &[HOST]));
    assert_eq!(
        again.egress(&data(mac(1), station(1)), NOW),
        Err(Refused::GateClosed)
    );
}

#[test]
fn a_gateway_that_stands_by_learns_what_is_behind_others() {
    let switch = Switch::new(config(GATEWAY, &[GATEWAY]));
    let heard = switch
        .ingress(&data(Mac::BROADCAST, station(1)), A, NOW)
        .expect("checked");
    assert_eq!(heard.learn, Some(station(1)));
}

// Gateways: loop probes.

#[test]
fn loop_probes_of_gateways_pass_a_closed_gate_and_go_to_everybody() {
    let probe = loop_probe(mac(0));
    let switch = Switch::new(config(GATEWAY, &[HOST, GATEWAY]));
    assert_eq!(switch.egress(&probe, NOW), Ok(Egress::Flood(&[A, B])));

    for local in [HOST, GATEWAY] {
        let there = Switch::new(config(local, &[HOST, GATEWAY]));
        let accepted = there.ingress(&loop_probe(mac(2)), B, NOW);
        assert_eq!(accepted, Ok(Accepted::default()));
    }
}

#[test]
fn a_host_neither_sends_nor_passes_for_a_sender_of_loop_probes() {
    let switch = Switch::new(config(HOST, &[HOST, GATEWAY]));
    let mut broadcast = loop_probe(mac(0));
    broadcast[..6].copy_from_slice(&Mac::BROADCAST.0);
    for probe in [
        loop_probe(mac(0)),
        tagged(&loop_probe(mac(0)), VLAN, 5),
        broadcast,
    ] {
        assert_eq!(switch.egress(&probe, NOW), Err(Refused::LoopProbe));
    }
    assert_eq!(
        switch.ingress(&loop_probe(mac(1)), A, NOW),
        Err(Refused::LoopProbe)
    );
    // The EtherType without our mark is anybody's.
    let other = frame(mac(1), mac(0), EXPERIMENT, b"an experiment");
    assert!(switch.egress(&other, NOW).is_ok());
}

#[test]
fn a_loop_probe_to_one_station_is_none_and_one_from_another_address_is_foreign() {
    let switch = forwarding(config(GATEWAY, &[HOST, GATEWAY]));
    let mut to_one = loop_probe(mac(0));
    to_one[..6].copy_from_slice(&mac(1).0);
    assert_eq!(switch.egress(&to_one, NOW), Err(Refused::LoopProbe));
    assert_eq!(
        switch.egress(&loop_probe(mac(1)), NOW),
        Err(Refused::ForeignSource)
    );
    assert_eq!(
        switch.ingress(&loop_probe(mac(1)), B, NOW),
        Err(Refused::ForeignSource)
    );
}

#[test]
fn loop_probes_have_a_budget_of_their_own_in_each_direction() {
    let switch = forwarding(config(GATEWAY, &[HOST, GATEWAY]));
    let sent = (0..100).filter(|_| switch.egress(&loop_probe(mac(0)), NOW).is_ok());
    assert_eq!(sent.count(), 20);
    assert_eq!(
        switch.egress(&loop_probe(mac(0)), NOW),
        Err(Refused::LoopProbeLimit)
    );
    let heard = (0..100).filter(|_| switch.ingress(&loop_probe(mac(2)), B, NOW).is_ok());
    assert_eq!(heard.count(), 20);
    assert!(
        switch
            .egress(&data(Mac::BROADCAST, station(1)), NOW)
            .is_ok()
    );
    assert!(
        switch
            .ingress(&data(Mac::BROADCAST, mac(2)), B, NOW)
            .is_ok()
    );
}

// Gateways: what a LAN asks.

fn lan_asks(target: Ipv4Addr) -> Vec<u8> {
    let question = arp(
        1,
        (station(1), Ipv4Addr::new(10, 7, 0, 99)),
        (Mac::ZERO, target),
    );
    frame(Mac::BROADCAST, station(1), ARP, &question)
}

#[test]
fn a_lan_that_asks_for_a_member_is_answered_at_its_gateway() {
    let switch = forwarding(at_the_edge(&[HOST, GATEWAY]));
    let (peer, reply) = answer(&switch, &lan_asks(ip4(1))).expect("answered");
    assert_eq!(peer, A);
    assert_eq!(reply[..12], [station(1).0, mac(1).0].concat()[..]);

    let by = (station(1), ip6(99));
    let question = neighbour_question(by, ip6(1), Some(station(1)));
    assert!(answer(&switch, &question).is_some());

    let mut unmanaged = at_the_edge(&[HOST]);
    unmanaged.policy.dhcp_server_from_hosts = true;
    assert!(is_flooded(&forwarding(unmanaged), &lan_asks(ip4(1))));
}

#[test]
fn what_nobody_is_bound_to_is_looked_for_on_other_lans_only() {
    let unknown = Ipv4Addr::new(10, 7, 0, 77);
    let switch = forwarding(at_the_edge(&[HOST, GATEWAY]));
    assert_eq!(
        switch.egress(&lan_asks(unknown), NOW),
        Ok(Egress::Flood(&[B]))
    );
    let link_local = Ipv4Addr::new(169, 254, 1, 1);
    assert_eq!(
        switch.egress(&lan_asks(link_local), NOW),
        Ok(Egress::Flood(&[A, B]))
    );
    let alone = forwarding(at_the_edge(&[HOST]));
    assert_eq!(
        alone.egress(&lan_asks(unknown), NOW),
        Err(Refused::UnknownDestination)
    );
    let mut shared = at_the_edge(&[HOST, GATEWAY]);
    shared.policy.shared_ips = vec![unknown.into()];
    assert_eq!(
        forwarding(shared).egress(&lan_asks(unknown), NOW),
        Ok(Egress::Flood(&[A, B])),
        "a host may hold it just now"
    );
    let mut unlisted = at_the_edge(&[HOST, GATEWAY]);
    unlisted.peers[0].1.ips.retain(IpAddr::is_ipv6);
    assert_eq!(
        forwarding(unlisted).egress(&lan_asks(unknown), NOW),
        Ok(Egress::Flood(&[A, B])),
        "a host may have it"
    );
}

#[test]
fn a_gateway_needs_no_ip_addresses() {
    let mut config = at_the_edge(&[HOST, GATEWAY]);
    config.local.ips.clear();
    config.peers[1].1.ips.clear();
    let switch = forwarding(config);
    assert!(answer(&switch, &lan_asks(ip4(1))).is_some());
    let reply = arp(2, (station(2), NOBODYS), (mac(1), ip4(1)));
    let reply = frame(mac(1), station(2), ARP, &reply);
    assert_eq!(switch.egress(&reply, NOW), Ok(Egress::Unicast(A)));
    let heard = frame(station(3), station(2), ARP, &reply[14..]);
    assert!(switch.ingress(&heard, B, NOW).is_ok());
}

// Gateways: who is where.

#[test]
fn an_announcement_teaches_at_once_where_a_station_is_now() {
    let switch = Switch::new(config(HOST, &[GATEWAY, GATEWAY]));
    switch.learn(station(1), A, NOW);
    let rarp = arp(
        3,
        (station(1), Ipv4Addr::UNSPECIFIED),
        (station(1), Ipv4Addr::UNSPECIFIED),
    );
    let rarp = frame(Mac::BROADCAST, station(1), RARP, &rarp);

    let here = forwarding(config(GATEWAY, &[HOST]));
    assert_eq!(here.egress(&rarp, NOW), Ok(Egress::Flood(&[A])));
    let heard = switch
        .ingress(&rarp, B, after(1))
        .expect("any EtherType passes");
    assert_eq!(heard.learn, Some(station(1)));
    assert_eq!(switch.learn(station(1), B, after(1)), Learning::Moved(A));
    assert_eq!(
        switch.egress(&data(station(1), mac(0)), after(1)),
        Ok(Egress::Unicast(B))
    );
}

#[test]
fn what_was_behind_a_peer_is_forgotten_on_request_and_nothing_else() {
    let switch = Switch::new(config(HOST, &[GATEWAY, GATEWAY]));
    for number in 0..10 {
        switch.learn(station(number), if number < 7 { A } else { B }, NOW);
    }
    assert_eq!(switch.forget_behind(A), 7);
    assert_eq!(switch.forget_behind(A), 0);
    assert_eq!(switch.forget_behind(PeerId(9)), 0);
    assert_eq!(switch.learned(NOW).len(), 3);
    assert_eq!(
        switch.egress(&data(station(1), mac(0)), NOW),
        Ok(Egress::Flood(&[A, B]))
    );
}

#[test]
fn a_station_of_the_own_lan_is_not_looked_for_elsewhere() {
    let switch = forwarding(config(GATEWAY, &[GATEWAY]));
    let to_station = data(station(2), station(1));
    assert_eq!(switch.egress(&to_station, NOW), Ok(Egress::Flood(&[A])));
    assert!(
        switch
            .egress(&data(Mac::BROADCAST, station(2)), NOW)
            .is_ok()
    );
    assert_eq!(switch.egress(&to_station, NOW), Err(Refused::SameSide));

    let moved = switch
        .ingress(&data(Mac::BROADCAST, station(2)), A, after(9))
        .expect("moved");
    assert_eq!((moved.learn, moved.reflected), (Some(station(2)), false));
    switch.learn(station(2), A, after(9));
    assert_eq!(switch.egress(&to_station, after(9)), Ok(Egress::Unicast(A)));

    assert!(
        switch
            .egress(&data(Mac::BROADCAST, station(2)), after(10))
            .is_ok()
    );
    assert_eq!(switch.counters()[3], ("moved_to_lan", 1));
    assert_eq!(
        switch.egress(&to_station, after(10)),
        Err(Refused::SameSide)
    );
    let long_silent = switch.egress(&to_station, after(40));
    assert_eq!(long_silent, Ok(Egress::Flood(&[A])));
}

#[test]
fn a_frame_from_the_vsubnet_with_the_source_of_a_talking_station_is_reported() {
    let switch = forwarding(config(GATEWAY, &[GATEWAY]));
    assert!(
        switch
            .egress(&data(Mac::BROADCAST, station(1)), NOW)
            .is_ok()
    );
    let back = data(Mac::BROADCAST, station(1));
    let accepted = switch
        .ingress(&back, A, after(1))
        .expect("nothing is wrong with it");
    assert!(accepted.reflected);
    assert_eq!(switch.counters()[4], ("reflected", 1));
    assert!(
        !switch
            .ingress(&back, A, after(1))
            .expect("it has moved")
            .reflected
    );
}

// Gateways: how much crosses.

#[test]
fn no_second_sees_more_copies_of_a_lan_than_allowed_in_either_direction() {
    let switch = forwarding(config(GATEWAY, &[GATEWAY, GATEWAY]));
    let mut crossed = [Vec::new(), Vec::new()];
    for millis in 0..5_000_u64 {
        let now = NOW + Duration::from_millis(millis);
        for source in 0..10 {
            let storm = data(Mac::BROADCAST, station(source));
            if switch.egress(&storm, now).is_ok() {
                crossed[0].push(millis);
            }
            let storm = data(Mac::BROADCAST, station(100 + source));
            let from = if source % 2 == 0 { A } else { B };
            if switch
                .ingress(&storm, from, now)
                .is_ok_and(|it| it.withheld.is_none())
            {
                crossed[1].push(millis);
            }
        }
    }
    for crossed in crossed {
        assert!(crossed.len() >= 4_400, "{}", crossed.len());
        for start in 0..4_000 {
            let second = crossed
                .iter()
                .filter(|at| (start..start + 1_000).contains(*at));
            assert!(second.count() <= 1_000);
        }
    }
}

#[test]
fn one_station_can_not_use_up_what_its_lan_may_send() {
    let switch = forwarding(config(GATEWAY, &[HOST]));
    let mut passed = 0;
    for millis in 0..2_000_u64 {
        let now = NOW + Duration::from_millis(millis);
        for _ in 0..10 {
            passed += u32::from(
                switch
                    .egress(&data(Mac::BROADCAST, station(1)), now)
                    .is_ok(),
            );
        }
        if millis % 10 == 0 {
            let other = data(Mac::BROADCAST, station(2));
            assert!(switch.egress(&other, now).is_ok(), "at {millis} ms");
        }
    }
    assert!((440..=450).contains(&passed), "{passed}");
    assert!(count_of(&switch, Refused::SourceStormLimit) > 19_000);
    assert_eq!(count_of(&switch, Refused::StormLimit), 0);
}

#[test]
fn a_flood_of_sources_is_cut_where_it_comes_in_and_known_stations_go_on() {
    let switch = forwarding(config(GATEWAY, &[HOST]));
    for number in 0..200 {
        assert!(switch.egress(&data(mac(1), station(number)), NOW).is_ok());
    }
    let mut passed = 0;
    for number in 0..100_000_u64 {
        let now = after(5) + Duration::from_micros(number * 10);
        let made_up = Mac::from_bits(0x0210_0000_0000 + number);
        passed += u32::from(switch.egress(&data(mac(1), made_up), now).is_ok());
        if number % 100 == 0 {
            let known = station((number / 100 % 200) as u8);
            assert!(switch.egress(&data(mac(1), known), now).is_ok());
        }
    }
    assert!(passed <= 2_100, "{passed}");
    assert_eq!(
        u64::from(100_000 - passed),
        count_of(&switch, Refused::NewStationLimit)
    );
}
