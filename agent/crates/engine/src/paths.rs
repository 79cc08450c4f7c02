//! Where a peer may be reached, and which of these places has proved itself (rule 9).

use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Time;

/// At most so many candidates are tried, so that nobody can make us spray INITs.
const MAX_CANDIDATES: usize = 16;
/// Endpoints that peers were seen at, beside the netmap's.
const MAX_SEEN: usize = 4;
/// A proof that the peer is at an endpoint holds this long.
const PROOF_HOLDS: Duration = Duration::from_secs(180);
/// A challenge is repeated after this time.
const CHALLENGE_AFTER: Duration = Duration::from_secs(1);
const MAX_CHALLENGES: u32 = 3;

/// The endpoints of one peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// From the netmap, the static configuration, the appliance.
    given: Vec<SocketAddr>,
    /// Newest last, with the moment of the proof.
    proven: Vec<(SocketAddr, Time)>,
    pub(crate) challenge: Option<Challenge>,
}

/// A challenge that waits for its response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Challenge {
    pub(crate) endpoint: SocketAddr,
    pub(crate) token: [u8; 8],
    pub(crate) due: Time,
    sent: u32,
}

/// What to do about a challenge that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChallengeDue {
    /// Send it (again).
    Send(SocketAddr, [u8; 8]),
    /// Nobody answered: go back to this endpoint, if there is one.
    Failed(Option<SocketAddr>),
}

impl Paths {
    pub(crate) fn set_given(&mut self, given: &[SocketAddr]) {
        self.given = given.iter().map(|endpoint| canonical(*endpoint)).collect();
        self.given.truncate(MAX_CANDIDATES);
    }

    /// Adds endpoints; returns whether any is new.
    pub(crate) fn add_given(&mut self, endpoints: &[SocketAddr]) -> bool {
        let before = self.given.len();
        for endpoint in endpoints {
            let endpoint = canonical(*endpoint);
            if !self.given.contains(&endpoint) {
                self.given.insert(0, endpoint);
            }
        }
        self.given.truncate(MAX_CANDIDATES);
        self.given.len() > before
    }

    /// All endpoints worth an INIT: `current` first, then where the peer was seen last.
    pub(crate) fn candidates(&self, current: Option<SocketAddr>) -> Vec<SocketAddr> {
        let seen = self.proven.iter().rev().map(|(endpoint, _)| *endpoint);
        let mut all: Vec<SocketAddr> = Vec::new();
        for endpoint in current
            .into_iter()
            .chain(seen)
            .chain(self.given.iter().copied())
        {
            if !all.contains(&endpoint) && all.len() < MAX_CANDIDATES {
                all.push(endpoint);
            }
        }
        all
    }

    /// The peer has proved that it is at `endpoint`.
    pub(crate) fn prove(&mut self, endpoint: SocketAddr, now: Time) {
        self.proven.retain(|(known, _)| *known != endpoint);
        self.proven.push((endpoint, now));
        if self.proven.len() > MAX_SEEN {
            self.proven.remove(0);
        }
        if self
            .challenge
            .is_some_and(|challenge| challenge.endpoint == endpoint)
        {
            self.challenge = None;
        }
    }

    pub(crate) fn is_proven(&self, endpoint: SocketAddr, now: Time) -> bool {
        let mut proven = self.proven.iter();
        proven.any(|(known, at)| *known == endpoint && now.since(*at) < PROOF_HOLDS)
    }

    /// Starts to challenge an endpoint.
    pub(crate) fn challenge(&mut self, endpoint: SocketAddr, token: [u8; 8], now: Time) {
        self.challenge = Some(Challenge {
            endpoint,
            token,
            due: now,
            sent: 0,
        });
    }

    /// Gives up a challenge to any other endpoint: the peer has moved on.
    pub(crate) fn keep_challenge_of(&mut self, endpoint: SocketAddr) {
        self.challenge = self
            .challenge
            .filter(|challenge| challenge.endpoint == endpoint);
    }

    /// Repeats the challenge to an endpoint now.
    pub(crate) fn hasten_challenge(&mut self, endpoint: SocketAddr, now: Time) {
        let under_way = self.challenge.as_mut();
        if let Some(challenge) = under_way.filter(|challenge| challenge.endpoint == endpoint) {
            challenge.due = now;
        }
    }

    /// What is due about the challenge under way.
    pub(crate) fn challenge_due(&mut self, now: Time) -> Option<ChallengeDue> {
        let challenge = self
            .challenge
            .as_mut()
            .filter(|challenge| challenge.due <= now)?;
        if challenge.sent < MAX_CHALLENGES {
            challenge.sent += 1;
            challenge.due = now + CHALLENGE_AFTER;
            return Some(ChallengeDue::Send(challenge.endpoint, challenge.token));
        }
        let failed = challenge.endpoint;
        self.challenge = None;
        let mut proven = self.proven.iter().rev().map(|(endpoint, _)| *endpoint);
        Some(ChallengeDue::Failed(
            proven.find(|endpoint| *endpoint != failed),
        ))
    }

    /// Whether this is the response to the challenge under way, from where it was sent.
    pub(crate) fn is_response(&self, from: SocketAddr, token: [u8; 8]) -> bool {
        let expected = self.challenge.as_ref();
        expected.is_some_and(|challenge| challenge.endpoint == from && challenge.token == token)
    }
}

/// An IPv4 address is one, even when it comes in IPv6 clothes.
fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}
