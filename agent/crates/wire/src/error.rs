//! Why octets are not what a parser reads.

use core::fmt;

/// Why octets could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    /// They end before a field that must be there.
    Truncated,
    /// A field contradicts the format (version, length, order).
    Invalid,
    /// Well-formed, but more headers in a row than are followed.
    TooDeep,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "ends before a field that must be there",
            Self::Invalid => "a field contradicts the format",
            Self::TooDeep => "more headers in a row than are followed",
        })
    }
}

impl core::error::Error for Error {}
