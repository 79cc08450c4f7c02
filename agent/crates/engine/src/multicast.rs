//! Flood and prune: multicast goes to every member but those that said that their host doesn't
//! listen to the group (docs/adr/0005).

use std::sync::atomic::{AtomicU64, Ordering};

use cairn_wire::ethernet::{EtherType, Frame};
use cairn_wire::{Mac, icmpv6, igmp, ipv4, ipv6};

use crate::ids::PeerId;
use crate::time::Time;

/// For how long a peer is spared a group; then it gets a frame, and may say so again. What a
/// host begins to listen to without telling anybody, it lacks at most so long.
pub(crate) const PRUNE_SECONDS: u16 = 10;

/// Groups that are kept of a peer; where there are more, it gets the frames.
const GROUPS: usize = 16;
/// The host is looked at so often for each peer and kind of group.
const LOOK_EVERY_MS: u64 = 1_000;

/// A frame to this group came from this peer: whoever knows what the host listens to looks there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The sender.
    pub peer: PeerId,
    /// The TAP's name.
    pub tap: String,
    /// Its addresses, one of which it has.
    pub macs: Vec<Mac>,
    /// To which group.
    pub group: Mac,
}

/// The group to which a frame goes, if a peer may be spared it: of IPv4 or IPv6, and neither in
/// 224.0.0.0/24, nor all nodes and their like, nor solicited-node, on which others rely.
pub(crate) fn group_of(frame: &[u8]) -> Option<Mac> {
    let group = Mac(*frame.first_chunk()?);
    is_prunable(group).then_some(group)
}

pub(crate) fn is_prunable(group: Mac) -> bool {
    match group.0 {
        [0x01, 0x00, 0x5e, a, b, _] => a < 0x80 && (a, b) != (0, 0),
        [0x33, 0x33, a, b, c, _] => a != 0xff && (a, b, c) != (0, 0, 0),
        _ => false,
    }
}

/// Whether a host tells with this frame that it begins or ends to listen (IGMP, MLD).
pub(crate) fn is_report(frame: &[u8]) -> bool {
    let Ok(frame) = Frame::parse(frame) else {
        return false;
    };
    match frame.ethertype() {
        Some(EtherType::IPV4) => ipv4::Packet::parse(frame.payload())
            .ok()
            .filter(|packet| packet.protocol() == ipv4::IGMP)
            .and_then(|packet| igmp::Message::parse(packet.payload()).ok())
            .is_some_and(|message| message.kind() == igmp::Kind::Report),
        Some(EtherType::IPV6) => ipv6::Packet::parse(frame.payload())
            .ok()
            .and_then(|packet| packet.upper().ok())
            .filter(|upper| upper.protocol == ipv6::ICMPV6)
            .and_then(|upper| icmpv6::Message::parse(upper.payload).ok())
            .is_some_and(|message| message.kind() == icmpv6::Kind::MldReport),
        _ => false,
    }
}

/// Groups of which a peer wants nothing, each until its time. `Core` writes, packet threads read.
///
/// One word each, group (48 bits) and second (16 bits), so that it is seen whole without a lock.
#[derive(Debug, Default)]
pub(crate) struct Pruned([AtomicU64; GROUPS]);

impl Pruned {
    pub(crate) fn add(&self, group: Mac, seconds: u16, now: Time) {
        if !is_prunable(group) {
            return;
        }
        let until = second(now).wrapping_add(seconds.min(PRUNE_SECONDS));
        let mut words = self.0.iter();
        let room = words.find(|word| {
            let (known, until) = unpack(word.load(Ordering::Relaxed));
            known == group || left(until, now) == 0
        });
        if let Some(word) = room {
            word.store(group.to_bits() << 16 | u64::from(until), Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn contains(&self, group: Mac, now: Time) -> bool {
        self.0.iter().any(|word| {
            let (known, until) = unpack(word.load(Ordering::Relaxed));
            known == group && left(until, now) > 0
        })
    }
}

fn unpack(word: u64) -> (Mac, u16) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low 16 bits are wanted"
    )]
    let until = word as u16;
    (Mac::from_bits(word >> 16), until)
}

/// Seconds since boot, modulo 2^16: times here are seconds ahead.
fn second(now: Time) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^16")]
    let second = (now.as_millis() / 1_000) as u16;
    second
}

/// Seconds that are left; 0 also for what is no time that was given lately.
fn left(until: u16, now: Time) -> u16 {
    let left = until.wrapping_sub(second(now));
    if left <= PRUNE_SECONDS { left } else { 0 }
}

/// When the host was last looked at because of a peer's frames, by the group's last octet.
#[derive(Debug, Default)]
pub(crate) struct Looked([AtomicU64; GROUPS]);

impl Looked {
    /// Whether to look now.
    pub(crate) fn is_due(&self, group: Mac, now: Time) -> bool {
        let slot = &self.0[usize::from(group.0[5]) % GROUPS];
        let now = now.as_millis().max(1);
        let last = slot.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < LOOK_EVERY_MS {
            return false;
        }
        slot.store(now, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MDNS: Mac = Mac([0x01, 0x00, 0x5e, 0, 0, 0xfb]);
    const NOW: Time = Time::from_millis(70_000_500);

    fn group(number: u8) -> Mac {
        Mac([0x01, 0x00, 0x5e, 1, 2, number])
    }

    #[test]
    fn what_others_rely_on_is_never_spared() {
        for mac in [
            Mac::BROADCAST,
            MDNS,
            Mac([0x33, 0x33, 0, 0, 0, 1]),
            Mac([0x33, 0x33, 0, 0, 0, 0x16]),
            Mac([0x33, 0x33, 0xff, 1, 2, 3]),
            Mac([0x01, 0x80, 0xc2, 0, 0, 0x20]),
            Mac([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd]),
            Mac([0x03, 0, 0, 0, 0, 1]),
            Mac([2, 0, 0, 0, 0, 1]),
        ] {
            assert!(!is_prunable(mac), "{mac}");
            let pruned = Pruned::default();
            pruned.add(mac, 10, NOW);
            assert!(!pruned.contains(mac, NOW));
        }
        assert!(is_prunable(group(0)) && is_prunable(Mac([0x33, 0x33, 0, 1, 0, 3])));
    }

    #[test]
    fn a_group_is_spared_until_its_time_and_never_longer_than_allowed() {
        let pruned = Pruned::default();
        pruned.add(group(1), u16::MAX, NOW);
        assert!(pruned.contains(group(1), NOW + Duration::from_secs(9)));
        assert!(!pruned.contains(group(2), NOW));
        for seconds in [10, 11, 60_000, 65_536 - 11, 65_536 + 10] {
            assert!(!pruned.contains(group(1), NOW + Duration::from_secs(seconds)));
        }
        pruned.add(group(1), 10, NOW);
        pruned.clear();
        assert!(!pruned.contains(group(1), NOW));
    }

    #[test]
    fn more_groups_than_are_kept_are_delivered() {
        let pruned = Pruned::default();
        for number in 0..=16 {
            pruned.add(group(number), 10, NOW);
            pruned.add(group(number), 10, NOW);
        }
        let spared = (0..=16).filter(|number| pruned.contains(group(*number), NOW));
        assert_eq!(spared.count(), 16);
        let later = NOW + Duration::from_secs(11);
        pruned.add(group(16), 10, later);
        assert!(pruned.contains(group(16), later));
    }

    #[test]
    fn the_host_is_looked_at_once_a_second() {
        let looked = Looked::default();
        assert!(looked.is_due(group(1), NOW));
        assert!(!looked.is_due(group(1), NOW + Duration::from_millis(999)));
        assert!(looked.is_due(group(1), NOW + Duration::from_secs(1)));
    }
}
