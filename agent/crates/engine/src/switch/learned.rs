//! Addresses learned behind gateways: a set-associative table of atomic words.
//!
//! An entry is one word, address (48 bits) and gateway number (16), so that readers on all
//! queues see it whole without a lock; when it was last seen is a second word, of which a
//! stale value does no harm. One owner inserts; anybody may forget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_wire::Mac;

use super::keyed::Keyed;
use crate::Time;

/// Entries that share a bucket; at half load one bucket in 400 overflows.
const WAYS: usize = 16;
/// No entry: the address 0 is no station's.
const EMPTY: u64 = 0;
/// How stale the last-seen time may be; keeps queues from fighting over a cache line.
const REFRESH_MS: u64 = 1_000;
/// Marks a time of an address that was seen again after [`REFRESH_MS`].
const ESTABLISHED: u64 = 1 << 63;
/// An established entry makes room only after this long without a frame.
const ESTABLISHED_IDLE_MS: u64 = 30_000;

/// A gateway's number within the table; at most 65,536 gateways can be learned from.
pub(super) type GatewayNumber = u16;

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    Moved(GatewayNumber),
    Known,
    Full,
}

/// An entry that has not aged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mac: Mac,
    pub(super) gateway: GatewayNumber,
    pub(super) age: Duration,
}

#[derive(Debug)]
struct Slot {
    word: AtomicU64,
    seen: AtomicU64,
}

impl Slot {
    fn age_ms(&self, now: Time) -> u64 {
        let seen = self.seen.load(Ordering::Relaxed) & !ESTABLISHED;
        now.as_millis().saturating_sub(seen)
    }

    fn is_established(&self) -> bool {
        self.seen.load(Ordering::Relaxed) & ESTABLISHED != 0
    }

    fn refresh(&self, now: Time) {
        if self.age_ms(now) >= REFRESH_MS {
            self.seen
                .store(now.as_millis() | ESTABLISHED, Ordering::Relaxed);
        }
    }

    fn set(&self, mac: Mac, gateway: GatewayNumber, now: Time) {
        self.seen.store(now.as_millis(), Ordering::Relaxed);
        self.word.store(pack(mac, gateway), Ordering::Release);
    }
}

#[derive(Debug)]
pub(super) struct LearnedTable {
    slots: Box<[Slot]>,
    hash: Keyed,
    evicted: AtomicU64,
}

impl LearnedTable {
    /// A table of `cap` entries, rounded up to whole buckets; 0 learns nothing.
    pub(super) fn new(cap: usize, hash: Keyed) -> Self {
        let slots = (0..cap.next_multiple_of(WAYS))
            .map(|_| Slot {
                word: AtomicU64::new(EMPTY),
                seen: AtomicU64::new(0),
            })
            .collect();
        Self {
            slots,
            hash,
            evicted: AtomicU64::new(0),
        }
    }

    /// Whether the table is as one of `cap` entries would be.
    pub(super) fn has_cap(&self, cap: usize) -> bool {
        self.slots.len() == cap.next_multiple_of(WAYS)
    }

    /// Behind which gateway `mac` was seen within `ageing`.
    pub(super) fn lookup(&self, mac: Mac, now: Time, ageing: Duration) -> Option<GatewayNumber> {
        let (slot, gateway) = self.find(mac)?;
        (slot.age_ms(now) < millis(ageing)).then_some(gateway)
    }

    /// Notes a frame from `mac` behind `gateway`; says whether that was known.
    pub(super) fn touch(
        &self,
        mac: Mac,
        gateway: GatewayNumber,
        now: Time,
        ageing: Duration,
    ) -> bool {
        match self.find(mac) {
            Some((slot, known)) if known == gateway && slot.age_ms(now) < millis(ageing) => {
                slot.refresh(now);
                true
            }
            _ => false,
        }
    }

    /// Learns `mac` behind `gateway`. One caller at a time.
    ///
    /// In a full bucket an address that was seen only once makes room first, then one that is
    /// idle: a flood of made-up addresses displaces itself, not the stations that talk.
    pub(super) fn insert(
        &self,
        mac: Mac,
        gateway: GatewayNumber,
        now: Time,
        ageing: Duration,
    ) -> Inserted {
        if let Some((slot, known)) = self.find(mac) {
            let alive = slot.age_ms(now) < millis(ageing);
            if alive && known == gateway {
                slot.refresh(now);
                return Inserted::Known;
            }
            slot.set(mac, gateway, now);
            return if alive {
                Inserted::Moved(known)
            } else {
                Inserted::New
            };
        }
        let bucket = self.bucket(mac);
        let free = bucket.iter().find(|slot| {
            slot.word.load(Ordering::Relaxed) == EMPTY || slot.age_ms(now) >= millis(ageing)
        });
        if let Some(slot) = free {
            slot.set(mac, gateway, now);
            return Inserted::New;
        }
        let Some(victim) = victim_of(bucket, now) else {
            return Inserted::Full;
        };
        self.evicted.fetch_add(1, Ordering::Relaxed);
        victim.set(mac, gateway, now);
        Inserted::New
    }

    /// Forgets `mac`, wherever it was; says whether it was known.
    pub(super) fn forget(&self, mac: Mac) -> bool {
        self.find(mac).is_some_and(|(slot, gateway)| {
            slot.word
                .compare_exchange(
                    pack(mac, gateway),
                    EMPTY,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
        })
    }

    /// Forgets all that `keep` doesn't name.
    pub(super) fn retain(&self, keep: impl Fn(Mac, GatewayNumber) -> bool) {
        for slot in &self.slots {
            let word = slot.word.load(Ordering::Acquire);
            let (mac, gateway) = unpack(word);
            if word != EMPTY && !keep(mac, gateway) {
                self.forget(mac);
            }
        }
    }

    /// The entries that have not aged out, in no order.
    pub(super) fn entries(&self, now: Time, ageing: Duration) -> impl Iterator<Item = Entry> {
        self.slots.iter().filter_map(move |slot| {
            let word = slot.word.load(Ordering::Acquire);
            let age_ms = slot.age_ms(now);
            let (mac, gateway) = unpack(word);
            (word != EMPTY && age_ms < millis(ageing)).then_some(Entry {
                mac,
                gateway,
                age: Duration::from_millis(age_ms),
            })
        })
    }

    /// Forgets all behind `gateway`; returns how many that were.
    pub(super) fn forget_behind(&self, gateway: GatewayNumber) -> u64 {
        let words = self
            .slots
            .iter()
            .map(|slot| slot.word.load(Ordering::Acquire));
        let behind = words.filter(|word| *word != EMPTY && unpack(*word).1 == gateway);
        behind.filter(|word| self.forget(unpack(*word).0)).count() as u64
    }

    /// Copies what is there, with its times, as far as it finds room.
    pub(super) fn copy_to(&self, other: &Self) {
        for slot in &self.slots {
            let word = slot.word.load(Ordering::Acquire);
            let (mac, _) = unpack(word);
            let mut bucket = other.bucket(mac).iter();
            let free = bucket.find(|free| free.word.load(Ordering::Relaxed) == EMPTY);
            if let Some(free) = free.filter(|_| word != EMPTY) {
                free.seen
                    .store(slot.seen.load(Ordering::Relaxed), Ordering::Relaxed);
                free.word.store(word, Ordering::Release);
            }
        }
    }

    /// Entries that made room for others before their time.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn bucket(&self, mac: Mac) -> &[Slot] {
        let buckets = (self.slots.len() / WAYS) as u128;
        let hash = u128::from(self.hash.hash_of(mac.to_bits()));
        #[expect(clippy::cast_possible_truncation, reason = "less than `buckets`")]
        let number = ((hash * buckets) >> 64) as usize;
        self.slots
            .get(number * WAYS..(number + 1) * WAYS)
            .unwrap_or_default()
    }

    fn find(&self, mac: Mac) -> Option<(&Slot, GatewayNumber)> {
        self.bucket(mac).iter().find_map(|slot| {
            let (known, gateway) = unpack(slot.word.load(Ordering::Acquire));
            (known == mac && known != Mac::ZERO).then_some((slot, gateway))
        })
    }
}

fn victim_of(bucket: &[Slot], now: Time) -> Option<&Slot> {
    bucket
        .iter()
        .filter(|slot| !slot.is_established() || slot.age_ms(now) >= ESTABLISHED_IDLE_MS)
        .max_by_key(|slot| (!slot.is_established(), slot.age_ms(now)))
}

fn pack(mac: Mac, gateway: GatewayNumber) -> u64 {
    mac.to_bits() << 16 | u64::from(gateway)
}

fn unpack(word: u64) -> (Mac, GatewayNumber) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low 16 bits are wanted"
    )]
    let gateway = word as u16;
    (Mac::from_bits(word >> 16), gateway)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(300);

    fn mac(number: u64) -> Mac {
        Mac::from_bits(0x0200_0000_0000 + number)
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    #[test]
    fn an_entry_lives_as_long_as_it_is_seen_and_no_longer() {
        let table = LearnedTable::new(64, Keyed(1));
        assert_eq!(table.insert(mac(1), 7, at(0), AGEING), Inserted::New);

        assert!(table.touch(mac(1), 7, at(200), AGEING));
        assert_eq!(table.lookup(mac(1), at(499), AGEING), Some(7));
        assert_eq!(table.lookup(mac(1), at(500), AGEING), None);
        assert!(!table.touch(mac(1), 7, at(500), AGEING));
        assert_eq!(table.insert(mac(1), 7, at(500), AGEING), Inserted::New);
    }

    #[test]
    fn a_move_is_told_and_takes_effect_at_once() {
        let table = LearnedTable::new(64, Keyed(1));
        table.insert(mac(1), 7, at(0), AGEING);

        assert!(!table.touch(mac(1), 8, at(1), AGEING));
        assert_eq!(table.insert(mac(1), 8, at(1), AGEING), Inserted::Moved(7));
        assert_eq!(table.lookup(mac(1), at(1), AGEING), Some(8));
        assert_eq!(table.entries(at(1), AGEING).count(), 1);
    }

    #[test]
    fn a_flood_of_new_addresses_displaces_itself_and_not_the_stations_that_talk() {
        let table = LearnedTable::new(4096, Keyed(0x5eed));
        for station in 0..500 {
            table.insert(mac(station), 1, at(0), AGEING);
            table.touch(mac(station), 1, at(2), AGEING);
        }

        for number in 0..100_000 {
            table.insert(mac(1_000_000 + number), 1, at(3), AGEING);
        }

        assert!(table.evicted() > 90_000);
        assert!(table.entries(at(3), AGEING).count() <= 4096);
        for station in 0..500 {
            assert_eq!(table.lookup(mac(station), at(3), AGEING), Some(1));
        }
    }

    #[test]
    fn stations_that_fell_silent_make_room() {
        let table = LearnedTable::new(16, Keyed(1));
        for station in 0..16 {
            table.insert(mac(station), 1, at(0), AGEING);
            table.touch(mac(station), 1, at(2), AGEING);
        }

        assert_eq!(table.insert(mac(99), 1, at(3), AGEING), Inserted::Full);
        assert_eq!(table.insert(mac(99), 1, at(32), AGEING), Inserted::New);
    }

    #[test]
    fn what_is_forgotten_is_unknown() {
        let table = LearnedTable::new(64, Keyed(1));
        for number in 0..10 {
            table.insert(mac(number), 1, at(0), AGEING);
        }

        assert!(table.forget(mac(3)));
        assert!(!table.forget(mac(3)));
        table.retain(|known, _| known == mac(5));

        let left: Vec<_> = table
            .entries(at(0), AGEING)
            .map(|entry| entry.mac)
            .collect();
        assert_eq!(left, [mac(5)]);
    }

    #[test]
    fn a_table_of_nothing_learns_nothing() {
        let table = LearnedTable::new(0, Keyed(1));
        assert_eq!(table.insert(mac(1), 1, at(0), AGEING), Inserted::Full);
        assert_eq!(table.lookup(mac(1), at(0), AGEING), None);
    }
}
