//! Prints docs/protocol-vectors.json: a handshake and a few packets of each suite with everything
//! fixed, by which another implementation can be checked.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &cairn_engine_vectors::all())?;
    writeln!(out)
}

#[path = "../tests/vectors/mod.rs"]
mod cairn_engine_vectors;
