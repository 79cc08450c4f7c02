//! How large a datagram a path carries, found out by probes (RFC 8899), never told by ICMP.
//!
//! In the usual case one probe settles it: the path carries what the vSubnet's MTU needs. Where
//! it doesn't, rounds of several sizes at once close in on what it does carry.

use std::time::Duration;

use crate::time::Time;
use crate::timers::earlier;

/// Underlay packets of so many octets are taken to pass everywhere (the least MTU of IPv6).
pub(crate) const BASE_PACKET: usize = 1280;

/// A size that passed is confirmed so often while large datagrams are sent.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// A path that carries less than is wanted is tried again after this time (RFC 8899 5.1.1).
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Sizes of one round.
const MOST_TRIALS: usize = 8;
/// So often is a single size sent before it counts as too large: at 5 % loss, one time in 10,000
/// wrongly.
const TRIES: u32 = 4;
/// In a round of many, an unlucky size costs little: the next round comes close to it.
const TRIES_OF_MANY: u32 = 2;
/// Between tries, at least: [`TRIES`] of them and [`CONFIRM_EVERY`] are 1.8 s, so that TCP's
/// retransmission 3 s after the path shrank finds what fits.
const TRY_EVERY: Duration = Duration::from_millis(200);
/// At most, and where the round-trip time isn't known.
const TRY_EVERY_AT_MOST: Duration = Duration::from_secs(1);

/// A size under trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Of the datagram.
    pub(crate) octets: usize,
    pub(crate) token: [u8; 8],
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Sizes are being tried since `since`; the next try, or the conclusion, is at `due`.
    Trying {
        trials: Vec<Trial>,
        sent: u32,
        since: Time,
        due: Time,
    },
    /// Nothing at all was heard, so that nothing follows from it; more large data tries again.
    Stalled,
    /// Nothing to do but to look, at `confirm`, whether large data is being sent.
    Resting { confirm: Option<Time> },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    None,
    /// Send the trials; `again`: with a small probe, which tells loss of all from loss of some.
    Send { again: bool },
    /// The state changed: look again.
    Again,
}

/// What the fast path noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    /// When a datagram above the base was sent, or would have been if the path carried it.
    pub(crate) sent_large: Time,
    pub(crate) received: Time,
}

/// The search on one path. Sizes are octets of datagrams.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    base: usize,
    wanted: usize,
    /// Passes.
    low: usize,
    /// Doesn't pass, or isn't wanted.
    high: usize,
    /// Between `low` and `high` there is something left to try.
    searching: bool,
    /// `low` is the outcome of a search, not the place to begin one.
    settled: bool,
    confirmed: Time,
    raise_at: Option<Time>,
    phase: Phase,
}

impl Search {
    /// A search for datagrams of up to `wanted` octets; up to `base` are taken to pass.
    pub(crate) fn new(base: usize, wanted: usize, now: Time) -> Self {
        let mut search = Self {
            base,
            wanted,
            low: base.min(wanted),
            high: wanted + 1,
            searching: true,
            settled: false,
            confirmed: now,
            raise_at: None,
            phase: Phase::Stalled,
        };
        if search.is_wide() {
            search.close_in(now);
        } else {
            search.resume(now);
        }
        search
    }

    /// The largest datagram that is known to pass.
    pub(crate) fn carries(&self) -> usize {
        self.low
    }

    /// The largest datagram that is asked for.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Whether the path carries all that is wanted.
    pub(crate) fn is_wide(&self) -> bool {
        self.low == self.wanted
    }

    /// Whether what it carries is the outcome of a search.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether it waits to be told of large data.
    pub(crate) fn listens(&self) -> bool {
        match self.phase {
            Phase::Trying { .. } => false,
            Phase::Stalled => true,
            Phase::Resting { confirm } => confirm.is_none() && self.low > self.base,
        }
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Option<Time> {
        match self.phase {
            Phase::Trying { due, .. } => Some(due),
            Phase::Stalled => None,
            Phase::Resting { confirm } => earlier(confirm, self.raise_at),
        }
    }

    /// Large data was sent after a rest.
    pub(crate) fn watch(&mut self, now: Time) {
        match self.phase {
            Phase::Trying { .. } => {}
            Phase::Stalled => self.resume(now),
            Phase::Resting { .. } if self.low > self.base => {
                let confirm = Some(now.max(self.confirmed + CONFIRM_EVERY));
                self.phase = Phase::Resting { confirm };
            }
            Phase::Resting { .. } => {}
        }
    }

    /// Packets may take another way now, though to the same place: the wanted size is tried, and
    /// what holds until then is what was found before.
    pub(crate) fn look_anew(&mut self, now: Time) {
        if matches!(self.phase, Phase::Resting { .. }) && self.wanted > self.base {
            self.searching = true;
            self.raise_at = None;
            self.resume(now);
        }
    }

    /// There is no session or no path to try on.
    pub(crate) fn stall(&mut self) {
        self.phase = match self.phase {
            Phase::Resting { .. } => Phase::Resting { confirm: None },
            _ => Phase::Stalled,
        };
    }

    fn resume(&mut self, now: Time) {
        if self.searching {
            self.high = self.wanted + 1;
            self.try_sizes(&[self.wanted], now);
        } else {
            self.try_sizes(&[self.low], now);
        }
    }

    /// The sizes under trial that weren't answered; those whose token is zero have none yet.
    pub(crate) fn trials(&mut self) -> &mut [Trial] {
        match &mut self.phase {
            Phase::Trying { trials, .. } => trials,
            _ => &mut [],
        }
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, noted: Noted, rtt: Option<Duration>, now: Time) -> Step {
        if self.due().is_none_or(|due| due > now) {
            return Step::None;
        }
        match &mut self.phase {
            Phase::Stalled => return Step::None,
            Phase::Resting { confirm } if confirm.is_some_and(|at| at <= now) => {
                if noted.sent_large > self.confirmed {
                    self.try_sizes(&[self.low], now);
                } else {
                    *confirm = None;
                }
            }
            Phase::Resting { .. } => {
                self.raise_at = None;
                self.searching = true;
                self.resume(now);
            }
            Phase::Trying {
                trials,
                sent,
                since,
                due,
            } => {
                let tries = if trials.len() > 1 {
                    TRIES_OF_MANY
                } else {
                    TRIES
                };
                if *sent < tries {
                    *sent += 1;
                    let twice = rtt.map_or(TRY_EVERY_AT_MOST, |rtt| rtt * 2);
                    *due = now + twice.clamp(TRY_EVERY, TRY_EVERY_AT_MOST);
                    return Step::Send { again: *sent > 1 };
                }
                let heard = noted.received >= *since;
                self.conclude(heard, now);
            }
        }
        Step::Again
    }

    /// An answer came. Returns how long it took, where that can be told.
    pub(crate) fn answered(&mut self, token: [u8; 8], now: Time) -> Option<Duration> {
        let Phase::Trying {
            trials,
            sent,
            since,
            ..
        } = &mut self.phase
        else {
            return None;
        };
        let at = trials.iter().position(|trial| trial.token == token)?;
        let octets = trials.remove(at).octets;
        let took = (*sent == 1).then(|| now.since(*since));
        let is_over = trials.is_empty();
        self.low = self.low.max(octets);
        self.confirmed = now;
        if is_over || self.is_wide() {
            self.close_in(now);
        }
        took
    }

    /// No more tries: what wasn't answered doesn't pass, if anything does.
    fn conclude(&mut self, heard: bool, now: Time) {
        if !heard {
            self.phase = Phase::Stalled;
            return;
        }
        let low = self.low;
        let refused = self.trials().iter().map(|trial| trial.octets);
        let smallest = refused.filter(|octets| *octets >= low).min();
        if smallest == Some(low) {
            // What passed doesn't any more: a black hole. From the base up again, and what
            // failed is tried once more, because it may have been bad luck.
            self.low = self.base.min(self.wanted);
            self.high = self.wanted + 1;
            self.searching = true;
            self.settled = false;
            self.raise_at = None;
        } else if let Some(smallest) = smallest {
            self.high = smallest;
        }
        self.close_in(now);
    }

    /// The next round between what passes and what doesn't, if there is something between.
    fn close_in(&mut self, now: Time) {
        if self.searching && self.low + 1 < self.high {
            let (sizes, count) = self.sizes();
            return self.try_sizes(&sizes[..count], now);
        }
        if self.searching {
            self.searching = false;
            self.settled = true;
            self.raise_at = (!self.is_wide()).then(|| now + RAISE_AFTER);
        }
        // Large data may be flowing already.
        let confirm = (self.low > self.base).then(|| now + CONFIRM_EVERY);
        self.phase = Phase::Resting { confirm };
    }

    /// Sizes above the one that passes, evenly spread, the last just below the one that doesn't.
    fn sizes(&self) -> ([usize; MOST_TRIALS], usize) {
        let span = self.high - 1 - self.low;
        let count = span.min(MOST_TRIALS);
        let sizes = std::array::from_fn(|at| self.low + span * (at + 1).min(count) / count);
        (sizes, count)
    }

    fn try_sizes(&mut self, sizes: &[usize], now: Time) {
        let trials = sizes.iter().map(|octets| Trial {
            octets: *octets,
            token: [0; 8],
        });
        self.phase = Phase::Trying {
            trials: trials.collect(),
            sent: 0,
            since: now,
            due: now,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: usize = 1252;

    /// Runs until nothing is due before `until`; returns the sizes that were sent.
    fn run(
        search: &mut Search,
        carries: usize,
        large: bool,
        from: Time,
        until: Time,
    ) -> Vec<usize> {
        let mut sent = Vec::new();
        while let Some(now) = search
            .due()
            .map(|due| due.max(from))
            .filter(|at| *at <= until)
        {
            let noted = Noted {
                sent_large: if large { now } else { Time::ZERO },
                received: now,
            };
            if search.step(noted, Some(Duration::ZERO), now) != (Step::Send { again: false })
                && search.trials().iter().any(|trial| trial.token == [0; 8])
            {
                continue;
            }
            for trial in search.trials() {
                trial.token = (trial.octets as u64).to_be_bytes();
            }
            let trials: Vec<usize> = search.trials().iter().map(|trial| trial.octets).collect();
            for octets in trials {
                sent.push(octets);
                if octets <= carries {
                    search.answered((octets as u64).to_be_bytes(), now);
                }
            }
        }
        sent
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn one_probe_settles_a_path_that_carries_what_is_wanted() {
        let mut search = Search::new(BASE, 1452, at(1000));
        let sent = run(&mut search, 1472, false, at(1000), at(1_000_000));
        assert_eq!(sent, [1452]);
        assert!(search.is_wide() && search.is_settled() && search.listens());
        assert_eq!(search.due(), None, "an idle peer costs nothing");
    }

    #[test]
    fn nothing_heard_concludes_nothing() {
        let mut search = Search::new(BASE, 1452, at(1000));
        let noted = Noted {
            sent_large: at(1000),
            received: at(999),
        };
        while let Some(due) = search.due() {
            search.step(noted, None, due);
        }
        assert!(search.listens() && !search.is_settled());
        search.watch(at(60_000));
        assert_eq!(search.due(), Some(at(60_000)));
    }

    #[test]
    fn a_path_that_widens_is_found_to_within_ten_minutes() {
        let mut search = Search::new(BASE, 1452, at(1000));
        run(&mut search, 1300, true, at(1000), at(10_000));
        assert_eq!(search.carries(), 1300);
        run(&mut search, 9000, true, at(10_000), at(700_000));
        assert!(search.is_wide());
    }

    #[test]
    fn a_search_that_needs_all_of_its_rounds_ends_within_six_seconds() {
        let mut search = Search::new(BASE, 7252, at(1000));
        run(&mut search, 7234, true, at(1000), at(7000));
        assert!(search.is_settled());
        assert_eq!(search.carries(), 7234);
    }

    proptest! {
        #[test]
        fn what_a_path_carries_is_found_exactly_and_soon(
            wanted in 1300..=9000_usize,
            carries in BASE..=9000_usize,
            then in BASE..=9000_usize,
        ) {
            let mut search = Search::new(BASE, wanted, at(1000));
            run(&mut search, carries, true, at(1000), at(7000));
            prop_assert!(search.is_settled());
            prop_assert_eq!(search.carries(), carries.min(wanted));

            // It shrinks while large data is sent: the size is given up within 2 s.
            let then = then.min(carries);
            let mut after = at(7000);
            while search.carries() > then && after < at(9000) {
                after = after + Duration::from_millis(10);
                run(&mut search, then, true, at(7000), after);
            }
            prop_assert!(search.carries() <= then.max(BASE));
            run(&mut search, then, true, after, at(15_000));
            prop_assert_eq!(search.carries(), then.min(wanted));
        }
    }
}
