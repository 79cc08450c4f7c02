//! TCP's maximum segment size, lowered to what a path carries (RFC 9293 3.7.1).

use super::content::Content;
use super::layout::Layout;
use super::sum::fold;

const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const CHECKSUM: usize = 16;
const OPTIONS: usize = 20;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_MSS: u8 = 2;
const MSS_LEN: u8 = 4;

/// Lowers the MSS of a SYN so that what answers it fits frames of `limit` octets and packets of
/// `mtu`. The checksum follows, unless it is partial and doesn't cover the options.
pub fn clamp_mss(frame: &mut [u8], content: Content, limit: usize, mtu: usize) {
    let Some(layout) = Layout::of_tcp(frame) else {
        return;
    };
    if frame[layout.start + FLAGS] & SYN == 0 {
        return;
    }
    let limit = limit.min(layout.network.saturating_add(mtu));
    // Of options nothing is counted (RFC 6691).
    let Some(largest) = limit.checked_sub(layout.start + OPTIONS) else {
        return;
    };
    let largest = u16::try_from(largest).unwrap_or(u16::MAX);
    let tcp = &mut frame[layout.start..layout.headers];
    let Some(at) = find_mss(tcp) else {
        return;
    };
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if old <= largest {
        return;
    }
    tcp[at..at + 2].copy_from_slice(&largest.to_be_bytes());
    if content == Content::Whole {
        // RFC 1624 3; where the field isn't on a word boundary, the sum has it turned around.
        let turned = |value: u16| {
            if at % 2 == 0 {
                value
            } else {
                value.swap_bytes()
            }
        };
        let sum = u16::from_be_bytes([tcp[CHECKSUM], tcp[CHECKSUM + 1]]);
        let new = u64::from(!sum) + u64::from(!turned(old)) + u64::from(turned(largest));
        tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!fold(new)).to_be_bytes());
    }
}

/// Where the value of the option is in a TCP header.
fn find_mss(tcp: &[u8]) -> Option<usize> {
    let mut at = OPTIONS;
    loop {
        match (*tcp.get(at)?, tcp.get(at + 1)) {
            (OPTION_END, _) => return None,
            (OPTION_NOTHING, _) => at += 1,
            (OPTION_MSS, Some(&MSS_LEN)) if at + 4 <= tcp.len() => return Some(at + 2),
            (_, Some(&length)) if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
}
