//! What the fast path tells `Core`: small values that the caller moves through a bounded queue.

use std::net::SocketAddr;
use std::sync::Arc;

use cairn_wire::Mac;

use crate::ids::Vni;
use crate::link::Link;
use crate::session::Session;

/// The longest handshake datagram (INIT of suite 2).
pub const MAX_HANDSHAKE_LEN: usize = 170;

/// The longest CONTROL plaintext that is looked at.
pub const MAX_CONTROL_LEN: usize = 64;

/// A few octets held inline, so that a flood of messages allocates nothing.
#[derive(Clone, Debug)]
pub struct Inline<const N: usize> {
    octets: [u8; N],
    len: u8,
}

impl<const N: usize> Inline<N> {
    /// Copies `octets`; `None` if they don't fit.
    pub fn copy(octets: &[u8]) -> Option<Self> {
        let len = u8::try_from(octets.len())
            .ok()
            .filter(|_| octets.len() <= N)?;
        let mut copy = Self {
            octets: [0; N],
            len,
        };
        copy.octets[..octets.len()].copy_from_slice(octets);
        Some(copy)
    }

    /// The octets.
    pub fn as_slice(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

/// A message from the fast path. Opaque: the caller only moves it.
#[derive(Debug)]
pub struct Message(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    /// INIT, RESP or COOKIE with a right mac1 (COOKIE has none).
    Handshake {
        from: SocketAddr,
        datagram: Inline<MAX_HANDSHAKE_LEN>,
    },
    /// A frame, with its prefix, for a peer without a session.
    Wanted { link: Arc<Link>, frame: Box<[u8]> },
    /// The session is old enough to be renewed.
    RekeyDue { session: Arc<Session> },
    /// The initiator used the session for the first time.
    Confirmed {
        session: Arc<Session>,
        from: SocketAddr,
    },
    /// The newest packet of a peer came from another endpoint.
    Roamed {
        session: Arc<Session>,
        from: SocketAddr,
        octets: u64,
    },
    /// Data was sent after a while of rest: watch that something comes back.
    SentData { link: Arc<Link> },
    /// Data was received after a while of rest: see that something goes back.
    ReceivedData { link: Arc<Link> },
    /// A CONTROL packet that was authentic.
    Control {
        session: Arc<Session>,
        from: SocketAddr,
        plaintext: Inline<MAX_CONTROL_LEN>,
    },
    /// A large datagram was sent after a while of rest: see that such ones pass.
    SentLarge { link: Arc<Link> },
    /// A frame is too large for the path: tell its sender, of whose frame this is the start.
    TooLarge {
        link: Arc<Link>,
        frame: Box<[u8]>,
        longest: usize,
    },
    /// Proof that the peer was cloned.
    CloneSeen { session: Arc<Session> },
    /// A MAC seen behind a peer that may bridge.
    Learn { link: Arc<Link>, mac: Mac },
    /// A frame to a group came, to which the host may not listen.
    Multicast { link: Arc<Link>, group: Mac },
    /// The host said that it listens to other groups than before.
    Reported { vni: Vni },
    /// A frame came from a MAC that talks on this gateway's own LAN.
    Reflected { link: Arc<Link>, mac: Mac },
    /// A frame came from a MAC that isn't the peer's.
    Spoofed { link: Arc<Link>, mac: Mac },
}

/// The bounded queue from a fast-path thread to the owner of `Core`.
pub trait SlowPath {
    /// Passes a message on; `false` if the queue is full (the message is dropped and counted).
    fn submit(&mut self, message: Message) -> bool;
}

impl SlowPath for Vec<Message> {
    fn submit(&mut self, message: Message) -> bool {
        self.push(message);
        true
    }
}
