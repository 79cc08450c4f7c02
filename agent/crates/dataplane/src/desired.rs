//! The desired state as the agent writes it (docs/protocol.md 2.1), read and checked.
//!
//! Unknown fields are ignored, so that a newer agent can talk to an older data plane.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use cairn_engine::{
    Identity, NodeId, PeerState, Policy, Psk, Role, Secret, State, Suite, Timers, VSubnetState,
};
use cairn_wire::Mac;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use zeroize::Zeroizing;

use crate::refusal::Refusal;

/// Reads a state; on any fault nothing of it is used.
///
/// The caller zeroises `text`; no copy of a secret is left behind here.
pub fn read(text: &str) -> Result<State, Refusal> {
    let state: StateText = serde_json::from_str(text)
        .map_err(|error| Refusal::bad_state(format!("the state can't be read: {error}")))?;
    state.check()
}

#[derive(Deserialize)]
struct StateText {
    cluster_id: Uuid,
    node: NodeText,
    #[serde(default = "default_port")]
    port: u16,
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    behind_nat: bool,
    #[serde(default)]
    timers: Option<TimersText>,
    #[serde(default)]
    vsubnets: Vec<VSubnetText>,
}

#[derive(Deserialize)]
struct NodeText {
    id: Uuid,
    private_key: KeyText,
}

#[derive(Deserialize)]
#[serde(default)]
struct TimersText {
    rekey_after_ms: u64,
    rekey_jitter_ms: u64,
    reject_after_ms: u64,
    keepalive_ms: u64,
    dead_after_ms: u64,
}

#[derive(Deserialize)]
struct VSubnetText {
    vni: u32,
    #[serde(default = "default_suite")]
    suite: u8,
    tap: String,
    #[serde(default = "default_mtu")]
    mtu: u16,
    #[serde(default)]
    psks: Vec<PskText>,
    #[serde(default)]
    role: RoleText,
    #[serde(default)]
    macs: Vec<MacText>,
    #[serde(default)]
    ips: Vec<IpAddr>,
    #[serde(default)]
    policy: Option<PolicyText>,
    #[serde(default)]
    peers: Vec<PeerText>,
}

#[derive(Deserialize)]
struct PskText {
    epoch: u16,
    key: KeyText,
}

#[derive(Deserialize)]
#[serde(default)]
struct PolicyText {
    bum_pps: u32,
    bum_burst: u32,
    gateway_bum_pps: u32,
    gateway_source_bum_pps: u32,
    ageing_s: u64,
    shared_ips: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct PeerText {
    id: Uuid,
    #[serde(default)]
    name: String,
    public_key: KeyText,
    #[serde(default)]
    role: RoleText,
    #[serde(default)]
    macs: Vec<MacText>,
    #[serde(default)]
    ips: Vec<IpAddr>,
    #[serde(default)]
    endpoints: Vec<SocketAddr>,
    #[serde(default)]
    warm: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleText {
    #[default]
    Host,
    Gateway,
}

const fn default_port() -> u16 {
    8002
}

const fn default_suite() -> u8 {
    1
}

const fn default_mtu() -> u16 {
    1400
}

impl Default for TimersText {
    fn default() -> Self {
        let timers = Timers::default();
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            rekey_after_ms: millis(timers.rekey_after),
            rekey_jitter_ms: millis(timers.rekey_jitter),
            reject_after_ms: millis(timers.reject_after),
            keepalive_ms: millis(timers.keepalive),
            dead_after_ms: millis(timers.dead_after),
        }
    }
}

impl Default for PolicyText {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            bum_pps: policy.bum_pps,
            bum_burst: policy.bum_burst,
            gateway_bum_pps: policy.gateway_bum_pps,
            gateway_source_bum_pps: policy.gateway_source_bum_pps,
            ageing_s: policy.ageing.as_secs(),
            shared_ips: policy.shared_ips,
        }
    }
}

impl StateText {
    fn check(self) -> Result<State, Refusal> {
        if self.port == 0 {
            return Err(Refusal::bad_state(
                "port 0 can't be bound; the default is 8002",
            ));
        }
        let vsubnets: Result<Vec<_>, _> =
            self.vsubnets.into_iter().map(VSubnetText::check).collect();
        Ok(State {
            cluster_id: self.cluster_id.0,
            node: Identity {
                id: NodeId(self.node.id.0),
                private_key: self.node.private_key.secret("the node's private key")?,
            },
            port: self.port,
            revision: self.revision,
            behind_nat: self.behind_nat,
            timers: self.timers.unwrap_or_default().into(),
            vsubnets: vsubnets?,
        })
    }
}

impl From<TimersText> for Timers {
    fn from(text: TimersText) -> Self {
        Self {
            rekey_after: Duration::from_millis(text.rekey_after_ms),
            rekey_jitter: Duration::from_millis(text.rekey_jitter_ms),
            reject_after: Duration::from_millis(text.reject_after_ms),
            keepalive: Duration::from_millis(text.keepalive_ms),
            dead_after: Duration::from_millis(text.dead_after_ms),
        }
    }
}

impl VSubnetText {
    fn check(self) -> Result<VSubnetState, Refusal> {
        let vni = self.vni;
        let suite = match self.suite {
            1 => Suite::X25519,
            2 => Suite::P256,
            other => {
                return Err(Refusal::bad_state(format!(
                    "vSubnet {vni} has the unknown suite {other}"
                )));
            }
        };
        let psks: Result<Vec<_>, _> = self.psks.into_iter().map(|psk| psk.check(vni)).collect();
        let peers: Result<Vec<_>, _> = self
            .peers
            .into_iter()
            .map(|peer| peer.check(vni, suite))
            .collect();
        let policy = self.policy.unwrap_or_default();
        Ok(VSubnetState {
            vni,
            suite,
            tap: self.tap,
            mtu: self.mtu,
            psks: psks?,
            role: self.role.into(),
            macs: self.macs.into_iter().map(|mac| mac.0).collect(),
            ips: self.ips,
            policy: Policy {
                bum_pps: policy.bum_pps,
                bum_burst: policy.bum_burst,
                gateway_bum_pps: policy.gateway_bum_pps,
                gateway_source_bum_pps: policy.gateway_source_bum_pps,
                ageing: Duration::from_secs(policy.ageing_s),
                shared_ips: policy.shared_ips,
            },
            peers: peers?,
        })
    }
}

impl PskText {
    fn check(self, vni: u32) -> Result<Psk, Refusal> {
        let what = format!("the secret of epoch {} of vSubnet {vni}", self.epoch);
        Ok(Psk {
            epoch: self.epoch,
            key: self.key.secret(&what)?,
        })
    }
}

impl PeerText {
    fn check(self, vni: u32, suite: Suite) -> Result<PeerState, Refusal> {
        let id = NodeId(self.id.0);
        let wanted = match suite {
            Suite::X25519 => 32,
            Suite::P256 => 33,
        };
        let what = format!("the public key of node {id} in vSubnet {vni}");
        Ok(PeerState {
            id,
            name: self.name,
            public_key: self.public_key.octets(wanted, &what)?.to_vec(),
            role: self.role.into(),
            macs: self.macs.into_iter().map(|mac| mac.0).collect(),
            ips: self.ips,
            endpoints: self.endpoints,
            warm: self.warm,
        })
    }
}

impl From<RoleText> for Role {
    fn from(text: RoleText) -> Self {
        match text {
            RoleText::Host => Self::Host,
            RoleText::Gateway => Self::Gateway,
        }
    }
}

/// The longest key: a compressed P-256 point.
const KEY_OCTETS: usize = 33;

/// A key in base64. Whether it is one shows only where its owner can be named.
struct KeyText {
    octets: Zeroizing<[u8; KEY_OCTETS]>,
    length: Option<usize>,
}

impl KeyText {
    fn octets(&self, wanted: usize, what: &str) -> Result<&[u8], Refusal> {
        match self.length {
            Some(length) if length == wanted => Ok(&self.octets[..length]),
            _ => Err(Refusal::bad_key(format!(
                "{what} is not the base64 of {wanted} octets"
            ))),
        }
    }

    fn secret(&self, what: &str) -> Result<Secret, Refusal> {
        let mut secret = Secret([0; 32]);
        secret.0.copy_from_slice(self.octets(32, what)?);
        Ok(secret)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = KeyText;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a key in base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyText, E> {
                let mut octets = Zeroizing::new([0; KEY_OCTETS]);
                let length = Base64::decode(text, &mut octets[..]).ok().map(<[u8]>::len);
                Ok(KeyText { octets, length })
            }
        }
        text.deserialize_str(Key)
    }
}

/// Reads a value from a string by its `FromStr`.
fn parse_str<'de, D: Deserializer<'de>, T: FromStr>(
    text: D,
    expected: &'static str,
) -> Result<T, D::Error> {
    struct Parsed<T>(&'static str, std::marker::PhantomData<T>);
    impl<T: FromStr> Visitor<'_> for Parsed<T> {
        type Value = T;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse()
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    text.deserialize_str(Parsed(expected, std::marker::PhantomData))
}

struct MacText(Mac);

impl<'de> Deserialize<'de> for MacText {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        parse_str(text, "a MAC address").map(Self)
    }
}

/// 128 bits, written as RFC 9562 §4 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl FromStr for Uuid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hyphens = [8, 13, 18, 23];
        if text.len() != 36 || !hyphens.iter().all(|&at| text.as_bytes()[at] == b'-') {
            return Err(());
        }
        let digits: Vec<u8> = text
            .chars()
            .enumerate()
            .filter(|(at, _)| !hyphens.contains(at))
            .map(|(_, digit)| digit.to_digit(16).map(|value| value as u8).ok_or(()))
            .collect::<Result<_, _>>()?;
        let mut octets = [0; 16];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            *octet = pair[0] << 4 | pair[1];
        }
        Ok(Self(octets))
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        parse_str(text, "a UUID")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "4c4b1a6e-0000-4000-8000-0123456789ab";
    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn state(vsubnets: &str) -> String {
        format!(
            r#"{{"cluster_id": "{NODE}", "node": {{"id": "{NODE}", "private_key": "{KEY}"}},
                 "port": 8002, "revision": 7, "of_tomorrow": [1], "vsubnets": [{vsubnets}]}}"#
        )
    }

    #[test]
    fn a_state_is_read_with_its_defaults() {
        let text = state(&format!(
            r#"{{"vni": 7, "tap": "cairn7", "macs": ["02:00:00:00:00:01"], "ips": ["fd00::2"],
                 "psks": [{{"epoch": 3, "key": "{KEY}"}}],
                 "peers": [{{"id": "{NODE}", "public_key": "{KEY}", "role": "gateway",
                             "endpoints": ["192.0.2.7:8002", "[2001:db8::7]:8002"]}}]}}"#
        ));

        let state = read(&text).unwrap();

        let [vsubnet] = &state.vsubnets[..] else {
            panic!("one vSubnet")
        };
        assert_eq!(state.node.private_key.0, [1; 32]);
        assert_eq!(state.timers, Timers::default());
        assert_eq!(
            (vsubnet.suite, vsubnet.mtu, vsubnet.role),
            (Suite::X25519, 1400, Role::Host)
        );
        assert_eq!(vsubnet.psks[0].key.0, [1; 32]);
        assert_eq!(vsubnet.policy, Policy::default());
        assert_eq!(vsubnet.peers[0].role, Role::Gateway);
        assert_eq!(vsubnet.peers[0].endpoints.len(), 2);
        assert_eq!(vsubnet.peers[0].id.to_string(), NODE);
    }

    #[test]
    fn shared_addresses_are_part_of_the_policy() {
        let text = state(
            r#"{"vni": 7, "tap": "t", "peers": [],
                "policy": {"bum_pps": 5, "shared_ips": ["10.7.0.9", "fd00::9"]}}"#,
        );
        let policy = &read(&text).unwrap().vsubnets[0].policy;
        assert_eq!((policy.bum_pps, policy.shared_ips.len()), (5, 2));
    }

    #[test]
    fn a_broken_key_is_named_with_its_owner_and_not_shown() {
        let text = state(&format!(
            r#"{{"vni": 7, "tap": "t", "peers": [{{"id": "{NODE}", "public_key": "c2VjcmV0"}}]}}"#
        ));
        let refusal = read(&text).unwrap_err();
        assert_eq!(refusal.code, "bad_key");
        assert!(refusal.message.contains(NODE), "{}", refusal.message);
        assert!(!refusal.message.contains("c2VjcmV0"), "{}", refusal.message);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            &state(r#"{"vni": 7}"#),
            &state(r#"{"vni": 7, "tap": "t", "suite": 9}"#),
            &state(r#"{"vni": 7, "tap": "t", "macs": ["02:00"]}"#),
            &state("").replace("8002", "0"),
            &state("").replace(NODE, "not-a-uuid"),
        ] {
            assert_eq!(read(text).unwrap_err().code, "bad_state", "{text}");
        }
    }

    #[test]
    fn a_test_may_set_some_timers() {
        let text = state("").replace("\"port\"", "\"timers\": {\"rekey_after_ms\": 5}, \"port\"");
        let timers = read(&text).unwrap().timers;
        assert_eq!(timers.rekey_after, Duration::from_millis(5));
        assert_eq!(timers.keepalive, Timers::default().keepalive);
    }
}
