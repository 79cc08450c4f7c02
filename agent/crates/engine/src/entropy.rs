//! Where secrets and salts come from.

/// Randomness that a cloned machine doesn't repeat. `cairn-device` implements it.
pub trait Entropy: Send + Sync {
    /// Fills `out` with HKDF(getrandom || RDRAND || TSC): ephemeral keys, indexes, tokens.
    /// Never a user-space generator, whose state is cloned with the memory.
    fn fill_secret(&self, out: &mut [u8]);

    /// Draws 48 bits from the CPU's generator, checked (carry flag, all-ones, repeats);
    /// getrandom XOR TSC where there is none.
    fn salt(&self) -> [u8; 6];

    /// Whether `salt` comes from the CPU; without it sessions are rekeyed after 30 s.
    fn has_cpu_rng(&self) -> bool;
}
