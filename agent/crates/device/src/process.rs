//! What the process does for the secrets in its memory (rule 13).

use std::io;

use crate::call::check;

/// What protects the memory, and what doesn't and why.
#[derive(Debug, Default)]
pub struct Hardening {
    /// Protections that could not be had; each a cause with its remedy.
    pub missing: Vec<String>,
    /// Memory is locked by the capability alone, as the limit could not be lifted.
    pub lock_needs_capability: bool,
}

/// Makes the process non-dumpable, forbids core files and locks its memory.
///
/// Memory is locked as it is touched (`MCL_ONFAULT`), so that large buffers cost
/// no more than what is used of them.
pub fn harden() -> Hardening {
    let mut hardening = Hardening::default();
    let mut note = |result: io::Result<()>, text: &str| {
        if let Err(error) = result {
            hardening.missing.push(format!("{text}: {error}"));
        }
    };
    use_one_arena();
    note(forbid_dumps(), "the process may be dumped");
    note(forbid_core_files(), "core files may be written");
    let locked = lock_memory();
    let is_locked = locked.is_ok();
    note(locked, "memory is not locked and may reach swap");
    hardening.lock_needs_capability =
        is_locked && lock_limit().is_ok_and(|limit| limit != libc::RLIM_INFINITY);
    hardening
}

/// Every further malloc arena reserves 64 MiB; the packet threads allocate nothing.
fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; called before a second thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn forbid_dumps() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) })?;
    Ok(())
}

fn forbid_core_files() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    Ok(())
}

/// Locks memory, present and future.
///
/// Under a limit, locking what comes would make allocations fail later on and end
/// the process; then nothing is locked.
fn lock_memory() -> io::Result<()> {
    lift_lock_limit();
    if !may_lock_without_limit()? {
        return Err(io::Error::other(
            "RLIMIT_MEMLOCK is too low; set LimitMEMLOCK=infinity in the unit",
        ));
    }
    // SAFETY: takes flags only.
    check(unsafe {
        libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT as libc::c_int)
    })?;
    Ok(())
}

/// Lifts the limit itself where that is permitted: the capability that stands in for it goes.
fn lift_lock_limit() {
    let none = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `none` outlives the call. Whether it worked is asked right after.
    let _asked_after = check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) });
}

/// The number of CAP_IPC_LOCK, which lifts the limit (capabilities(7)).
pub(crate) const CAP_IPC_LOCK: u32 = 14;

fn may_lock_without_limit() -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_capable = effective(&status) >> CAP_IPC_LOCK & 1 == 1;
    Ok(lock_limit()? == libc::RLIM_INFINITY || is_capable)
}

fn lock_limit() -> io::Result<libc::rlim_t> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    Ok(limit.rlim_cur)
}

/// The effective capabilities that a `/proc/PID/status` shows.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = "Name:\tx\nCapEff:\t0000000000004000\nCapBnd:\t0\n";
        assert_eq!(effective(status), 1 << CAP_IPC_LOCK);
        assert_eq!(effective("nothing of it"), 0);
    }
}
