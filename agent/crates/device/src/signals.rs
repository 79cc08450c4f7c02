//! Signals as something to read: SIGTERM and SIGINT end the process in order.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::call::{check, check_length};

/// Readable when the process is asked to end.
#[derive(Debug)]
pub struct EndSignals(OwnedFd);

impl EndSignals {
    /// Blocks SIGTERM and SIGINT in this thread and those it starts, and makes
    /// them readable here. To be called before the first thread is started.
    pub fn new() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set; all calls get a valid pointer to it.
        let fd = unsafe {
            check(libc::sigemptyset(set.as_mut_ptr()))?;
            check(libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM))?;
            check(libc::sigaddset(set.as_mut_ptr(), libc::SIGINT))?;
            check(libc::pthread_sigmask(
                libc::SIG_BLOCK,
                set.as_ptr(),
                std::ptr::null_mut(),
            ))?;
            check(libc::signalfd(
                -1,
                set.as_ptr(),
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            ))?
        };
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns the number of the signal that came, if one did.
    pub fn take(&self) -> Option<u32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: pointer and length describe `info`, which outlives the call.
        let length =
            check_length(unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) });
        // SAFETY: a whole structure was read, so it is initialised.
        (length.ok()? == size).then(|| unsafe { info.assume_init() }.ssi_signo)
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
