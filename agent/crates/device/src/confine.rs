//! Gives up what the process doesn't need once it runs: its capabilities, and most system calls.
//!
//! It parses what hostile peers send. Whoever takes it over finds no capability, no way to start
//! a program, no executable memory to be had and no socket of another kind: the first call that
//! is not on the list ends the process, and the service manager starts a new one.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::call::check;
use crate::process::CAP_IPC_LOCK;

/// Confines this thread and those that it starts; call it before there is another one.
/// Returns what could not be had: each a cause.
///
/// `keep_lock` keeps the one capability that locked memory needs where its limit could not be
/// lifted: without it no more memory could be had.
pub fn confine(keep_lock: bool) -> Vec<String> {
    let mut missing = Vec::new();
    let kept = if keep_lock { 1 << CAP_IPC_LOCK } else { 0 };
    if let Err(error) = drop_capabilities(kept) {
        missing.push(format!("capabilities could not be dropped: {error}"));
    }
    if let Err(error) = filter_calls() {
        missing.push(format!("system calls are not filtered: {error}"));
    }
    missing
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h, which the libc crate lacks.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// The bounding set has room for so many.
const MOST_CAPABILITIES: libc::c_ulong = 64;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn drop_capabilities(kept: u32) -> io::Result<()> {
    let none: libc::c_ulong = 0;
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, none, none, none) })?;
    // SAFETY: PR_CAP_AMBIENT takes numbers.
    check(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            none,
            none,
            none,
        )
    })?;
    for capability in 0..MOST_CAPABILITIES {
        // SAFETY: PR_CAPBSET_DROP takes numbers. Where it isn't permitted there is nothing that
        // could bring a capability of the bounding set back: no program is ever started.
        let dropped = check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) });
        if dropped.is_err() {
            break;
        }
    }
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let low = CapabilityWord {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    };
    let high = CapabilityWord {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    };
    let words = [low, high];
    // SAFETY: capset(2) reads a header and, in version 3, two words; both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Two filters, the stricter answer counts: clone3(2) hides its flags in memory, where no filter
/// sees them, and without it libc uses clone(2).
fn filter_calls() -> Result<(), Error> {
    let without_clone3 = SeccompFilter::new(
        [(libc::SYS_clone3, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let listed = SeccompFilter::new(
        rules()?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    for filter in [without_clone3, listed] {
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

fn rules() -> Result<Rules, BackendError> {
    let mut rules: Rules = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, without(libc::PROT_EXEC), 0)?]);
    }
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].into_iter();
    let families: Result<_, _> = families
        .map(|family| rule(0, SeccompCmpOp::Eq, family))
        .collect();
    rules.insert(libc::SYS_socket, families?);
    // A thread, never a process.
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![rule(0, thread, libc::CLONE_THREAD)?]);
    rules.insert(libc::SYS_clone3, Vec::new()); // the other filter has its answer
    let named = rule(0, SeccompCmpOp::Eq, libc::PR_SET_NAME)?;
    rules.insert(libc::SYS_prctl, vec![named]);
    Ok(rules)
}

fn without(bit: libc::c_int) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(bit as u64)
}

fn rule(
    argument: u8,
    operator: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompRule, BackendError> {
    let width = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(argument, width, operator, value as u64)?;
    SeccompRule::new(vec![condition])
}

/// What is allowed whatever its arguments.
const CALLS: &[i64] = &[
    // Packets, the control socket and the handover.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ioctl,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_dup,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Files: the TAP's device node, the socket's file, facts of the kernel.
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    // Memory and threads.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_prlimit64,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_getcwd,
    // Signals and the end.
    libc::SYS_signalfd4,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The older forms that x86-64 still has and libc still uses.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];
