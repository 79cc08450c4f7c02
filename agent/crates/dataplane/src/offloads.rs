//! Which offloads are wanted: all, but for those that a test switches off.

use cairn_device::tap::TapOffloads;
use cairn_device::udp::{Off, UdpOffloads};

/// Names, separated by commas, of offloads that are not to be used; a test setting.
const SWITCHED_OFF: &str = "CAIRN_TEST_OFFLOADS_OFF";

/// Those of TAPs and of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Of TAPs.
    pub tap: TapOffloads,
    /// Of sockets.
    pub udp: UdpOffloads,
}

impl Offloads {
    /// What the environment leaves on.
    pub fn wanted() -> Self {
        let off = std::env::var(SWITCHED_OFF).unwrap_or_default();
        Self::but(&off)
    }

    fn but(off: &str) -> Self {
        let on = |name: &str| !off.split(',').any(|one| one.trim() == name);
        Self {
            tap: TapOffloads {
                checksum: on("tap_checksum"),
                segmentation: on("tap_segmentation"),
                udp_segmentation: on("tap_udp_segmentation"),
            },
            udp: UdpOffloads {
                segmentation: on("udp_segmentation"),
                coalescing: on("udp_coalescing"),
            },
        }
    }
}

/// How `hello` says that an offload of a TAP is on, or why not.
pub fn of_tap(is_on: bool, wanted: bool) -> String {
    match (is_on, wanted) {
        (true, _) => "on".into(),
        (false, true) => "off: this kernel has none for TAPs (USO came with Linux 6.2)".into(),
        (false, false) => not_wanted(),
    }
}

/// How `hello` says that an offload of a socket is on, or why not.
pub fn of_socket(off: Option<Off>) -> String {
    match off {
        None => "on".into(),
        Some(Off::NotWanted) => not_wanted(),
        Some(Off::Refused(number)) => {
            let cause = std::io::Error::from_raw_os_error(number);
            format!("off: the kernel refused it ({cause})")
        }
    }
}

fn not_wanted() -> String {
    format!("off: {SWITCHED_OFF} says so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_off() {
        let some = Offloads::but("udp_coalescing, tap_segmentation");
        assert!(some.tap.checksum && some.tap.udp_segmentation && some.udp.segmentation);
        assert!(!some.tap.segmentation && !some.udp.coalescing);
    }
}
