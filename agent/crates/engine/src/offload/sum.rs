//! The Internet checksum (RFC 1071).

/// Sums 16-bit words, the last octet padded with zero.
pub(crate) fn add(mut sum: u64, octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    let (halves, rest) = rest.as_chunks::<2>();
    for half in halves {
        sum += u64::from(u16::from_be_bytes(*half));
    }
    if let [last] = rest {
        sum += u64::from(*last) << 8;
    }
    sum
}

/// Folds the carries of a sum.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo-header's sum with another length in it (RFC 1624, not complemented).
pub(super) fn with_length(sum: u16, old: usize, new: usize) -> u16 {
    let old = !fold(old as u64);
    fold(u64::from(sum) + u64::from(old) + new as u64)
}

/// Writes the checksum that the kernel left partial: over all from `start` on, stored at
/// `start + offset`. `None` if that isn't within the frame.
pub fn complete(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    /// Zero means "none" in UDP's field, so that a sum of zero is sent as its other form.
    const UDP_OFFSET: usize = 6;
    let covered = frame.get_mut(start..)?;
    if covered.len() < offset + 2 {
        return None;
    }
    // The field holds the pseudo-header's sum, so that it is part of what is summed.
    let sum = !fold(add(0, covered));
    let sum = if sum == 0 && offset == UDP_OFFSET {
        0xffff
    } else {
        sum
    };
    covered[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}
