//! The switch on arbitrary frames from all sides (BI-4): it never panics, lets nobody send from
//! another member's address, delivers only what is for this node, and no disguise of ARP or
//! Neighbor Discovery that this target can undo gets past it.
//!
//! Input: an octet of choices for the config, then steps. A step is an octet (two bits kind, the
//! rest who), an octet of length, and so many octets of frame.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cairn_engine::switch::{Config, Egress, Member, Policy, Role, Switch, is_loop_probe};
use cairn_engine::{PeerId, Time};
use cairn_wire::Mac;
use libfuzzer_sys::fuzz_target;

/// Members 0 (here) to 3, of which 3 is always a gateway.
const MEMBERS: u8 = 4;

fuzz_target!(|octets: &[u8]| {
    let Some((&choices, mut rest)) = octets.split_first() else {
        return;
    };
    let config = config(choices);
    let mut switch = Switch::new(config.clone());
    if let Some(gate) = switch.gate().filter(|_| choices & 8 == 0) {
        gate.set(1, Time::from_nanos(u64::MAX)).expect("term 1");
    }
    let mut now = Time::from_millis(10_000);
    while let [kind, len, tail @ ..] = rest {
        let (frame, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let who = kind >> 2;
        match kind & 3 {
            0 => egress(&switch, &config, frame, now),
            1 => now = now + Duration::from_secs(u64::from(who) * 10),
            2 if who == 63 => switch = switch.rebuild(config.clone()),
            _ => ingress(&switch, &config, frame, who % (MEMBERS + 1), now),
        }
    }
    assert!(switch.learned(now).len() <= config.policy.learned_cap);
});

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn ip4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 7, 0, number)
}

fn ip6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number))
}

fn config(choices: u8) -> Config {
    let role = |bit: u8| {
        if choices >> bit & 1 == 1 {
            Role::Gateway
        } else {
            Role::Host
        }
    };
    let member = |number: u8, role| Member {
        role,
        macs: vec![mac(number)],
        ips: vec![IpAddr::V4(ip4(number)), IpAddr::V6(ip6(number))],
    };
    let peer = |number, role| (PeerId(u32::from(number)), member(number, role));
    Config {
        local: member(0, role(0)),
        peers: vec![
            peer(1, role(1)),
            peer(2, Role::Host),
            peer(3, Role::Gateway),
        ],
        policy: Policy {
            learned_cap: 32,
            dhcp_server_from_hosts: choices & 4 == 0,
            ra_from_hosts: false,
            shared_ips: Vec::new(),
            ..Policy::default()
        },
        hash_seed: 7,
    }
}

fn member(config: &Config, number: u8) -> Option<&Member> {
    match number {
        0 => Some(&config.local),
        _ => config
            .peers
            .get(usize::from(number) - 1)
            .map(|(_, member)| member),
    }
}

fn egress(switch: &Switch, config: &Config, frame: &[u8], now: Time) {
    let Ok(egress) = switch.egress(frame, now) else {
        return;
    };
    assert!(is_open(switch, now) || is_loop_probe(frame));
    let to = match egress {
        Egress::Unicast(peer) => vec![peer],
        Egress::Flood(peers) => peers.to_vec(),
        Egress::Answer(answer) => {
            let speaks_for = u8::try_from(answer.peer.0).expect("a member");
            assert!((1..MEMBERS).contains(&speaks_for));
            assert_eq!(address(answer.frame(), 0), address(frame, 6));
            assert_eq!(address(answer.frame(), 6), mac(speaks_for));
            honest(config, speaks_for, answer.frame());
            vec![answer.peer]
        }
    };
    assert!(!to.is_empty() && to.len() < usize::from(MEMBERS));
    for peer in to {
        assert!(config.peers.iter().any(|(known, _)| *known == peer));
    }
    honest(config, 0, frame);
}

fn is_open(switch: &Switch, now: Time) -> bool {
    switch.gate().is_none_or(|gate| gate.is_open(now))
}

fn ingress(switch: &Switch, config: &Config, frame: &[u8], from: u8, now: Time) {
    let peer = PeerId(u32::from(from));
    let Ok(accepted) = switch.ingress(frame, peer, now) else {
        return;
    };
    assert!(accepted.withheld.is_some() || is_open(switch, now) || is_loop_probe(frame));
    assert!(from != 0 && from < MEMBERS, "a stranger was heard");
    honest(config, from, frame);
    let destination = address(frame, 0);
    let elsewhere = (1..MEMBERS).any(|number| destination == mac(number));
    let here = destination == mac(0) || config.local.role == Role::Gateway && !elsewhere;
    assert!(destination.is_group() || here, "not for this node");
    if let Some(learn) = accepted.learn {
        assert_eq!(learn, address(frame, 6));
        switch.learn(learn, peer, now);
    }
    for number in (1..MEMBERS).filter(|_| is_open(switch, now)) {
        let to_bound = [&mac(number).0[..], &mac(0).0, &[0x81, 0x37]].concat();
        let bound = PeerId(u32::from(number));
        assert_eq!(switch.egress(&to_bound, now), Ok(Egress::Unicast(bound)));
    }
}

/// What a passed frame of member `who` must not say, read by plain offsets. A stack strips any
/// number of tags and, somewhere, LLC/SNAP; so does this.
fn honest(config: &Config, who: u8, frame: &[u8]) {
    let is_host = member(config, who).is_some_and(|member| member.role == Role::Host);
    let others =
        |claimed: &dyn Fn(u8) -> bool| (0..MEMBERS).filter(|number| *number != who).any(claimed);
    let source = address(frame, 6);
    assert!(!others(&|number| source == mac(number)), "spoofed source");
    assert!(!is_host || source == mac(who), "spoofed source");

    let (ethertype, payload) = strip(&frame[12..]);
    match ethertype {
        0x0806 if payload.len() >= 28 && payload[2..6] == [8, 0, 6, 4] => {
            let (sender, ip) = (address(payload, 8), &payload[14..18]);
            assert!(!others(&|number| sender == mac(number)), "ARP: MAC");
            assert!(!others(&|number| ip == ip4(number).octets()), "ARP: IP");
        }
        0x86dd if payload.len() >= 40 + 8 && payload[0] >> 4 == 6 => {
            let len = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
            let end = if len == 0 { usize::MAX } else { 40 + len };
            let body = &payload[40..end.min(payload.len())];
            let (next, upper) = strip_options(payload[6], body);
            if next != 58 || upper.is_empty() {
                return;
            }
            assert!(!is_host || !matches!(upper[0], 134 | 137), "router");
            if upper[0] == 136 && upper.len() >= 24 {
                let target = &upper[8..24];
                assert!(!others(&|number| target == ip6(number).octets()), "ND: IP");
            }
            if upper[0] == 136 && upper.len() >= 32 && upper[24..26] == [2, 1] {
                let sender = address(upper, 26);
                assert!(!others(&|number| sender == mac(number)), "ND: MAC");
            }
        }
        _ => {}
    }
}

fn strip(mut rest: &[u8]) -> (u16, &[u8]) {
    loop {
        match rest {
            [0x81, 0x00, _, _, tail @ ..] | [0x88, 0xa8, _, _, tail @ ..] => rest = tail,
            [0..6, _, 0xaa, 0xaa, 3, 0, 0, 0, tail @ ..] => rest = tail,
            [high, low, tail @ ..] => return (u16::from_be_bytes([*high, *low]), tail),
            _ => return (0, &[]),
        }
    }
}

fn strip_options(mut next: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    while let (0 | 43 | 60, [following, units, ..]) = (next, rest) {
        next = *following;
        let Some(tail) = rest.get(8 * (usize::from(*units) + 1)..) else {
            return (59, &[]);
        };
        rest = tail;
    }
    (next, rest)
}

fn address(octets: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&octets[at..at + 6]);
    Mac(mac)
}
