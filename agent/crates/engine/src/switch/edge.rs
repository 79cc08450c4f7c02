//! What a gateway keeps of the LAN behind it: who talks there, and how much may cross.

use std::sync::Arc;
use std::time::Duration;

use cairn_wire::Mac;

use super::gate::Gate;
use super::keyed::Keyed;
use super::learned::{GatewayNumber, LearnedTable};
use super::policer::{Policer, Rate};
use crate::Time;

/// Stations that begin to talk, in a second and at once. More at a time come from a broken or
/// hostile program, and each costs every member a place in its table.
const NEWCOMERS: Rate = Rate::steady(1_000, 1_024);
/// The whole table is of one LAN.
const HERE: GatewayNumber = 0;
/// Who was heard on the LAN this shortly before it is heard from the overlay has not moved: two
/// Ethernets are joined, or an address is in use twice. Times in the table are up to 1 s old.
const MOMENT: Duration = Duration::from_secs(2);
/// Who was heard on the LAN this lately is looked for nowhere else, though the bridge doesn't know
/// it: its table is full, or was emptied because the LAN has changed.
const LATELY: Duration = Duration::from_secs(30);
/// Cells in each of the two rows that count sources.
const CELLS: usize = 1_024;

/// One gateway's side of its LAN.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) gate: Arc<Gate>,
    /// Copies to the LAN, whoever sent them.
    pub(super) towards_lan: Policer,
    newcomers: Policer,
    sources: Sources,
    stations: LearnedTable,
}

/// What is known of an address that talks in the vSubnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Not on the LAN.
    Elsewhere,
    /// On the LAN, but not lately: it has moved.
    Moved,
    /// On the LAN, a moment ago.
    JustNow,
}

impl Edge {
    pub(super) fn new(cap: usize, hash: Keyed) -> Self {
        Self {
            gate: Arc::default(),
            towards_lan: Policer::default(),
            newcomers: Policer::default(),
            sources: Sources::new(hash),
            stations: LearnedTable::new(cap, hash),
        }
    }

    /// Notes a frame that a station sent; false for a newcomer too many. One caller at a time.
    pub(super) fn note_station(&self, mac: Mac, now: Time, ageing: Duration) -> bool {
        if self.stations.touch(mac, HERE, now, ageing) {
            return true;
        }
        let admitted = self.newcomers.admit(NEWCOMERS, now);
        if admitted {
            self.stations.insert(mac, HERE, now, ageing);
        }
        admitted
    }

    /// Whether a station talks on the LAN.
    pub(super) fn has_station(&self, mac: Mac, now: Time) -> bool {
        self.stations.lookup(mac, now, LATELY).is_some()
    }

    /// An address talks in the vSubnet: it is on the LAN no longer.
    pub(super) fn note_elsewhere(&self, mac: Mac, now: Time) -> Heard {
        let just_now = self.stations.lookup(mac, now, MOMENT).is_some();
        match (self.stations.forget(mac), just_now) {
            (false, _) => Heard::Elsewhere,
            (true, false) => Heard::Moved,
            (true, true) => Heard::JustNow,
        }
    }

    /// Whether a station may send one more frame to many.
    pub(super) fn admit_source(&self, mac: Mac, rate: Rate, now: Time) -> bool {
        self.sources.admit(mac, rate, now)
    }
}

/// A budget for each source without a table of sources: each has a cell in two rows, and is
/// refused where both are used up.
#[derive(Debug)]
struct Sources {
    hash: Keyed,
    rows: [Box<[Policer]>; 2],
}

impl Sources {
    fn new(hash: Keyed) -> Self {
        let row = || (0..CELLS).map(|_| Policer::default()).collect();
        Self {
            hash,
            rows: [row(), row()],
        }
    }

    fn admit(&self, mac: Mac, rate: Rate, now: Time) -> bool {
        let hash = self.hash.hash_of(!mac.to_bits());
        #[expect(clippy::cast_possible_truncation, reason = "modulo a small number")]
        let at = [hash as usize % CELLS, (hash >> 32) as usize % CELLS];
        let first = self.rows[0][at[0]].admit(rate, now);
        let second = self.rows[1][at[1]].admit(rate, now);
        first || second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(300);
    const NOW: Time = Time::from_millis(5_000);

    fn mac(number: u64) -> Mac {
        Mac::from_bits(0x0011_0000_0000 + number)
    }

    #[test]
    fn each_source_has_a_budget_of_its_own() {
        let edge = Edge::new(64, Keyed(1));
        let rate = Rate::new(200, 200);
        let admitted = |number| {
            let frames = (0..1_000).filter(|_| edge.admit_source(mac(number), rate, NOW));
            frames.count()
        };
        assert_eq!(admitted(1), 200);
        let later: usize = (2..50).map(admitted).sum();
        assert_eq!(
            later,
            48 * 200,
            "a collision in both rows is one in a million"
        );
    }

    #[test]
    fn a_station_that_is_heard_elsewhere_has_moved_unless_it_was_here_a_moment_ago() {
        let edge = Edge::new(64, Keyed(1));
        assert_eq!(edge.note_elsewhere(mac(1), NOW), Heard::Elsewhere);
        assert!(edge.note_station(mac(1), NOW, AGEING));
        let soon = NOW + Duration::from_millis(1_999);
        assert_eq!(edge.note_elsewhere(mac(1), soon), Heard::JustNow);
        assert_eq!(
            edge.note_elsewhere(mac(1), soon),
            Heard::Elsewhere,
            "told once"
        );
        assert!(edge.note_station(mac(1), NOW, AGEING));
        let later = NOW + Duration::from_secs(2);
        assert_eq!(edge.note_elsewhere(mac(1), later), Heard::Moved);
        assert!(!edge.has_station(mac(1), later));
    }

    #[test]
    fn a_flood_of_newcomers_is_cut_and_stations_that_talk_are_not() {
        let edge = Edge::new(4_096, Keyed(3));
        for station in 0..500 {
            assert!(edge.note_station(mac(station), NOW, AGEING));
        }
        let start = NOW + Duration::from_secs(5);
        let mut passed = 0;
        for number in 0..100_000_u64 {
            let now = start + Duration::from_micros(number * 10);
            passed += u64::from(edge.note_station(mac(1_000_000 + number), now, AGEING));
            assert!(edge.note_station(mac(number % 500), now, AGEING));
        }
        assert!((1_900..=2_100).contains(&passed), "{passed} in a second");
    }
}
