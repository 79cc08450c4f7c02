//! Seals and opens with everything fixed, one JSON object per line in and out, so that other
//! implementations can be compared (KT-2). All octet strings are hexadecimal.

use std::io::{BufRead, Write};

use cairn_engine::{Kind, OpenKey, SealKey};
use serde_json::{Value, json};

mod hex;
use hex::{array, from_hex, to_hex};

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = match request["op"].as_str() {
            Some("seal") => seal(&request),
            Some("open") => open(&request),
            _ => None,
        };
        writeln!(
            out,
            "{}",
            answer.unwrap_or_else(|| json!({"error": "refused"}))
        )?;
    }
    out.flush()
}

fn seal(request: &Value) -> Option<Value> {
    let plaintext = from_hex(request["plaintext"].as_str()?)?;
    let mut datagram = vec![0; 16 + plaintext.len() + 16];
    datagram[16..16 + plaintext.len()].copy_from_slice(&plaintext);
    let kind = if request["kind"] == "control" {
        Kind::Control
    } else {
        Kind::Data
    };
    SealKey::new(&array(request["key"].as_str()?)?).seal_in_place(
        kind,
        u32::try_from(request["receiver"].as_u64()?).ok()?,
        array(request["salt"].as_str()?)?,
        request["counter"].as_u64()?,
        &mut datagram,
    );
    Some(json!({"datagram": to_hex(&datagram)}))
}

fn open(request: &Value) -> Option<Value> {
    let key = OpenKey::new(&array(request["key"].as_str()?)?);
    let mut datagram = from_hex(request["datagram"].as_str()?)?;
    let plaintext = key.open_in_place(&mut datagram)?;
    Some(json!({"plaintext": to_hex(plaintext)}))
}
