//! For tests and examples: deterministic entropy, and a network of nodes in one process with
//! virtual time.

mod entropy;
pub mod transcript;
mod world;

pub use entropy::SeededEntropy;
pub use world::{Delivery, Impairment, Node, World, broadcast_frame, frame, mac_of, node_id};

use crate::noise::StaticKey;
use crate::state::Suite;

/// The public half of a private key.
///
/// # Panics
/// If the octets are no private key of the suite's curve.
pub fn public_key(suite: Suite, private: &[u8; 32]) -> Vec<u8> {
    let key = StaticKey::new(suite, private).expect("a private key of the curve");
    key.public().to_vec()
}
