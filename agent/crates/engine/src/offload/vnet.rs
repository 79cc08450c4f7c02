//! The virtio-net header (virtio 1.2 5.1.6, legacy layout, host order).

/// What the virtio-net header says of a frame. All zero is a plain frame with complete checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Length of all headers; a hint.
    pub hdr_len: u16,
    /// Payload of each segment of a superframe.
    pub gso_size: u16,
    /// Where the checksum starts, if it is partial.
    pub csum_start: u16,
    /// Where the checksum is stored, from `csum_start`.
    pub csum_offset: u16,
}

/// Length of [`VnetHeader`] on the descriptor. Twelve would add `num_buffers` for nothing.
pub const VNET_OCTETS: usize = 10;

impl VnetHeader {
    /// The checksum is partial: the pseudo-header's sum is where the checksum belongs.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// No superframe.
    pub const WHOLE: u8 = 0;
    /// A superframe of TCP over IPv4.
    pub const TCP4: u8 = 1;
    /// A superframe of TCP over IPv6.
    pub const TCP6: u8 = 4;
    /// A superframe of UDP datagrams.
    pub const UDP: u8 = 5;
    /// Added to the TCP types where the first segment has CWR.
    pub const ECN: u8 = 0x80;

    /// Whether the frame is whole as it stands: no superframe, no partial checksum.
    pub fn is_plain(self) -> bool {
        self.flags & Self::NEEDS_CHECKSUM == 0 && self.gso_type == Self::WHOLE
    }

    /// Whether the frame stands for many.
    pub fn is_superframe(self) -> bool {
        self.gso_type != Self::WHOLE
    }

    /// Reads a header.
    pub fn parse(octets: [u8; VNET_OCTETS]) -> Self {
        let half = |at: usize| u16::from_ne_bytes([octets[at], octets[at + 1]]);
        Self {
            flags: octets[0],
            gso_type: octets[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
        }
    }

    /// The header's octets.
    pub fn octets(self) -> [u8; VNET_OCTETS] {
        let mut octets = [0; VNET_OCTETS];
        octets[0] = self.flags;
        octets[1] = self.gso_type;
        octets[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        octets[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        octets[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        octets[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_survives_its_octets() {
        let header = VnetHeader {
            flags: 1,
            gso_type: 4,
            hdr_len: 66,
            gso_size: 1380,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(VnetHeader::parse(header.octets()), header);
        assert!(!header.is_plain());
        assert!(VnetHeader::parse([0; VNET_OCTETS]).is_plain());
    }
}
