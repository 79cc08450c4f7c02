//! What a DATA packet's plaintext says of itself: two octets in front of the frame.

use super::layout::Transport;

/// Octets in front of the frame.
pub const PREFIX_LEN: usize = 2;
/// Octets in front of each frame of a bundle: its length, and its prefix.
pub const BUNDLED_LEN: usize = 2 + PREFIX_LEN;
/// A train has at most so many segments; the kernel joins no more on receive.
pub const MOST_SEGMENTS: usize = 64;

const KIND: u8 = 0xc0;
const INDEX: u8 = 0x3f;
const WHOLE: u8 = 0;
const TCP: u8 = 1 << 6;
const UDP: u8 = 2 << 6;
const BUNDLE: u8 = 3 << 6;

/// What the plaintext is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A frame with complete checksums.
    Whole,
    /// A frame whose transport checksum is partial: the pseudo-header's sum is in its field.
    Partial {
        /// TCP or UDP.
        transport: Transport,
        /// Where its header starts.
        start: u8,
        /// Its place in a train, below [`MOST_SEGMENTS`]; 0 also where it is in none.
        index: u8,
    },
    /// Frames one after the other, each with length and prefix.
    Bundle,
}

impl Content {
    /// The prefix.
    pub fn octets(self) -> [u8; PREFIX_LEN] {
        match self {
            Self::Whole => [WHOLE, 0],
            Self::Bundle => [BUNDLE, 0],
            Self::Partial {
                transport,
                start,
                index,
            } => {
                let kind = match transport {
                    Transport::Tcp => TCP,
                    Transport::Udp => UDP,
                };
                [kind | (index & INDEX), start]
            }
        }
    }

    /// Reads a prefix; `None` if it is none.
    pub fn parse(octets: [u8; PREFIX_LEN]) -> Option<Self> {
        let [first, start] = octets;
        let transport = match first & KIND {
            TCP => Transport::Tcp,
            UDP => Transport::Udp,
            _ if octets == [WHOLE, 0] => return Some(Self::Whole),
            _ if octets == [BUNDLE, 0] => return Some(Self::Bundle),
            _ => return None,
        };
        Some(Self::Partial {
            transport,
            start,
            index: first & INDEX,
        })
    }

    /// Divides a plaintext into what it says of itself and the rest.
    pub fn split(plaintext: &[u8]) -> Option<(Self, &[u8])> {
        let (prefix, rest) = plaintext.split_first_chunk()?;
        Some((Self::parse(*prefix)?, rest))
    }
}

/// The frames of a bundle; `None` ends it where it is malformed.
#[derive(Clone, Debug)]
pub struct Bundled<'a>(&'a [u8]);

impl<'a> Bundled<'a> {
    /// Reads what follows a bundle's prefix.
    pub fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    fn take(&mut self) -> Option<(Content, &'a [u8])> {
        let (head, rest) = self.0.split_first_chunk::<BUNDLED_LEN>()?;
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let content = Content::parse([head[2], head[3]])?;
        let (frame, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (content != Content::Bundle).then_some((content, frame))
    }

    /// Takes the first frame of what follows a bundle's prefix, to be altered; `None` at its end
    /// and where it is malformed.
    pub fn take_mut<'m>(octets: &mut &'m mut [u8]) -> Option<(Content, &'m mut [u8])> {
        let (head, rest) = std::mem::take(octets).split_first_chunk_mut::<BUNDLED_LEN>()?;
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let content = Content::parse([head[2], head[3]])?;
        let (frame, rest) = rest.split_at_mut_checked(length)?;
        *octets = rest;
        (content != Content::Bundle).then_some((content, frame))
    }

    /// Writes a frame with its head to the start of `out` and returns what is left of it.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn put<'o>(out: &'o mut [u8], content: Content, frame: &[u8]) -> &'o mut [u8] {
        let (head, rest) = out
            .split_first_chunk_mut::<BUNDLED_LEN>()
            .expect("room for the head");
        head[..2].copy_from_slice(&(frame.len() as u16).to_be_bytes());
        head[2..].copy_from_slice(&content.octets());
        let (room, rest) = rest.split_at_mut(frame.len());
        room.copy_from_slice(frame);
        rest
    }
}

impl<'a> Iterator for Bundled<'a> {
    type Item = Option<(Content, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_none() {
            self.0 = &[];
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_reads_back_or_is_refused() {
        for first in 0..=255 {
            for second in 0..=255 {
                let octets = [first, second];
                let parsed = Content::parse(octets);
                assert!(parsed.is_none_or(|content| content.octets() == octets));
                let known = matches!(first >> 6, 1 | 2) || matches!(octets, [0 | BUNDLE, 0]);
                assert_eq!(parsed.is_some(), known, "{octets:?}");
            }
        }
    }

    #[test]
    fn a_bundle_cut_short_gives_what_came_before() {
        let mut octets = [0; 2 * BUNDLED_LEN + 5];
        let rest = Bundled::put(&mut octets, Content::Whole, b"abc");
        Bundled::put(rest, Content::Whole, b"de");
        let frames = |octets| Bundled::new(octets).collect::<Vec<_>>();
        let both = [
            Some((Content::Whole, &b"abc"[..])),
            Some((Content::Whole, b"de")),
        ];
        assert_eq!(frames(&octets), both);
        assert_eq!(frames(&octets[..octets.len() - 1]), [both[0], None]);
    }
}
