//! Whether a peer that we send to still answers (rule 15).

use std::time::Duration;

use crate::time::Time;

/// Probes follow each other after this time.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// So many unanswered, and the peer is looked for elsewhere.
const MAX_MISSES: u32 = 3;

/// The watch over one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Nothing was sent that wants an answer.
    #[default]
    Resting,
    /// Data was sent at `since`; look again at `due`.
    Watching { since: Time, due: Time },
    /// Probes are sent; the last at `sent`.
    Probing {
        sent: Time,
        token: [u8; 8],
        misses: u32,
    },
    /// Nothing answers; INITs go to all endpoints until one does.
    Dead,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    None,
    /// Stop watching; the fast path tells when there is more.
    Rest,
    /// Send a probe.
    Probe,
    /// INIT to all endpoints, and ask for newer ones.
    LookElsewhere,
}

/// What the fast path noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    pub(crate) sent_data: Time,
    pub(crate) received: Time,
}

impl Liveness {
    /// Data was sent after a rest.
    pub(crate) fn watch(&mut self, since: Time, dead_after: Duration) {
        if *self == Self::Resting {
            *self = Self::Watching {
                since,
                due: since + dead_after,
            };
        }
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Option<Time> {
        match self {
            Self::Resting | Self::Dead => None,
            Self::Watching { due, .. } => Some(*due),
            Self::Probing { sent, .. } => Some(*sent + PROBE_EVERY),
        }
    }

    /// Looks, if it is time.
    pub(crate) fn step(&mut self, noted: Noted, dead_after: Duration, now: Time) -> Step {
        match *self {
            Self::Watching { since, due } if due <= now => {
                self.look(since.max(noted.received), noted, dead_after, now)
            }
            Self::Probing { sent, misses, .. } if sent + PROBE_EVERY <= now => {
                if noted.received >= sent {
                    self.look(noted.received, noted, dead_after, now)
                } else if misses + 1 < MAX_MISSES {
                    Step::Probe
                } else {
                    *self = Self::Dead;
                    Step::LookElsewhere
                }
            }
            _ => Step::None,
        }
    }

    /// `answered`: up to here nothing is owed to us.
    fn look(&mut self, answered: Time, noted: Noted, dead_after: Duration, now: Time) -> Step {
        let due = answered + dead_after;
        if noted.sent_data <= answered && noted.received >= noted.sent_data {
            *self = Self::Resting;
            Step::Rest
        } else if due <= now {
            Step::Probe
        } else {
            *self = Self::Watching {
                since: answered,
                due,
            };
            Step::None
        }
    }

    /// A probe was sent.
    pub(crate) fn probed(&mut self, token: [u8; 8], now: Time) {
        let misses = match *self {
            Self::Probing { misses, .. } => misses + 1,
            _ => 0,
        };
        *self = Self::Probing {
            sent: now,
            token,
            misses,
        };
    }

    /// When the probe with this token was sent.
    pub(crate) fn sent_at(&self, probe: [u8; 8]) -> Option<Time> {
        match *self {
            Self::Probing { sent, token, .. } if token == probe => Some(sent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(3);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn noted(sent_data: u64, received: u64) -> Noted {
        Noted {
            sent_data: at(sent_data),
            received: at(received),
        }
    }

    #[test]
    fn a_peer_that_answers_is_left_alone() {
        let mut liveness = Liveness::default();
        liveness.watch(at(1000), DEAD_AFTER);
        assert_eq!(liveness.due(), Some(at(4000)));
        assert_eq!(
            liveness.step(noted(1000, 1050), DEAD_AFTER, at(4000)),
            Step::Rest
        );
        assert_eq!(liveness, Liveness::Resting);
    }

    #[test]
    fn a_silent_peer_is_probed_each_second_and_then_looked_for_elsewhere() {
        let mut liveness = Liveness::default();
        liveness.watch(at(1000), DEAD_AFTER);
        let mut steps = Vec::new();
        while let Some(due) = liveness.due() {
            let step = liveness.step(noted(1000, 500), DEAD_AFTER, due);
            steps.push((due.as_millis(), step));
            if step == Step::Probe {
                liveness.probed([1; 8], due);
            }
        }
        let expected = [
            (4000, Step::Probe),
            (5000, Step::Probe),
            (6000, Step::Probe),
            (7000, Step::LookElsewhere),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn an_answer_to_a_probe_goes_back_to_watching_what_was_sent_since() {
        let mut liveness = Liveness::default();
        liveness.watch(at(1000), DEAD_AFTER);
        assert_eq!(
            liveness.step(noted(4000, 0), DEAD_AFTER, at(4000)),
            Step::Probe
        );
        liveness.probed([1; 8], at(4000));
        assert_eq!(
            liveness.step(noted(4900, 4050), DEAD_AFTER, at(5000)),
            Step::None
        );
        assert_eq!(liveness.due(), Some(at(7050)));
    }
}
