//! A token bucket in one atomic word, shared by all queues.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Time;

/// How much a [`Policer`] lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    /// Nothing.
    None,
    /// One each `interval_ns`, and as many at once as fit in `tolerance_ns`.
    Some { interval_ns: u64, tolerance_ns: u64 },
}

impl Rate {
    /// As [`Rate::new`], of numbers above zero.
    pub(super) const fn steady(per_second: u64, burst: u64) -> Self {
        let interval_ns = 1_000_000_000 / per_second;
        Self::Some {
            interval_ns,
            tolerance_ns: interval_ns * (burst - 1),
        }
    }

    /// So that no second sees more than `most`: a tenth of them may come at once.
    pub(super) fn capped(most: u32) -> Self {
        Self::new(most - most / 10, most.div_ceil(10))
    }

    /// `per_second` in the long run, `burst` at once; neither being zero lets anything through.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        if per_second == 0 || burst == 0 {
            return Self::None;
        }
        let interval_ns = 1_000_000_000 / u64::from(per_second);
        Self::Some {
            interval_ns,
            tolerance_ns: interval_ns * u64::from(burst - 1),
        }
    }
}

/// The generic cell rate algorithm (ITU-T I.371 annex A, virtual scheduling): the state is the
/// theoretical arrival time of the next frame, so that a bucket needs one word and no timer.
#[derive(Debug, Default)]
pub(super) struct Policer {
    arrival_ns: AtomicU64,
}

impl Policer {
    /// Takes a token, if there is one.
    pub(super) fn admit(&self, rate: Rate, now: Time) -> bool {
        let Rate::Some {
            interval_ns,
            tolerance_ns,
        } = rate
        else {
            return false;
        };
        let now = now.as_nanos();
        let taken = self
            .arrival_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |arrival| {
                let due = arrival.max(now);
                (due - now <= tolerance_ns).then(|| due.saturating_add(interval_ns))
            });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_then_one_each_interval() {
        let policer = Policer::default();
        let rate = Rate::new(200, 400);
        let start = Time::from_millis(7);

        let at_once = (0..1000).filter(|_| policer.admit(rate, start)).count();
        assert_eq!(at_once, 400);

        let in_a_second = (1..=1000_u64)
            .filter(|ms| policer.admit(rate, start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(in_a_second, 200);
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_through() {
        for rate in [Rate::new(0, 10), Rate::new(10, 0)] {
            assert!(!Policer::default().admit(rate, Time::from_millis(1)));
        }
    }

    #[test]
    fn at_the_end_of_time_nothing_overflows() {
        let policer = Policer::default();
        let rate = Rate::new(1, u32::MAX);
        assert!(policer.admit(rate, Time::from_nanos(u64::MAX)));
        assert!(policer.admit(rate, Time::from_nanos(u64::MAX)));
    }

    proptest! {
        /// Against the definition: in any window, at most burst + rate x length pass.
        #[test]
        fn no_window_passes_more_than_burst_and_rate(
            gaps_us in proptest::collection::vec(0_u64..20_000, 1..300),
            per_second in 1_u32..2_000,
            burst in 1_u32..50,
        ) {
            let policer = Policer::default();
            let rate = Rate::new(per_second, burst);
            let mut now = Time::from_millis(1);
            let mut passed = Vec::new();
            for gap in gaps_us {
                now = now + Duration::from_micros(gap);
                if policer.admit(rate, now) {
                    passed.push(now.as_nanos());
                }
            }
            for (first, start) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first) {
                    let allowed = u64::from(burst)
                        + (end - start) / (1_000_000_000 / u64::from(per_second));
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }
    }
}
