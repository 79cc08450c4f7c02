//! The clock: CLOCK_BOOTTIME, which goes on while a VM is suspended.

use cairn_engine::Time;

/// Returns the time since the host booted, time in suspension included.
///
/// A session must not outlive its timers because the VM slept (rule 6).
pub fn now() -> Time {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` outlives the call. CLOCK_BOOTTIME exists since Linux 2.6.39.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME can't be read");
    Time::from_nanos(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_go_back() {
        let first = now();
        assert!(first > Time::ZERO);
        assert!(now() >= first);
    }
}
