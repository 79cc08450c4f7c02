//! The headers of the datagrams between nodes (docs/protocol.md 1.2).
//!
//! Each view checks lengths and reserved octets once, so that no accessor can fail.

use core::fmt;

/// The UDP port, source and destination.
pub const PORT: u16 = 8002;
/// The version in the high nibble of octet 0.
pub const VERSION: u8 = 1;
/// Every datagram starts with this many octets in the clear.
pub const HEADER_LEN: usize = 16;
/// The tag of AES-256-GCM.
pub const TAG_LEN: usize = 16;
/// mac1 and mac2.
pub const MAC_LEN: usize = 16;
/// COOKIE: header, sealed cookie, tag.
pub const COOKIE_LEN: usize = HEADER_LEN + 16 + TAG_LEN;
/// The plaintext payload of INIT.
pub const INIT_PAYLOAD_LEN: usize = 24;
/// The plaintext payload of RESP.
pub const RESP_PAYLOAD_LEN: usize = 8;
/// Counters are below this (48 bits).
pub const COUNTER_LIMIT: u64 = 1 << 48;

/// A datagram's type, the low nibble of octet 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// First message of a handshake.
    Init = 1,
    /// Second message of a handshake.
    Resp = 2,
    /// Answer to INIT under load.
    Cookie = 3,
    /// A sealed Ethernet frame.
    Data = 4,
    /// A sealed list of TLVs.
    Control = 5,
}

impl Type {
    /// Octet 0 of a datagram of this type.
    pub const fn octet(self) -> u8 {
        VERSION << 4 | self as u8
    }
}

/// The datagram is none of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a datagram of this protocol")
    }
}

impl core::error::Error for Malformed {}

/// A datagram whose header is known to be whole.
#[derive(Clone, Copy, Debug)]
pub enum Datagram<'a> {
    /// INIT.
    Init(Init<'a>),
    /// RESP.
    Resp(Resp<'a>),
    /// COOKIE.
    Cookie(Cookie<'a>),
    /// DATA.
    Data(Sealed<'a>),
    /// CONTROL.
    Control(Sealed<'a>),
}

impl<'a> Datagram<'a> {
    /// Tells the type by octet 0 and checks the rest of the header.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        const INIT: u8 = Type::Init.octet();
        const RESP: u8 = Type::Resp.octet();
        const COOKIE: u8 = Type::Cookie.octet();
        const DATA: u8 = Type::Data.octet();
        const CONTROL: u8 = Type::Control.octet();
        match octets.first() {
            Some(&DATA) => Sealed::parse(octets).map(Self::Data),
            Some(&CONTROL) => Sealed::parse(octets).map(Self::Control),
            Some(&INIT) => Init::parse(octets).map(Self::Init),
            Some(&RESP) => Resp::parse(octets).map(Self::Resp),
            Some(&COOKIE) => Cookie::parse(octets).map(Self::Cookie),
            _ => Err(Malformed),
        }
    }
}

/// The length of a suite's public keys on the wire; `None` for a suite that doesn't exist.
pub const fn public_key_len(suite: u8) -> Option<usize> {
    match suite {
        1 => Some(32),
        2 => Some(33),
        _ => None,
    }
}

/// The length of an INIT whose public keys have `key` octets.
pub const fn init_len(key: usize) -> usize {
    HEADER_LEN + key + key + TAG_LEN + INIT_PAYLOAD_LEN + TAG_LEN + 2 * MAC_LEN
}

/// The length of a RESP whose public keys have `key` octets.
pub const fn resp_len(key: usize) -> usize {
    HEADER_LEN + key + RESP_PAYLOAD_LEN + TAG_LEN + 2 * MAC_LEN
}

/// DATA or CONTROL.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a>(&'a [u8]);

impl<'a> Sealed<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        if octets.len() < HEADER_LEN + TAG_LEN {
            return Err(Malformed);
        }
        Ok(Self(octets))
    }

    /// The receiver's index of the session.
    pub fn receiver(&self) -> u32 {
        u24(self.0, 1)
    }

    /// The salt.
    pub fn salt(&self) -> [u8; 6] {
        array(self.0, 4)
    }

    /// The counter.
    pub fn counter(&self) -> u64 {
        let [a, b, c, d, e, f] = array(self.0, 10);
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

/// INIT.
#[derive(Clone, Copy, Debug)]
pub struct Init<'a>(&'a [u8]);

impl<'a> Init<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        let suite = *octets.get(10).ok_or(Malformed)?;
        let key = public_key_len(suite).ok_or(Malformed)?;
        if octets.len() != init_len(key) || octets[11..16] != [0; 5] {
            return Err(Malformed);
        }
        Ok(Self(octets))
    }

    /// The sender's index of the session to be.
    pub fn sender(&self) -> u32 {
        u24(self.0, 1)
    }

    /// The vSubnet.
    pub fn vni(&self) -> u32 {
        u32::from_be_bytes(array(self.0, 4))
    }

    /// The PSK's epoch.
    pub fn epoch(&self) -> u16 {
        u16::from_be_bytes(array(self.0, 8))
    }

    /// The suite.
    pub fn suite(&self) -> u8 {
        self.0[10]
    }

    /// The header, which is the end of the Noise prologue.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        array(self.0, 0)
    }

    /// The initiator's ephemeral public key.
    pub fn ephemeral(&self) -> &'a [u8] {
        let key = if self.0[10] == 1 { 32 } else { 33 };
        &self.0[HEADER_LEN..HEADER_LEN + key]
    }

    /// The Noise message.
    pub fn noise(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..self.0.len() - 2 * MAC_LEN]
    }

    /// What the MACs cover, and the MACs.
    pub fn macs(&self) -> Macs<'a> {
        Macs(self.0)
    }
}

/// RESP.
#[derive(Clone, Copy, Debug)]
pub struct Resp<'a>(&'a [u8]);

impl<'a> Resp<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        let known = octets.len() == resp_len(32) || octets.len() == resp_len(33);
        if !known || octets[7..16] != [0; 9] {
            return Err(Malformed);
        }
        Ok(Self(octets))
    }

    /// The sender's index of the session to be.
    pub fn sender(&self) -> u32 {
        u24(self.0, 1)
    }

    /// The receiver's index: the sender index of its INIT.
    pub fn receiver(&self) -> u32 {
        u24(self.0, 4)
    }

    /// The Noise message.
    pub fn noise(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..self.0.len() - 2 * MAC_LEN]
    }

    /// What the MACs cover, and the MACs.
    pub fn macs(&self) -> Macs<'a> {
        Macs(self.0)
    }
}

/// The two MACs that end INIT and RESP.
#[derive(Clone, Copy, Debug)]
pub struct Macs<'a>(&'a [u8]);

impl<'a> Macs<'a> {
    /// What mac1 covers.
    pub fn before_mac1(&self) -> &'a [u8] {
        &self.0[..self.0.len() - 2 * MAC_LEN]
    }

    /// mac1.
    pub fn mac1(&self) -> [u8; MAC_LEN] {
        array(self.0, self.0.len() - 2 * MAC_LEN)
    }

    /// What mac2 covers.
    pub fn before_mac2(&self) -> &'a [u8] {
        &self.0[..self.0.len() - MAC_LEN]
    }

    /// mac2.
    pub fn mac2(&self) -> [u8; MAC_LEN] {
        array(self.0, self.0.len() - MAC_LEN)
    }
}

/// COOKIE.
#[derive(Clone, Copy, Debug)]
pub struct Cookie<'a>(&'a [u8; COOKIE_LEN]);

impl<'a> Cookie<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Malformed> {
        octets.try_into().map(Self).map_err(|_| Malformed)
    }

    /// The sender index of the INIT that is answered.
    pub fn receiver(&self) -> u32 {
        u24(self.0, 1)
    }

    /// The header, which is the AAD.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        array(self.0, 0)
    }

    /// The sealed cookie with its tag.
    pub fn sealed(&self) -> [u8; COOKIE_LEN - HEADER_LEN] {
        array(self.0, HEADER_LEN)
    }
}

/// Makes the header of an INIT.
pub fn init(sender: u32, vni: u32, epoch: u16, suite: u8) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = Type::Init.octet();
    header[1..4].copy_from_slice(&sender.to_be_bytes()[1..]);
    header[4..8].copy_from_slice(&vni.to_be_bytes());
    header[8..10].copy_from_slice(&epoch.to_be_bytes());
    header[10] = suite;
    header
}

/// Makes the header of a RESP.
pub fn resp(sender: u32, receiver: u32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = Type::Resp.octet();
    header[1..4].copy_from_slice(&sender.to_be_bytes()[1..]);
    header[4..7].copy_from_slice(&receiver.to_be_bytes()[1..]);
    header
}

/// Makes the header of a COOKIE.
pub fn cookie(receiver: u32, nonce: [u8; 12]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = Type::Cookie.octet();
    header[1..4].copy_from_slice(&receiver.to_be_bytes()[1..]);
    header[4..].copy_from_slice(&nonce);
    header
}

/// Makes the header of a DATA or CONTROL packet. `counter` is below 2^48.
pub fn sealed(kind: Type, receiver: u32, salt: [u8; 6], counter: u64) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = kind.octet();
    header[1..4].copy_from_slice(&receiver.to_be_bytes()[1..]);
    header[4..10].copy_from_slice(&salt);
    header[10..].copy_from_slice(&counter.to_be_bytes()[2..]);
    header
}

fn array<const N: usize>(octets: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&octets[at..at + N]);
    array
}

fn u24(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([0, octets[at], octets[at + 1], octets[at + 2]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_messages_have_the_documented_lengths() {
        assert_eq!((init_len(32), init_len(33)), (168, 170));
        assert_eq!((resp_len(32), resp_len(33)), (104, 105));
        assert_eq!(COOKIE_LEN, 48);
    }

    #[test]
    fn a_sealed_header_reads_back() {
        let header = sealed(Type::Data, 0x00ab_cdef, [1, 2, 3, 4, 5, 6], (1 << 48) - 1);
        let mut octets = [0; 32];
        octets[..16].copy_from_slice(&header);

        let Ok(Datagram::Data(view)) = Datagram::parse(&octets) else {
            panic!("not parsed as DATA");
        };

        assert_eq!(view.receiver(), 0x00ab_cdef);
        assert_eq!(view.salt(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(view.counter(), (1 << 48) - 1);
    }

    #[test]
    fn an_init_header_reads_back() {
        let mut octets = [0; 168];
        octets[..16].copy_from_slice(&init(7, 9, 3, 1));

        let Ok(Datagram::Init(view)) = Datagram::parse(&octets) else {
            panic!("not parsed as INIT");
        };

        assert_eq!(
            (view.sender(), view.vni(), view.epoch(), view.suite()),
            (7, 9, 3, 1)
        );
    }

    #[test]
    fn only_whole_datagrams_of_all_lengths_are_parsed() {
        for first in 0..=255 {
            for len in 0..=2000 {
                let mut octets = vec![0; len];
                if let Some(octet) = octets.first_mut() {
                    *octet = first;
                }
                if len > 10 {
                    octets[10] = 1;
                }
                let whole = match first {
                    0x11 => len == 168,
                    0x12 => len == 104 || len == 105,
                    0x13 => len == 48,
                    0x14 | 0x15 => len >= 32,
                    _ => false,
                };
                // RESP must have octets 7-15 zero.
                let whole = whole && first != 0x12;
                assert_eq!(Datagram::parse(&octets).is_ok(), whole, "{first:#x} {len}");
            }
        }
    }

    #[test]
    fn a_reserved_octet_that_is_not_zero_is_refused() {
        let mut init_octets = [0; 168];
        init_octets[..16].copy_from_slice(&init(7, 9, 3, 1));
        let mut resp_octets = [0; 104];
        resp_octets[..16].copy_from_slice(&resp(7, 9));
        assert!(Datagram::parse(&init_octets).is_ok());
        assert!(Datagram::parse(&resp_octets).is_ok());

        for at in 11..16 {
            let mut changed = init_octets;
            changed[at] = 1;
            assert!(Datagram::parse(&changed).is_err(), "INIT octet {at}");
        }
        for at in 7..16 {
            let mut changed = resp_octets;
            changed[at] = 1;
            assert!(Datagram::parse(&changed).is_err(), "RESP octet {at}");
        }
    }
}
