//! The packet process of a Cairn node.
fn main() {}
