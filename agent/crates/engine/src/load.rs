//! Whether INITs come too fast to answer without a cookie (rule 2).

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::entropy::Entropy;
use crate::time::Time;

/// More INITs than this in a second, and cookies are required.
const MAX_INITS_PER_SECOND: u64 = 200;
/// More handshake messages than this waiting, and cookies are required.
const MAX_WAITING: usize = 512;
/// Under load, a source that proved where it is gets so many INITs through in a second.
const MAX_INITS_PER_SOURCE: u64 = 20;
/// Cells of each of the two rows in which sources are counted: 64 KiB in all.
const CELLS: usize = 4096;
const SECOND: u64 = 1_000_000_000;
const COUNT_BITS: u32 = 24;

/// Counts INITs per second over all receiving threads.
#[derive(Debug, Default)]
pub(crate) struct LoadMeter {
    /// The second (high bits) and how many INITs it has seen (low 24 bits).
    window: AtomicU64,
    /// The second of the last overload: load lasts at least into the next one.
    overloaded: AtomicU64,
    waiting: AtomicUsize,
}

impl LoadMeter {
    /// Counts an INIT; true if a cookie is required of it.
    pub(crate) fn count_init(&self, now: Time) -> bool {
        let second = now.as_nanos() / SECOND + 1;
        let counted = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                if old >> COUNT_BITS == second {
                    Some((old + 1).min(second << COUNT_BITS | ((1 << COUNT_BITS) - 1)))
                } else {
                    Some(second << COUNT_BITS | 1)
                }
            });
        let (Ok(old) | Err(old)) = counted;
        let in_second = if old >> COUNT_BITS == second {
            old & ((1 << COUNT_BITS) - 1)
        } else {
            0
        };
        if in_second >= MAX_INITS_PER_SECOND || self.waiting.load(Ordering::Relaxed) > MAX_WAITING {
            self.overloaded.store(second, Ordering::Relaxed);
            return true;
        }
        second.saturating_sub(self.overloaded.load(Ordering::Relaxed)) <= 1
            && self.overloaded.load(Ordering::Relaxed) > 0
    }

    /// How many messages wait for `Core`.
    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// INITs per second of each source that holds its cookie: an IPv4 address or an IPv6 /64.
/// Of fixed size: a source has one cell in each of two rows, shared with others by chance, and is
/// refused when both are full, so that one source all but never takes another's share.
pub(crate) struct SourceMeter {
    /// Nobody outside can choose whose cell it shares.
    secret: [u8; 16],
    /// The second (high bits) and how many INITs it has seen (low 24 bits).
    rows: [Box<[AtomicU64]>; 2],
}

impl SourceMeter {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut secret = [0; 16];
        entropy.fill_secret(&mut secret);
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self {
            secret,
            rows: [row(), row()],
        }
    }

    /// Counts an INIT of this source; false if it has had its share of this second. Threads that
    /// race may let a few more through.
    pub(crate) fn admit(&self, source: IpAddr, now: Time) -> bool {
        let second = now.as_nanos() / SECOND + 1;
        let cells = self.cells(source);
        let seen = |cell: &AtomicU64| {
            let old = cell.load(Ordering::Relaxed);
            let in_second = old >> COUNT_BITS == second;
            if in_second {
                old & ((1 << COUNT_BITS) - 1)
            } else {
                0
            }
        };
        let counts = cells.map(seen);
        if counts[0].min(counts[1]) >= MAX_INITS_PER_SOURCE {
            return false;
        }
        for (cell, count) in cells.into_iter().zip(counts) {
            cell.store(second << COUNT_BITS | (count + 1), Ordering::Relaxed);
        }
        true
    }

    fn cells(&self, source: IpAddr) -> [&AtomicU64; 2] {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        match source.to_canonical() {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()[..8]),
        }
        let hash = hasher.finish();
        let at = [hash as usize % CELLS, (hash >> 32) as usize % CELLS];
        [&self.rows[0][at[0]], &self.rows[1][at[1]]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;

    fn admitted(meter: &SourceMeter, source: &str, now: Time) -> usize {
        let source = source.parse().expect("an address");
        (0..100).filter(|_| meter.admit(source, now)).count()
    }

    #[test]
    fn a_source_has_twenty_inits_a_second_whatever_the_others_do() {
        let meter = SourceMeter::new(&SeededEntropy::new(1));
        let now = Time::from_millis(5000);
        assert_eq!(admitted(&meter, "192.0.2.1", now), 20);
        assert_eq!(admitted(&meter, "192.0.2.2", now), 20);
        assert_eq!(admitted(&meter, "192.0.2.1", Time::from_millis(5999)), 0);
        assert_eq!(admitted(&meter, "192.0.2.1", Time::from_millis(6000)), 20);
    }

    #[test]
    fn an_ipv6_source_is_its_64_bit_prefix_and_ipv4_in_ipv6_is_ipv4() {
        let meter = SourceMeter::new(&SeededEntropy::new(2));
        let now = Time::from_millis(5000);
        assert_eq!(admitted(&meter, "2001:db8::1", now), 20);
        assert_eq!(admitted(&meter, "2001:db8::ffff:2", now), 0);
        assert_eq!(admitted(&meter, "2001:db8:0:1::1", now), 20);
        assert_eq!(admitted(&meter, "192.0.2.1", now), 20);
        assert_eq!(admitted(&meter, "::ffff:192.0.2.1", now), 0);
    }
}
