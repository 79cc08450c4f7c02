//! Why something was not passed on: each reason is a value with a counter.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal),* $(,)?) => {
        /// Why a datagram or a frame went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Dropped {
            $($(#[$doc])* $name),*
        }

        impl Dropped {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason's name in `stats`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

reasons! {
    /// Not a datagram of this protocol: version, type, length or a reserved octet.
    MalformedDatagram => "malformed_datagram",
    /// mac1 is wrong: the sender doesn't know whom it addresses.
    WrongMac1 => "wrong_mac1",
    /// Under load and without a right mac2 (a cookie was sent).
    CookieRequired => "cookie_required",
    /// Under load, with a right mac2, and more than 20 INITs of this source in this second.
    SourceTooFast => "source_too_fast",
    /// A COOKIE that answers no INIT of ours or doesn't authenticate.
    UnknownCookie => "unknown_cookie",
    /// INIT for a vSubnet of which this node is no member.
    UnknownVSubnet => "unknown_vsubnet",
    /// INIT of another suite than the vSubnet's.
    WrongSuite => "wrong_suite",
    /// INIT with an epoch that is not accepted.
    UnknownEpoch => "unknown_epoch",
    /// A handshake message that doesn't authenticate.
    HandshakeFailed => "handshake_failed",
    /// INIT by a key that is not a member's, or with another node's ID.
    UnknownPeer => "unknown_peer",
    /// INIT whose ephemeral key was seen before.
    ReplayedInit => "replayed_init",
    /// INIT less than 50 ms after the last accepted one of the same key; those of endpoints that
    /// proved themselves and those of others are apart.
    InitTooSoon => "init_too_soon",
    /// RESP to no INIT that is waiting.
    UnknownHandshake => "unknown_handshake",
    /// DATA or CONTROL for no session.
    UnknownSession => "unknown_session",
    /// The session is past its time or its number of messages.
    SessionExpired => "session_expired",
    /// The tag doesn't authenticate the packet.
    NotAuthentic => "not_authentic",
    /// A counter that was seen before.
    Replayed => "replayed",
    /// A counter older than the window.
    TooOld => "too_old",
    /// A valid tag on a seen counter under another salt: the sender was cloned.
    Cloned => "cloned",
    /// CONTROL whose TLVs are cut short.
    MalformedControl => "malformed_control",
    /// Too many frames wait for a session (64 a peer, 2 MiB in all).
    QueueFull => "queue_full",
    /// A frame waited 2 s for a session.
    QueueExpired => "queue_expired",
    /// The peer has no known endpoint.
    NoEndpoint => "no_endpoint",
    /// More than three times the octets received from an endpoint that isn't validated yet.
    PathUnvalidated => "path_unvalidated",
    /// The queue to the slow path is full.
    SlowPathFull => "slow_path_full",
    /// A superframe of the TAP whose header and octets disagree.
    BadSuperframe => "bad_superframe",
    /// DATA whose prefix, bundle or partial checksum isn't what it must be.
    MalformedData => "malformed_data",
    /// The frame doesn't fit a datagram.
    FrameTooLong => "frame_too_long",
    /// The frame doesn't fit the path to the peer and can't be divided; its sender was told, where
    /// there is a way to (ICMP).
    PathTooNarrow => "path_too_narrow",
    /// The switch refused the frame; `Switch::refusals` counts why.
    RefusedBySwitch => "refused_by_switch",
    /// A frame waited for a session, and this gateway's gate closed meanwhile.
    GateClosed => "gate_closed",
    /// The peer is no longer a member.
    PeerRemoved => "peer_removed",
}

/// A counter for each reason; added to from any thread.
#[derive(Debug)]
pub struct Drops([AtomicU64; Dropped::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Dropped::ALL.len()])
    }
}

impl Drops {
    /// Counts one drop.
    pub fn count(&self, reason: Dropped) {
        self.add(reason, 1);
    }

    /// Counts `n` drops.
    pub fn add(&self, reason: Dropped, n: u64) {
        self.0[reason as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// How many were dropped for `reason`.
    pub fn get(&self, reason: Dropped) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// The reasons that occurred, with their counts.
    pub fn occurred(&self) -> Vec<(Dropped, u64)> {
        let counts = Dropped::ALL
            .iter()
            .map(|reason| (*reason, self.get(*reason)));
        counts.filter(|(_, n)| *n > 0).collect()
    }
}
