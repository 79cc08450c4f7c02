//! The handshake with everything fixed, for vectors and for comparison with other
//! implementations.

use std::sync::Arc;

use crate::entropy::Entropy;
use crate::mac::MacKey;
use crate::noise::{Initiated, Party, Received, StaticKey};
use crate::state::Suite;

/// Entropy that yields one ephemeral key and nothing else.
struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn fill_secret(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0[..out.len()]);
    }

    fn salt(&self) -> [u8; 6] {
        [0; 6]
    }

    fn has_cpu_rng(&self) -> bool {
        true
    }
}

/// One side's secrets.
#[derive(Clone, Debug)]
pub struct Side {
    /// The static private key.
    pub private: [u8; 32],
    /// The ephemeral private key.
    pub ephemeral: [u8; 32],
}

/// What both sides know.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The suite.
    pub suite: Suite,
    /// The PSK.
    pub psk: [u8; 32],
    /// The prologue.
    pub prologue: Vec<u8>,
}

/// What one side ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The message this side made.
    pub message: Vec<u8>,
    /// The payload it read.
    pub payload: Vec<u8>,
    /// The key it seals with.
    pub seal: [u8; 32],
    /// The key it opens with.
    pub open: [u8; 32],
}

/// An initiator between its two messages.
pub struct Initiator {
    state: Initiated,
    message: Vec<u8>,
}

impl Initiator {
    /// Makes the first message; `None` if a key is not of the curve.
    pub fn start(
        setting: &Setting,
        side: &Side,
        responder: &[u8],
        payload: &[u8; 24],
    ) -> Option<Self> {
        let key = Arc::new(StaticKey::new(setting.suite, &side.private)?);
        let entropy: Arc<dyn Entropy> = Arc::new(Fixed(side.ephemeral));
        let mut message = Vec::new();
        let party = party(setting, &key, &entropy);
        let state = Initiated::new(&party, responder, payload, &mut message).ok()?;
        Some(Self { state, message })
    }

    /// The first message.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Reads the second message; `None` if it isn't authentic.
    pub fn finish(mut self, message: &[u8]) -> Option<Outcome> {
        let (payload, keys) = self.state.finish(message).ok()?;
        Some(Outcome {
            message: self.message,
            payload: payload.to_vec(),
            seal: *keys.seal,
            open: *keys.open,
        })
    }
}

/// Reads the first message and makes the second; returns the outcome and the initiator's static
/// key. `None` if the message isn't authentic.
pub fn respond(
    setting: &Setting,
    side: &Side,
    message: &[u8],
    payload: &[u8; 8],
) -> Option<(Outcome, Vec<u8>)> {
    let key = Arc::new(StaticKey::new(setting.suite, &side.private)?);
    let entropy: Arc<dyn Entropy> = Arc::new(Fixed(side.ephemeral));
    let received = Received::new(&party(setting, &key, &entropy), message).ok()?;
    let (remote, read) = (received.remote.clone(), received.payload.to_vec());
    let mut answer = Vec::new();
    let keys = received.answer(payload, &mut answer).ok()?;
    let outcome = Outcome {
        message: answer,
        payload: read,
        seal: *keys.seal,
        open: *keys.open,
    };
    Some((outcome, remote))
}

fn party<'a>(
    setting: &'a Setting,
    key: &'a Arc<StaticKey>,
    entropy: &'a Arc<dyn Entropy>,
) -> Party<'a> {
    Party {
        key,
        psk: &setting.psk,
        prologue: &setting.prologue,
        entropy,
    }
}

/// Fills mac1 and mac2 into a message to the owner of `public_key`; its last 32 octets are room.
pub fn fill_macs(suite: Suite, public_key: &[u8], message: &mut [u8], cookie: Option<&[u8; 16]>) {
    MacKey::new(suite, public_key).fill(message, cookie);
}

/// Makes the COOKIE by which the owner of `public_key` answers an INIT.
pub fn seal_cookie(
    suite: Suite,
    public_key: &[u8],
    receiver: u32,
    mac1: &[u8; 16],
    cookie: &[u8; 16],
    nonce: [u8; 12],
) -> Vec<u8> {
    MacKey::new(suite, public_key)
        .seal_cookie(receiver, mac1, cookie, nonce)
        .to_vec()
}
