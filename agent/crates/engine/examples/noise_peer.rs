//! Does handshakes with everything fixed, one JSON object per line in and out, so that other
//! implementations can be compared (KT-1). All octet strings are hexadecimal.

use std::io::{BufRead, Write};

use cairn_engine::Suite;
use cairn_engine::testing::public_key;
use cairn_engine::testing::transcript::{Initiator, Outcome, Setting, Side, respond};
use serde_json::{Value, json};

mod hex;
use hex::{array, from_hex, to_hex};

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = answer(&request).unwrap_or_else(|| json!({"error": "not authentic"}));
        writeln!(out, "{answer}")?;
    }
    out.flush()
}

/// Both roles against the other implementation's messages.
fn answer(request: &Value) -> Option<Value> {
    let text = |name: &str| request[name].as_str();
    let setting = Setting {
        suite: if request["suite"] == 2 {
            Suite::P256
        } else {
            Suite::X25519
        },
        psk: array(text("psk")?)?,
        prologue: from_hex(text("prologue")?)?,
    };
    let side = |role: &str| {
        Some(Side {
            private: array(text(&format!("{role}_private"))?)?,
            ephemeral: array(text(&format!("{role}_ephemeral"))?)?,
        })
    };
    let (initiator, responder) = (side("initiator")?, side("responder")?);
    let responder_public = public_key(setting.suite, &responder.private);

    let started = Initiator::start(
        &setting,
        &initiator,
        &responder_public,
        &array(text("payload1")?)?,
    )?;
    let as_initiator = started.finish(&from_hex(text("message2")?)?)?;
    let (as_responder, remote) = respond(
        &setting,
        &responder,
        &from_hex(text("message1")?)?,
        &array(text("payload2")?)?,
    )?;
    Some(json!({
        "initiator": shown(&as_initiator),
        "responder": shown(&as_responder),
        "remote": to_hex(&remote),
    }))
}

fn shown(outcome: &Outcome) -> Value {
    json!({
        "message": to_hex(&outcome.message),
        "payload": to_hex(&outcome.payload),
        "seal": to_hex(&outcome.seal),
        "open": to_hex(&outcome.open),
    })
}
