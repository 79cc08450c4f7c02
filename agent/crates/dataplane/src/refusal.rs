//! Why a request was refused: a code for the agent, a sentence for people.

use cairn_device::tap::TapError;
use cairn_engine::StateError;

/// The `error` of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One of the codes of docs/protocol.md 2.
    pub code: &'static str,
    /// Cause and remedy.
    pub message: String,
}

impl Refusal {
    /// Makes a refusal.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The state is not one, or contradicts itself.
    pub fn bad_state(message: impl Into<String>) -> Self {
        Self::new("bad_state", message)
    }

    /// A key in the state is not one.
    pub fn bad_key(message: impl Into<String>) -> Self {
        Self::new("bad_key", message)
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        let code = match error {
            StateError::PrivateKey(_) | StateError::PublicKey { .. } => "bad_key",
            _ => "bad_state",
        };
        Self::new(code, error.to_string())
    }
}

impl From<TapError> for Refusal {
    fn from(error: TapError) -> Self {
        let code = match error {
            TapError::NoTunDevice(_) => "no_tun_device",
            TapError::Missing(_) => "tap_missing",
            TapError::BadName(_) => "bad_state",
            TapError::NotPermitted(_) | TapError::TunDeviceNotPermitted => "not_permitted",
            TapError::Busy(_) => "tap_busy",
            TapError::WrongKind(..) => "tap_wrong_kind",
            TapError::Call { .. } => "tap_failed",
        };
        Self::new(code, error.to_string())
    }
}
