//! Entropy that isn't.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::entropy::Entropy;

/// A sequence that depends on the seed alone (SplitMix64). For tests only.
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// The sequence of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn draw(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .0
            .fetch_add(GAMMA, Ordering::Relaxed)
            .wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&self, limit: u64) -> u64 {
        self.draw() % limit
    }
}

impl Entropy for SeededEntropy {
    fn fill_secret(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_be_bytes()[..chunk.len()]);
        }
    }

    fn salt(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.draw().to_be_bytes();
        [a, b, c, d, e, f]
    }

    fn has_cpu_rng(&self) -> bool {
        true
    }
}
