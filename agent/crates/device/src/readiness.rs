//! Waiting for descriptors: epoll, and an eventfd to wake a thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::call::{check, check_length, retry};

/// A set of descriptors that a thread waits for, level-triggered.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// What a descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wake when there is something to read, or a newcomer to accept.
    pub read: bool,
    /// Wake when there is room to write.
    pub write: bool,
}

impl Interest {
    /// Wake when there is something to read.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };

    fn bits(self) -> u32 {
        let read = if self.read {
            libc::EPOLLIN | libc::EPOLLRDHUP
        } else {
            0
        };
        let write = if self.write { libc::EPOLLOUT } else { 0 };
        (read | write) as u32
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The token given when the descriptor was added.
    pub token: u64,
    /// There is something to read, an end of file or an error included.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

impl Epoll {
    /// Makes an empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked before it is owned.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor; it must be removed, or closed with all its copies.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what a descriptor is waited for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Removes a descriptor.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::READ)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: `event` outlives the call; both descriptors are open by their types.
        check(unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                operation,
                fd.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Waits until a descriptor is ready or `at_most` is over, for ever if `None`.
    ///
    /// Fills `ready` anew; a signal ends the wait early with nothing in it.
    pub fn wait(&self, ready: &mut Vec<Ready>, at_most: Option<Duration>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the pointer and the count describe `events`, which outlives the call.
        let result = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                milliseconds(at_most),
            )
        });
        let count = match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other? as usize,
        };
        ready.extend(events[..count].iter().map(|event| {
            let bits = { event.events } as libc::c_int;
            Ready {
                token: event.u64,
                readable: bits & !libc::EPOLLOUT != 0,
                writable: bits & libc::EPOLLOUT != 0,
            }
        }));
        Ok(())
    }
}

/// Rounds up, so that a deadline is over when the wait is.
fn milliseconds(at_most: Option<Duration>) -> libc::c_int {
    match at_most {
        None => -1,
        Some(duration) => {
            let millis = duration.as_nanos().div_ceil(1_000_000);
            libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
        }
    }
}

/// A counter in the kernel that makes a descriptor readable: one thread wakes another.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one that is not signalled.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked before it is owned.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable. Many signals before a [`Self::clear`] are one.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // The only error left is EAGAIN at 2^64 - 1 signals: it is readable then.
        let _readable_anyway = retry(|| {
            // SAFETY: the pointer and the length describe `one`, which outlives the call.
            check_length(unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) })
        });
    }

    /// Makes the descriptor unreadable again.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // EAGAIN says that it was not signalled.
        let _unreadable_anyway = retry(|| {
            // SAFETY: the pointer and the length describe `count`, which outlives the call.
            check_length(unsafe {
                libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len())
            })
        });
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_the_wait_until_it_is_cleared() {
        let (epoll, event) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(event.as_fd(), 9, Interest::READ).unwrap();
        let mut ready = Vec::new();

        event.signal();
        event.signal();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(
            ready,
            [Ready {
                token: 9,
                readable: true,
                writable: false
            }]
        );

        event.clear();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
    }

    #[test]
    fn a_wait_is_never_shorter_than_asked() {
        assert_eq!(milliseconds(Some(Duration::from_micros(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_millis(7))), 7);
        assert_eq!(milliseconds(Some(Duration::MAX)), libc::c_int::MAX);
        assert_eq!(milliseconds(None), -1);
    }
}
