//! What the agent asks: one JSON object a line (docs/protocol.md 2).

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::desired::Uuid;
use crate::refusal::Refusal;

/// A request, still without its arguments checked.
#[derive(Debug)]
pub enum Request<'a> {
    /// Who are you?
    Hello,
    /// Make this state true.
    Apply(Apply<'a>),
    /// Counters and states.
    Stats,
    /// Measure the way to a peer.
    Probe(Probe),
    /// Try these endpoints too.
    Endpoints(Endpoints),
    /// Let this gateway forward until then.
    Gate(Gate),
    /// Forget the stations behind a peer.
    Forget(Forget),
    /// The host's addresses or routes changed.
    UnderlayChanged,
    /// Get a session with every peer.
    WarmAll,
    /// Send events from now on.
    Subscribe,
    /// Hand over sockets, TAPs and state.
    TakeOver,
    /// They were taken; end.
    Taken,
}

/// Arguments of `apply`.
#[derive(Debug, Deserialize)]
pub struct Apply<'a> {
    /// The agent's number for this state.
    pub generation: u64,
    /// The state as it was written.
    #[serde(borrow)]
    pub state: &'a RawValue,
}

/// Arguments of `probe`.
#[derive(Debug, Deserialize)]
pub struct Probe {
    /// The vSubnet.
    pub vni: u32,
    /// The peer's node ID.
    pub peer: Uuid,
    /// How long to wait.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

const fn default_timeout_ms() -> u64 {
    1_000
}

/// Arguments of `endpoints`.
#[derive(Debug, Deserialize)]
pub struct Endpoints {
    /// The vSubnet.
    pub vni: u32,
    /// The peer's node ID.
    pub peer: Uuid,
    /// Where it may be reached.
    pub endpoints: Vec<SocketAddr>,
}

/// Arguments of `gate`.
#[derive(Debug, Deserialize)]
pub struct Gate {
    /// The vSubnet.
    pub vni: u32,
    /// Rises with each holder of the right to forward.
    pub term: u64,
    /// Nanoseconds of CLOCK_BOOTTIME; 0 closes.
    pub forward_until_ns: u64,
}

/// Arguments of `forget`.
#[derive(Debug, Deserialize)]
pub struct Forget {
    /// The vSubnet.
    pub vni: u32,
    /// The peer's node ID.
    pub peer: Uuid,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    op: std::borrow::Cow<'a, str>,
}

/// Reads a line. The id is returned even where the rest is refused, so that the
/// answer finds its question.
pub fn read(line: &[u8]) -> (Option<u64>, Result<Request<'_>, Refusal>) {
    let envelope: Envelope<'_> = match serde_json::from_slice(line) {
        Ok(envelope) => envelope,
        Err(error) => return (None, Err(bad_request(&error))),
    };
    let request = match &*envelope.op {
        "hello" => Ok(Request::Hello),
        "apply" => arguments(line).map(Request::Apply),
        "stats" => Ok(Request::Stats),
        "probe" => arguments(line).map(Request::Probe),
        "endpoints" => arguments(line).map(Request::Endpoints),
        "gate" => arguments(line).map(Request::Gate),
        "forget" => arguments(line).map(Request::Forget),
        "underlay_changed" => Ok(Request::UnderlayChanged),
        "warm_all" => Ok(Request::WarmAll),
        "subscribe" => Ok(Request::Subscribe),
        "takeover" => Ok(Request::TakeOver),
        "taken" => Ok(Request::Taken),
        other => Err(Refusal::new(
            "unknown_op",
            format!(
                "this data plane doesn't know the request {other:?}; it may be older than the agent"
            ),
        )),
    };
    (envelope.id, request)
}

fn arguments<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(line).map_err(|error| bad_request(&error))
}

fn bad_request(error: &serde_json::Error) -> Refusal {
    Refusal::new("bad_request", format!("the line is no request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_keeps_the_state_as_it_was_written() {
        let line = br#"{"op":"apply","new":{},"id":4,"generation":9,"state":{ "a" : 1 }}"#;
        let (id, request) = read(line);
        let Ok(Request::Apply(apply)) = request else {
            panic!("{request:?}")
        };
        assert_eq!(
            (id, apply.generation, apply.state.get()),
            (Some(4), 9, r#"{ "a" : 1 }"#)
        );
    }

    #[test]
    fn a_refused_line_still_has_its_number() {
        for (line, number, code) in [
            (&br#"{"id":3,"op":"fly"}"#[..], Some(3), "unknown_op"),
            (br#"{"id":3,"op":"probe"}"#, Some(3), "bad_request"),
            (
                br#"{"id":3,"op":"gate","vni":7,"term":1}"#,
                Some(3),
                "bad_request",
            ),
            (
                br#"{"id":3,"op":"apply","generation":-1,"state":{}}"#,
                Some(3),
                "bad_request",
            ),
            (b"\xff\xfe", None, "bad_request"),
            (b"[]", None, "bad_request"),
        ] {
            let (id, request) = read(line);
            assert_eq!(id, number);
            assert_eq!(request.unwrap_err().code, code);
        }
    }
}
