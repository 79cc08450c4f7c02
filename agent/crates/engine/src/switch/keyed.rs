//! A fast hash for addresses under a secret key, so that nobody can aim at a bucket.

use std::hash::{BuildHasher, Hasher};

/// Odd, with no pattern: the fraction of the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// The same of the square root of two.
const SECOND: u64 = 0x6a09_e667_f3bc_c909;

/// Builds hashers under one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed(pub(super) u64);

impl Keyed {
    /// The hash of one number.
    pub(super) fn hash_of(self, number: u64) -> u64 {
        // Twice, so that the key decides in the second round too, not only shifts the input.
        fold(
            fold(self.0 ^ number, MULTIPLIER),
            self.0.rotate_left(32) ^ SECOND | 1,
        )
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher {
            key: *self,
            state: 0,
        }
    }
}

/// Meant for keys that are one or two numbers.
#[derive(Debug)]
pub(super) struct KeyedHasher {
    key: Keyed,
    state: u64,
}

impl Hasher for KeyedHasher {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, octets: &[u8]) {
        for chunk in octets.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.state = self.key.hash_of(self.state ^ number);
    }
}

/// The 128-bit product's halves, folded: each bit of the result depends on all of the input.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_addresses_spread_over_buckets_under_each_key() {
        for key in [0, 1, 0xdead_beef, u64::MAX] {
            let mut buckets = [0_u32; 256];
            for number in 0..4096_u64 {
                let hash = Keyed(key).hash_of(0x0200_0000_0000 + number);
                buckets[usize::try_from(hash >> 56).unwrap()] += 1;
            }
            let fullest = buckets.iter().max().unwrap();
            assert!(*fullest < 48, "{fullest} of 4096 in one of 256, key {key}");
        }
    }
}
