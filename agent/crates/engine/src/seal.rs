//! Sealing and opening in place: nonce = salt || counter = header octets 4-15, AAD = the header.
//!
//! The order that makes a cloned machine harmless: the plaintext is in the buffer, then the
//! counters are allocated, then the salt is drawn, then the packets are sealed. A clone taken
//! before the draw gets another salt; one taken after it emits the same octets.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cairn_wire::header::{self, HEADER_LEN, TAG_LEN};

/// 48 bits drawn after the plaintext is fixed; one draw serves a batch.
pub type Salt = [u8; 6];

/// What a sealed packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One Ethernet frame.
    Data,
    /// A list of TLVs.
    Control,
}

impl Kind {
    const fn wire(self) -> header::Type {
        match self {
            Self::Data => header::Type::Data,
            Self::Control => header::Type::Control,
        }
    }
}

/// The key of one direction, for sealing. AWS-LC clears the expanded key when it is dropped.
#[derive(Debug)]
pub struct SealKey(LessSafeKey);

/// The key of one direction, for opening.
#[derive(Debug)]
pub struct OpenKey(LessSafeKey);

fn expand(key: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key).expect("32 octets are an AES-256 key");
    LessSafeKey::new(key)
}

impl SealKey {
    /// Expands a key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(expand(key))
    }

    /// Writes the header and seals in place. `datagram` is room for the header (16 octets), the
    /// plaintext, and room for the tag (16 octets).
    ///
    /// # Panics
    /// If `datagram` is shorter than header and tag.
    pub fn seal_in_place(
        &self,
        kind: Kind,
        receiver: u32,
        salt: Salt,
        counter: u64,
        datagram: &mut [u8],
    ) {
        let (head, rest) = datagram
            .split_first_chunk_mut::<HEADER_LEN>()
            .expect("room for the header");
        let (plaintext, tag) = rest
            .split_last_chunk_mut::<TAG_LEN>()
            .expect("room for the tag");
        *head = header::sealed(kind.wire(), receiver, salt, counter);
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce(head), Aad::from(&head[..]), plaintext)
            .expect("a datagram is far below GCM's limit");
        tag.copy_from_slice(sealed.as_ref());
    }

    /// Writes the header, seals `start` octets that are in place behind it, then `rest` from
    /// elsewhere: the encryption is the copy. `datagram` ends with room for the tag.
    ///
    /// # Panics
    /// If `datagram` isn't as long as all these.
    #[allow(clippy::too_many_arguments, reason = "as seal_in_place, with two more")]
    pub fn seal_gathered(
        &self,
        kind: Kind,
        receiver: u32,
        salt: Salt,
        counter: u64,
        datagram: &mut [u8],
        start: usize,
        rest: &[u8],
    ) {
        let (head, sealed) = datagram
            .split_first_chunk_mut::<HEADER_LEN>()
            .expect("room for the header");
        *head = header::sealed(kind.wire(), receiver, salt, counter);
        let (in_place, gathered) = sealed.split_at_mut(start);
        self.0
            .seal_in_place_scatter(nonce(head), Aad::from(&head[..]), in_place, rest, gathered)
            .expect("room for the rest and the tag, far below GCM's limit");
    }
}

impl OpenKey {
    /// Expands a key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(expand(key))
    }

    /// Opens in place and returns the plaintext; `None` if it isn't authentic, in which case the
    /// octets after the header are undefined.
    pub fn open_in_place<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (head, sealed) = datagram.split_first_chunk_mut::<HEADER_LEN>()?;
        self.0
            .open_in_place(nonce(head), Aad::from(&head[..]), sealed)
            .ok()
    }
}

fn nonce(head: &[u8; HEADER_LEN]) -> Nonce {
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&head[4..16]);
    Nonce::assume_unique_for_key(nonce)
}

/// Seals a message in place under a key of its own: header (which holds the nonce), plaintext,
/// room for the tag.
pub(crate) fn seal_with(key: &[u8; 32], message: &mut [u8]) {
    let (head, rest) = message
        .split_first_chunk_mut::<HEADER_LEN>()
        .expect("room for the header");
    let (plaintext, tag) = rest
        .split_last_chunk_mut::<TAG_LEN>()
        .expect("room for the tag");
    let sealed = expand(key)
        .seal_in_place_separate_tag(nonce(head), Aad::from(&head[..]), plaintext)
        .expect("a datagram is far below GCM's limit");
    tag.copy_from_slice(sealed.as_ref());
}

/// Opens what `seal_with` sealed.
pub(crate) fn open_with<'a>(key: &[u8; 32], message: &'a mut [u8]) -> Option<&'a mut [u8]> {
    OpenKey::new(key).open_in_place(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gathered_packet_is_the_same_as_one_sealed_in_place() {
        let key = SealKey::new(&[7; 32]);
        for (start, rest) in [
            (0, 0),
            (0, 1),
            (2, 0),
            (68, 1348),
            (5, 16),
            (16, 33),
            (79, 8921),
        ] {
            let plaintext: Vec<u8> = (0..start + rest).map(|at| at as u8).collect();
            let mut whole = vec![0; HEADER_LEN + plaintext.len() + TAG_LEN];
            whole[HEADER_LEN..HEADER_LEN + plaintext.len()].copy_from_slice(&plaintext);
            let mut gathered = whole.clone();
            gathered[HEADER_LEN + start..].fill(0);

            key.seal_in_place(Kind::Data, 9, [1; 6], 5, &mut whole);
            key.seal_gathered(
                Kind::Data,
                9,
                [1; 6],
                5,
                &mut gathered,
                start,
                &plaintext[start..],
            );

            assert_eq!(gathered, whole, "{start} {rest}");
        }
    }
}
