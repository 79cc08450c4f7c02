//! MAC addresses (IEEE 802-2014 clause 8).

use core::fmt;
use core::str::FromStr;

/// A 48-bit MAC address, octets in the order of transmission.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All ones: every station.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zero: nobody; no frame may come from it.
    pub const ZERO: Self = Self([0; 6]);

    /// The I/G bit: broadcast or multicast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// The U/L bit: administered locally, not by a manufacturer.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 0x02 != 0
    }

    /// All ones.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }

    /// An address that a station can send from: neither a group nor zero.
    #[must_use]
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// The addresses that no bridge forwards: STP, PAUSE, LACP, 802.1X, LLDP...
    /// (IEEE 802.1Q-2022 table 8-1, `01-80-C2-00-00-00` to `-0F`).
    #[must_use]
    pub const fn is_bridge_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, last] if last < 0x10)
    }

    /// The address as a number under 2^48.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address of the low 48 bits of a number.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six octets of two hexadecimal digits with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address (expected 02:00:00:00:00:01)")
    }
}

impl core::error::Error for NotAMac {}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(NotAMac)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        if parts.next().is_some() {
            return Err(NotAMac);
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_come_back_the_same() {
        let mac = Mac([0x02, 0xab, 0, 0, 0x0f, 0xff]);
        assert_eq!(mac.to_string(), "02:ab:00:00:0f:ff");
        assert_eq!("02:AB:00:00:0f:ff".parse(), Ok(mac));
        assert_eq!(Mac::from_bits(mac.to_bits()), mac);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-01",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac));
        }
    }

    #[test]
    fn kinds_are_told_by_the_first_octet() {
        assert!(Mac([1, 0, 0x5e, 0, 0, 0xfb]).is_group());
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_local());
        assert!(Mac::BROADCAST.is_group() && Mac::BROADCAST.is_broadcast());
        assert!(!Mac::ZERO.is_station() && Mac([2, 0, 0, 0, 0, 1]).is_station());
        assert!(Mac([1, 0x80, 0xc2, 0, 0, 0x0e]).is_bridge_local());
        assert!(!Mac([1, 0x80, 0xc2, 0, 0, 0x10]).is_bridge_local());
    }
}
