//! Randomness that a cloned VM doesn't repeat.
//!
//! Measured: VMs resumed from one snapshot repeat the first `getrandom` after it
//! and every user-space generator for ever; RDRAND differs in every draw.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::hkdf;
use cairn_engine::Entropy;
use zeroize::Zeroizing;

use crate::call::{check_length, retry};

/// Secrets from all the sources that the host has, salts from the CPU's generator.
#[derive(Debug)]
pub struct SystemEntropy {
    generator: Checked,
}

/// The CPU's generator and what tells whether it can be believed.
#[derive(Debug)]
struct Checked {
    draw: fn() -> Option<u64>,
    trusted: AtomicBool,
    last: AtomicU64,
}

/// Draws at the start; some CPUs give a constant after the machine has slept.
const SELF_TEST_DRAWS: usize = 64;

/// Intel's advice: ten failures in a row mean that the generator is broken.
const TRIES: usize = 10;

/// Octets of each of the two mixed sources.
const SOURCE_OCTETS: usize = 32;

impl SystemEntropy {
    /// Tests the CPU's generator and uses it if it passes.
    pub fn new() -> Self {
        Self {
            generator: Checked::new(cpu_random),
        }
    }

    /// As on a machine without a CPU generator; for tests of the fallback.
    pub fn without_cpu() -> Self {
        Self {
            generator: Checked::new(|| None),
        }
    }

    fn fallback_salt() -> u64 {
        let mut octets = [0; 8];
        kernel_random(&mut octets);
        u64::from_ne_bytes(octets) ^ cycle_count()
    }
}

impl Default for SystemEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy for SystemEntropy {
    fn fill_secret(&self, out: &mut [u8]) {
        let mut sources = Zeroizing::new([0u8; 2 * SOURCE_OCTETS + 8]);
        let (kernel, rest) = sources.split_at_mut(SOURCE_OCTETS);
        let (cpu, cycles) = rest.split_at_mut(SOURCE_OCTETS);
        kernel_random(kernel);
        for part in cpu.chunks_exact_mut(8) {
            // Without a CPU generator the other sources must do; the caller rekeys sooner.
            part.copy_from_slice(&self.generator.draw().unwrap_or(0).to_ne_bytes());
        }
        cycles.copy_from_slice(&cycle_count().to_ne_bytes());
        expand(&sources[..], out);
    }

    fn salt(&self) -> [u8; 6] {
        let drawn = self.generator.draw().unwrap_or_else(Self::fallback_salt);
        let [a, b, c, d, e, f, ..] = drawn.to_ne_bytes();
        [a, b, c, d, e, f]
    }

    fn has_cpu_rng(&self) -> bool {
        self.generator.trusted.load(Ordering::Relaxed)
    }
}

impl Checked {
    fn new(draw: fn() -> Option<u64>) -> Self {
        let checked = Self {
            draw,
            trusted: AtomicBool::new(true),
            last: AtomicU64::new(0),
        };
        for _ in 0..SELF_TEST_DRAWS {
            checked.draw();
        }
        checked
    }

    /// Draws once; a generator that fails a check is never believed again.
    fn draw(&self) -> Option<u64> {
        if !self.trusted.load(Ordering::Relaxed) {
            return None;
        }
        let drawn = (0..TRIES).find_map(|_| (self.draw)());
        let good = drawn.filter(|&value| {
            // By chance one of 2^63 draws fails these; a broken generator fails at once.
            value != u64::MAX && value != 0 && self.last.swap(value, Ordering::Relaxed) != value
        });
        if good.is_none() {
            self.trusted.store(false, Ordering::Relaxed);
        }
        good
    }
}

/// HKDF-SHA256 (RFC 5869) of the sources.
fn expand(sources: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = Length(out.len());
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"cairn entropy 1").extract(sources);
    key.expand(&[b"secret"], length)
        .and_then(|okm| okm.fill(out))
        .expect("at most 255 times 32 octets are asked for");
}

fn kernel_random(out: &mut [u8]) {
    let mut filled = 0;
    while filled < out.len() {
        let rest = &mut out[filled..];
        filled += retry(|| {
            // SAFETY: pointer and length describe `rest`, which outlives the call.
            check_length(unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) })
        })
        .expect("getrandom exists since Linux 3.17 and fails only when interrupted");
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_random() -> Option<u64> {
    #[target_feature(enable = "rdrand")]
    fn draw() -> Option<u64> {
        let mut value = 0;
        (core::arch::x86_64::_rdrand64_step(&mut value) == 1).then_some(value)
    }
    if !std::arch::is_x86_feature_detected!("rdrand") {
        return None;
    }
    // SAFETY: the CPU has the instruction.
    unsafe { draw() }
}

#[cfg(target_arch = "x86_64")]
fn cycle_count() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC; Linux never switches it off for a process
    // that didn't ask for it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// RNDR (Armv8.5-A FEAT_RNG); the zero flag says that it failed.
#[cfg(target_arch = "aarch64")]
fn cpu_random() -> Option<u64> {
    if !std::arch::is_aarch64_feature_detected!("rand") {
        return None;
    }
    let (value, failed): (u64, u64);
    // SAFETY: the CPU has the register; reading it touches the flags only.
    unsafe {
        core::arch::asm!(
            "mrs {value}, s3_3_c2_c4_0",
            "cset {failed}, eq",
            value = out(reg) value,
            failed = out(reg) failed,
            options(nomem, nostack),
        );
    }
    (failed == 0).then_some(value)
}

#[cfg(target_arch = "aarch64")]
fn cycle_count() -> u64 {
    let count: u64;
    // SAFETY: Linux lets user space read the virtual counter.
    unsafe {
        core::arch::asm!("mrs {count}, cntvct_el0", count = out(reg) count, options(nomem, nostack));
    }
    count
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_random() -> Option<u64> {
    None
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cycle_count() -> u64 {
    crate::clock::now().as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn secrets_and_salts_differ_in_every_draw() {
        for entropy in [SystemEntropy::new(), SystemEntropy::without_cpu()] {
            let secrets: HashSet<[u8; 32]> = (0..100)
                .map(|_| {
                    let mut secret = [0; 32];
                    entropy.fill_secret(&mut secret);
                    secret
                })
                .collect();
            let salts: HashSet<[u8; 6]> = (0..100).map(|_| entropy.salt()).collect();
            assert_eq!((secrets.len(), salts.len()), (100, 100));
        }
    }

    #[test]
    fn a_secret_of_any_length_is_filled() {
        for length in [1, 3, 31, 32, 33, 200] {
            let mut secret = vec![0; length];
            SystemEntropy::new().fill_secret(&mut secret);
            assert!(length < 8 || secret.iter().any(|&octet| octet != 0));
        }
    }

    #[test]
    fn a_generator_that_repeats_itself_is_not_believed() {
        assert!(
            !Checked::new(|| Some(0x1234))
                .trusted
                .load(Ordering::Relaxed)
        );
    }

    #[test]
    fn a_generator_of_ones_or_of_nothing_is_not_believed() {
        assert!(
            !Checked::new(|| Some(u64::MAX))
                .trusted
                .load(Ordering::Relaxed)
        );
        assert!(!Checked::new(|| None).trusted.load(Ordering::Relaxed));
    }

    #[test]
    fn a_generator_that_breaks_later_is_given_up() {
        static DRAWS: AtomicU64 = AtomicU64::new(1);
        fn breaks_after_a_while() -> Option<u64> {
            let n = DRAWS.fetch_add(1, Ordering::Relaxed);
            Some(if n < 100 { n } else { u64::MAX })
        }
        let generator = Checked::new(breaks_after_a_while);
        assert!(generator.draw().is_some());
        while generator.draw().is_some() {}
        assert!(!generator.trusted.load(Ordering::Relaxed));
        assert_eq!(generator.draw(), None);
    }

    #[test]
    fn without_a_cpu_generator_the_entropy_says_so() {
        assert!(!SystemEntropy::without_cpu().has_cpu_rng());
    }
}
