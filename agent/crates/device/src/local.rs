//! What Unix sockets carry beside octets: who is at the other end, and descriptors.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::call::{check, check_length, retry};

/// User and group of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// Whose process connected (SO_PEERCRED).
pub fn peer(socket: impl AsFd) -> io::Result<Credentials> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: pointer and length describe `credentials`, which outlives the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    })?;
    Ok(Credentials {
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

/// Whose process this is.
pub fn own() -> Credentials {
    // SAFETY: both take nothing and can't fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Credentials { uid, gid }
}

/// Most descriptors in one message (the kernel's SCM_MAX_FD).
pub const MOST_DESCRIPTORS: usize = 253;

/// Octets of control data that hold [`MOST_DESCRIPTORS`].
// SAFETY: CMSG_SPACE only calculates.
const CONTROL_OCTETS: usize =
    unsafe { libc::CMSG_SPACE((MOST_DESCRIPTORS * size_of::<libc::c_int>()) as u32) } as usize;

/// Control data, aligned as the kernel's header wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_OCTETS]);

/// Sends octets with descriptors attached to the first of them.
///
/// Returns how many octets were taken; the descriptors go with the first.
///
/// # Errors
/// More descriptors than [`MOST_DESCRIPTORS`], or what the socket reports.
pub fn send_with_descriptors(
    socket: impl AsFd,
    octets: &[u8],
    descriptors: &[impl AsFd],
) -> io::Result<usize> {
    if descriptors.is_empty() || descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let numbers: Vec<libc::c_int> = descriptors
        .iter()
        .map(|fd| fd.as_fd().as_raw_fd())
        .collect();
    let payload = size_of::<libc::c_int>() * numbers.len();
    let mut control = Control([0; CONTROL_OCTETS]);
    let mut part = libc::iovec {
        iov_base: octets.as_ptr().cast_mut().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: msghdr is plain data, all zero is a valid value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only calculates.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(payload as u32) } as _;
    // SAFETY: the control buffer is aligned and has room for one header with `payload`
    // octets after it, so the first header and its data lie inside it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
        std::ptr::copy_nonoverlapping(
            numbers.as_ptr().cast::<u8>(),
            libc::CMSG_DATA(header),
            payload,
        );
    }
    retry(|| {
        // SAFETY: the message and all it points to outlive the call; sendmsg only reads them.
        check_length(unsafe {
            libc::sendmsg(
                socket.as_fd().as_raw_fd(),
                &raw const message,
                libc::MSG_NOSIGNAL,
            )
        })
    })
}

/// Receives octets, and the descriptors that came with them.
///
/// # Errors
/// What the socket reports. 0 octets mean that the other end closed.
pub fn receive_with_descriptors(
    socket: impl AsFd,
    octets: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_OCTETS]);
    let mut part = libc::iovec {
        iov_base: octets.as_mut_ptr().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: msghdr is plain data, all zero is a valid value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_OCTETS as _;
    let length = retry(|| {
        // SAFETY: the message and all it points to outlive the call and are ours alone.
        check_length(unsafe {
            libc::recvmsg(
                socket.as_fd().as_raw_fd(),
                &raw mut message,
                libc::MSG_CMSG_CLOEXEC,
            )
        })
    })?;
    Ok((length, received_descriptors(&message)))
}

fn received_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel wrote the control data and its length; CMSG_FIRSTHDR and
    // CMSG_NXTHDR stay inside it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: `header` is not null, so it points to a whole header.
        let current = unsafe { *header };
        if current.cmsg_level == libc::SOL_SOCKET && current.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only calculates.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (current.cmsg_len as usize - head) / size_of::<libc::c_int>();
            for index in 0..count {
                // SAFETY: `count` numbers follow the header, perhaps unaligned; each is
                // a new descriptor of ours alone.
                descriptors.push(unsafe {
                    let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
                    OwnedFd::from_raw_fd(data.add(index).read_unaligned())
                });
            }
        }
        // SAFETY: as for the first header.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write, pipe};
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_a_pair_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(peer(&a).unwrap(), own());
    }

    #[test]
    fn descriptors_travel_with_octets() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut reader, writer) = pipe().unwrap();
        assert_eq!(send_with_descriptors(&a, b"hello", &[writer]).unwrap(), 5);

        let mut octets = [0; 16];
        let (length, descriptors) = receive_with_descriptors(&b, &mut octets).unwrap();

        assert_eq!(&octets[..length], b"hello");
        let mut handed_over: Vec<std::fs::File> = descriptors.into_iter().map(Into::into).collect();
        assert_eq!(handed_over.len(), 1);
        handed_over[0].write_all(b"through").unwrap();
        drop(handed_over);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn octets_without_descriptors_are_received_too() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"x").unwrap();
        let (length, descriptors) = receive_with_descriptors(&b, &mut [0; 4]).unwrap();
        assert_eq!((length, descriptors.len()), (1, 0));
        drop(a);
        assert_eq!(receive_with_descriptors(&b, &mut [0; 4]).unwrap().0, 0);
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let (a, _b) = UnixStream::pair().unwrap();
        let many: Vec<_> = std::iter::repeat_n(&a, MOST_DESCRIPTORS + 1).collect();
        assert!(send_with_descriptors(&a, b"x", &many).is_err());
    }
}
