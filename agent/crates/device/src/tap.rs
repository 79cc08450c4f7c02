//! The frame seam: queues of a TAP device.
//!
//! The agent makes the device, persistent, and owns its name, addresses and
//! state; here it is only attached to. Frames carry the virtio-net header from
//! the start, so that offloads are a matter of switching them on.

use std::ffi::c_ulong;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use cairn_engine::offload::VNET_OCTETS;
use thiserror::Error;

use crate::batch::{Batch, FRAME_OCTETS, Room};
use crate::call::{check, check_length, retry};

pub use cairn_engine::offload::VnetHeader;

/// Frames read from a queue, each with its header.
pub type FrameBatch = Batch<VnetHeader>;

/// Makes buffers for `frames` frames, each with room for its header before it.
pub fn frame_batch(frames: usize) -> FrameBatch {
    Batch::new(
        frames,
        Room {
            before: VNET_OCTETS,
            content: FRAME_OCTETS,
            after: 0,
        },
    )
}

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingFrame<'a> {
    /// Zero for a plain frame.
    pub header: VnetHeader,
    /// The frame from its destination address on, in at most [`MOST_PARTS`] parts.
    pub parts: &'a [&'a [u8]],
}

/// The most parts of a frame: its headers, and the payloads of 64 segments.
pub const MOST_PARTS: usize = 65;

/// Which offloads of a TAP are wanted, or on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOffloads {
    /// Frames come with partial checksums.
    pub checksum: bool,
    /// Superframes of TCP come and go.
    pub segmentation: bool,
    /// Superframes of UDP come and go.
    pub udp_segmentation: bool,
}

/// What became of the frames of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Taken by the kernel.
    pub frames: u64,
    /// Refused because the device is down or its queue is full.
    pub unavailable: u64,
    /// Refused as malformed, or for another reason.
    pub refused: u64,
}

impl Written {
    fn count(&mut self, result: &io::Result<usize>) {
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Ok(_) => self.frames += 1,
            // EIO: the device is down, also in the moment after it was made.
            Err(Some(libc::EIO | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)) => {
                self.unavailable += 1;
            }
            Err(_) => self.refused += 1,
        }
    }
}

/// One queue of frames between the host and us. Reads and writes never block.
pub trait TapQueue: Send + Sync {
    /// Appends the frames that wait to `batch`, until it is full or none is left.
    ///
    /// # Errors
    /// The queue is gone (its device was deleted). Frames read before stay in the batch.
    fn read(&self, batch: &mut FrameBatch) -> io::Result<()>;

    /// Writes frames in order; one that is refused doesn't keep the next ones back.
    fn write(&self, frames: &[OutgoingFrame<'_>]) -> Written;

    /// The descriptor that is readable while frames wait.
    fn readiness(&self) -> BorrowedFd<'_>;
}

/// Why a TAP can't be used; the text names cause and remedy.
#[derive(Debug, Error)]
pub enum TapError {
    /// The kernel's device node is missing.
    #[error(
        "/dev/net/tun can't be opened ({0}); load the tun module (modprobe tun) \
         or give this container the device"
    )]
    NoTunDevice(io::Error),
    /// The kernel's device node is for others.
    #[error(
        "/dev/net/tun may not be opened; run as root, or give this user read and write \
         on the device (its usual mode is 0666)"
    )]
    TunDeviceNotPermitted,
    /// No device of this name.
    #[error("there is no TAP {0}; the agent makes it: restart cairn-agent and look at its log")]
    Missing(String),
    /// The name is not one that a device can have.
    #[error("{0:?} can't be the name of a device; use 1 to 15 letters, digits, - or _")]
    BadName(String),
    /// We may not attach.
    #[error(
        "attaching to the TAP {0} is not permitted; run as root or as the user that owns the device"
    )]
    NotPermitted(String),
    /// Another process has its only queue.
    #[error("the TAP {0} is in use by another process; stop it (ss and lsof /dev/net/tun show it)")]
    Busy(String),
    /// The device exists and is something else.
    #[error(
        "{0} is not a TAP with the virtio-net header ({1}); delete it, the agent makes it anew"
    )]
    WrongKind(String, String),
    /// Any other answer of the kernel.
    #[error("the TAP {name} can't be set up: {call}: {source}")]
    Call {
        /// Name of the device.
        name: String,
        /// What was tried.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A queue of a real TAP device.
#[derive(Debug)]
pub struct Tap {
    queue: OwnedFd,
    name: String,
}

/// `TUN_F_*` of linux/if_tun.h.
const CHECKSUM: c_ulong = 0x01;
const TSO4_TSO6: c_ulong = 0x02 | 0x04;
const USO4_USO6: c_ulong = 0x20 | 0x40;

/// A read that brought so many octets is enough: what waits in the cache is sealed first.
const ENOUGH_OCTETS: usize = 64 << 10;

const KIND: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

impl Tap {
    /// Attaches to the persistent TAP `name`, with all offloads off.
    ///
    /// Never makes a device: the kernel would on attaching to a name that isn't
    /// there, so what was attached to must be persistent already.
    pub fn attach(name: &str) -> Result<Self, TapError> {
        let request = interface_request(name)?;
        if !exists(name) {
            return Err(TapError::Missing(name.to_owned()));
        }
        let queue = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(no_tun_device)?;
        set_interface(&queue, request, name)?;
        let tap = Self {
            queue: queue.into(),
            name: name.to_owned(),
        };
        tap.check_kind()?;
        tap.set_plain()?;
        Ok(tap)
    }

    /// Takes over a queue that another process attached.
    pub fn from_descriptor(queue: OwnedFd) -> Result<Self, TapError> {
        let mut tap = Self {
            queue,
            name: String::from("handed over"),
        };
        let request = tap.interface()?;
        tap.name = name_of(&request);
        tap.check_kind()?;
        tap.set_plain()?;
        Ok(tap)
    }

    /// Name of the device when it was attached to.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn error(&self, call: &'static str) -> impl FnOnce(io::Error) -> TapError {
        let name = self.name.clone();
        move |source| TapError::Call { name, call, source }
    }

    fn interface(&self) -> Result<libc::ifreq, TapError> {
        // SAFETY: ifreq is plain data, all zero is a valid value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF writes one ifreq; `request` outlives the call.
        check(unsafe { libc::ioctl(self.queue.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })
            .map_err(self.error("TUNGETIFF"))?;
        Ok(request)
    }

    /// Reads back what was attached to: a wrong opener would shift every frame
    /// by the header, silently.
    fn check_kind(&self) -> Result<(), TapError> {
        let request = self.interface()?;
        // SAFETY: TUNGETIFF filled in the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_PERSIST == 0 {
            return Err(TapError::Missing(self.name.clone()));
        }
        if flags & KIND != KIND {
            return Err(TapError::WrongKind(
                self.name.clone(),
                format!("flags {flags:#x}"),
            ));
        }
        Ok(())
    }

    /// Sets header length and offloads: a persistent device keeps those of its last user.
    fn set_plain(&self) -> Result<(), TapError> {
        let length = VNET_OCTETS as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int; `length` outlives the call.
        check(unsafe {
            libc::ioctl(
                self.queue.as_raw_fd(),
                libc::TUNSETVNETHDRSZ,
                &raw const length,
            )
        })
        .map_err(self.error("TUNSETVNETHDRSZ"))?;
        self.set_offloads(0).map_err(self.error("TUNSETOFFLOAD"))
    }

    fn set_offloads(&self, offloads: c_ulong) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.queue.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) })?;
        Ok(())
    }

    /// Switches offloads on, as far as the kernel has them, and returns those that are on.
    /// Segmentation needs checksums; kernels before 6.2 have none of UDP.
    pub fn switch_on(&self, wanted: TapOffloads) -> TapOffloads {
        let mut on = TapOffloads {
            checksum: wanted.checksum,
            segmentation: wanted.checksum && wanted.segmentation,
            udp_segmentation: wanted.checksum && wanted.udp_segmentation,
        };
        loop {
            let bits = [
                (on.checksum, CHECKSUM),
                (on.segmentation, TSO4_TSO6),
                (on.udp_segmentation, USO4_USO6),
            ];
            let bits = bits
                .iter()
                .filter(|(is_on, _)| *is_on)
                .map(|(_, bits)| bits);
            if self.set_offloads(bits.sum()).is_ok() {
                return on;
            }
            if on.udp_segmentation {
                on.udp_segmentation = false;
            } else if on.segmentation {
                on.segmentation = false;
            } else if on.checksum {
                on.checksum = false;
            } else {
                return on;
            }
        }
    }

    /// Reads header and frame, one after the other, and returns the frame's length.
    fn read_one(&self, area: &mut [u8]) -> io::Result<(usize, VnetHeader)> {
        let length = retry(|| {
            // SAFETY: pointer and length describe `area`, which is borrowed for the call.
            check_length(unsafe {
                libc::read(self.queue.as_raw_fd(), area.as_mut_ptr().cast(), area.len())
            })
        })?;
        let header = area.first_chunk().copied().unwrap_or_default();
        Ok((
            length.saturating_sub(VNET_OCTETS),
            VnetHeader::parse(header),
        ))
    }

    fn write_one(&self, frame: &OutgoingFrame<'_>) -> io::Result<usize> {
        let header = frame.header.octets();
        let part = |octets: &[u8]| libc::iovec {
            iov_base: octets.as_ptr().cast_mut().cast(),
            iov_len: octets.len(),
        };
        if let [octets] = frame.parts {
            // SAFETY: `header` and `octets` are borrowed until the call returns.
            return unsafe { self.write_parts(&[part(&header), part(octets)]) };
        }
        let mut parts = [part(&[]); 1 + MOST_PARTS];
        parts[0] = part(&header);
        for (to, octets) in parts[1..].iter_mut().zip(frame.parts) {
            *to = part(octets);
        }
        let used = &parts[..1 + frame.parts.len().min(MOST_PARTS)];
        // SAFETY: `header` and the frame's parts are borrowed until the call returns.
        unsafe { self.write_parts(used) }
    }

    /// Writes one frame from its parts.
    ///
    /// # Safety
    /// Each of `parts` describes memory that may be read for the whole call.
    unsafe fn write_parts(&self, parts: &[libc::iovec]) -> io::Result<usize> {
        retry(|| {
            // SAFETY: the caller vouches for `parts`, and writev only reads them.
            check_length(unsafe {
                libc::writev(
                    self.queue.as_raw_fd(),
                    parts.as_ptr(),
                    parts.len() as libc::c_int,
                )
            })
        })
    }
}

impl TapQueue for Tap {
    fn read(&self, batch: &mut FrameBatch) -> io::Result<()> {
        let mut octets = 0;
        while !batch.is_full() && octets < ENOUGH_OCTETS {
            match self.read_one(batch.next_area(VNET_OCTETS)) {
                Ok((length, header)) => {
                    octets += length;
                    batch.fill(length, header);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, frames: &[OutgoingFrame<'_>]) -> Written {
        let mut written = Written::default();
        for frame in frames {
            written.count(&self.write_one(frame));
        }
        written
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

fn no_tun_device(error: io::Error) -> TapError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => TapError::TunDeviceNotPermitted,
        _ => TapError::NoTunDevice(error),
    }
}

fn interface_request(name: &str) -> Result<libc::ifreq, TapError> {
    let usable =
        |octet: u8| octet.is_ascii_graphic() && octet != b'/' && octet != b':' && octet != b'%';
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.bytes().all(usable) {
        return Err(TapError::BadName(name.to_owned()));
    }
    // SAFETY: ifreq is plain data, all zero is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let octets = request
        .ifr_name
        .iter()
        .map(|&octet| octet as u8)
        .take_while(|&octet| octet != 0);
    String::from_utf8_lossy(&octets.collect::<Vec<u8>>()).into_owned()
}

fn exists(name: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else {
        return false;
    };
    // SAFETY: `name` ends in a zero octet and outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Attaches with as many queues as the device was made with: its kind can't be
/// asked for before, and the wrong one is EINVAL.
fn set_interface(queue: &File, request: libc::ifreq, name: &str) -> Result<(), TapError> {
    let mut last = None;
    for flags in [KIND | libc::IFF_MULTI_QUEUE, KIND] {
        let mut request = request;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq; `request` outlives the call.
        let result =
            check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) });
        match result {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(attach_error(name, error)),
        }
    }
    let cause = last.map_or_else(String::new, |error| error.to_string());
    Err(TapError::WrongKind(name.to_owned(), cause))
}

fn attach_error(name: &str, error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted(name.to_owned()),
        Some(libc::EBUSY) => TapError::Busy(name.to_owned()),
        _ => TapError::Call {
            name: name.to_owned(),
            call: "TUNSETIFF",
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_device_can_have_is_refused() {
        for name in ["", "sixteen-letters-", "a b", "a/b", "\u{e9}"] {
            assert!(
                matches!(Tap::attach(name), Err(TapError::BadName(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_missing_device_is_reported_and_not_made() {
        let error = Tap::attach("cairn-none").unwrap_err();
        assert!(matches!(error, TapError::Missing(_)), "{error}");
        assert!(!exists("cairn-none"));
    }

    #[test]
    fn what_is_refused_is_counted_by_its_reason() {
        let mut written = Written::default();
        written.count(&Ok(60));
        written.count(&Err(io::Error::from_raw_os_error(libc::EIO)));
        written.count(&Err(io::Error::from_raw_os_error(libc::EINVAL)));
        assert_eq!(
            written,
            Written {
                frames: 1,
                unavailable: 1,
                refused: 1
            }
        );
    }
}
