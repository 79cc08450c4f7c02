//! What is told to the agent (docs/protocol.md 2, 2.2, 2.3).

use std::time::Duration;

use cairn_engine::{Event, Fact, PeerStats, Stats, VSubnetStats};
use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

/// An answer that says yes, with `fields` beside it.
pub fn granted(id: Option<u64>, fields: Value) -> Value {
    let mut answer = json!({ "id": id, "ok": true });
    if let (Value::Object(answer), Value::Object(fields)) = (&mut answer, fields) {
        answer.extend(fields);
    }
    answer
}

/// An answer that says no.
pub fn refused(id: Option<u64>, refusal: &Refusal) -> Value {
    json!({
        "id": id,
        "ok": false,
        "error": { "code": refusal.code, "message": refusal.message },
    })
}

/// Names with numbers, those at zero left out.
pub fn numbers<'a>(named: impl IntoIterator<Item = (&'a str, u64)>) -> Value {
    let occurred = named.into_iter().filter(|(_, number)| *number > 0);
    Value::Object(
        occurred
            .map(|(name, number)| (name.to_owned(), number.into()))
            .collect(),
    )
}

/// The body of `stats` as far as the engine knows it.
pub fn stats(stats: &Stats) -> Map<String, Value> {
    let vsubnets: Vec<Value> = stats.vsubnets.iter().map(vsubnet).collect();
    let drops = stats
        .drops
        .iter()
        .map(|(reason, number)| (reason.name(), *number));
    let mut body = Map::new();
    body.insert("drops".into(), numbers(drops));
    body.insert("vsubnets".into(), vsubnets.into());
    body
}

fn vsubnet(stats: &VSubnetStats) -> Value {
    let learned: Vec<Value> = stats
        .learned
        .iter()
        .map(|entry| {
            json!({
                "mac": entry.mac.to_string(),
                "peer": entry.peer.to_string(),
                "age_s": seconds(entry.age),
            })
        })
        .collect();
    let gate = stats.gate.map(|gate| {
        json!({
            "term": gate.term,
            "is_open": gate.is_open,
            "until_ns": gate.until.as_nanos(),
        })
    });
    json!({
        "vni": stats.vni,
        "tap": stats.tap,
        "gate": gate,
        "tx_frames": stats.tx_frames,
        "tx_octets": stats.tx_octets,
        "rx_frames": stats.rx_frames,
        "rx_octets": stats.rx_octets,
        "counters": numbers(stats.counters.iter().copied()),
        "drops": numbers(stats.refused.iter().map(|(reason, number)| (reason.name(), *number))),
        "learned": learned,
        "peers": stats.peers.iter().map(peer).collect::<Vec<_>>(),
    })
}

fn peer(stats: &PeerStats) -> Value {
    json!({
        "id": stats.id.to_string(),
        "endpoint": stats.endpoint.map(|endpoint| endpoint.to_string()),
        "session": stats.session.name(),
        "path": "direct",
        "rtt_us": stats.rtt.map(micros),
        "session_age_s": stats.session_age.map(seconds),
        "last_received_s": stats.last_received.map(seconds),
        "tx_octets": stats.tx_octets,
        "rx_octets": stats.rx_octets,
        "tx_frames": stats.tx_frames,
        "rx_frames": stats.rx_frames,
        "handshakes": stats.handshakes,
        "mtu": stats.mtu,
    })
}

/// Microseconds, for round-trip times.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// An event of the engine; none for what only we asked for.
pub fn event(event: &Event) -> Option<Value> {
    let mut line = match &event.fact {
        Fact::SessionUp {
            vni,
            peer,
            endpoint,
        } => json!({
            "event": "session_up", "vni": vni, "peer": peer.to_string(),
            "endpoint": endpoint.map(|endpoint| endpoint.to_string()),
        }),
        Fact::SessionDown { vni, peer, reason } => json!({
            "event": "session_down", "vni": vni, "peer": peer.to_string(), "reason": reason.name(),
        }),
        Fact::EndpointChanged {
            vni,
            peer,
            endpoint,
        } => json!({
            "event": "endpoint_changed", "vni": vni, "peer": peer.to_string(),
            "endpoint": endpoint.to_string(),
        }),
        Fact::EndpointWanted { vni, peer } => json!({
            "event": "endpoint_wanted", "vni": vni, "peer": peer.to_string(),
        }),
        Fact::Spoofed {
            vni,
            peer,
            mac,
            count,
        } => json!({
            "event": "spoofed", "vni": vni, "peer": peer.to_string(), "mac": mac.to_string(),
            "count": count,
        }),
        Fact::Learned { vni, mac, peer } => json!({
            "event": "learned", "vni": vni, "mac": mac.to_string(), "peer": peer.to_string(),
        }),
        Fact::Reflected {
            vni,
            peer,
            mac,
            count,
        } => json!({
            "event": "reflected", "vni": vni, "peer": peer.to_string(), "mac": mac.to_string(),
            "count": count,
        }),
        Fact::GateClosed { vni, term } => json!({
            "event": "gate_closed", "vni": vni, "term": term,
        }),
        Fact::CloneSeen { vni, peer } => json!({
            "event": "clone_seen", "vni": vni, "peer": peer.to_string(),
        }),
        Fact::Probed { .. } => return None,
    };
    line["at_ms"] = event.at.as_millis().into();
    Some(line)
}

/// Something works less well than it should.
pub fn degraded(what: &str, reason: &str, at_ms: u64) -> Value {
    json!({ "event": "degraded", "what": what, "reason": reason, "at_ms": at_ms })
}
