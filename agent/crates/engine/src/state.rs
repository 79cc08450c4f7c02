//! What the agent wants: the whole desired state, applied as one value.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cairn_wire::Mac;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{NodeId, Vni};
use crate::switch::Role;

/// Everything that this node must know (docs/protocol.md 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The cluster's UUID; part of the Noise prologue.
    pub cluster_id: [u8; 16],
    /// This node.
    pub node: Identity,
    /// UDP port on which we listen.
    pub port: u16,
    /// The netmap's revision, told to peers in INIT.
    pub revision: u64,
    /// Whether a NAT in front of us forgets us unless we send every 20 s.
    pub behind_nat: bool,
    /// The protocol's timers.
    pub timers: Timers,
    /// The vSubnets of which this node is a member.
    pub vsubnets: Vec<VSubnetState>,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its node ID.
    pub id: NodeId,
    /// Its static private key, on the curve of each vSubnet's suite.
    pub private_key: Secret,
}

/// 32 secret octets: zeroised when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub [u8; 32]);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The protocol's timers (rule 6); other values than the defaults are a test setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// A session older than this is renewed by its initiator.
    pub rekey_after: Duration,
    /// Up to this much is added to `rekey_after`, drawn per session.
    pub rekey_jitter: Duration,
    /// A session older than this neither sends nor receives.
    pub reject_after: Duration,
    /// Received but sent nothing for this long: send a keepalive.
    pub keepalive: Duration,
    /// Sent but heard nothing for this long: probe.
    pub dead_after: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            rekey_after: Duration::from_secs(120),
            rekey_jitter: Duration::from_secs(10),
            reject_after: Duration::from_secs(180),
            keepalive: Duration::from_secs(10),
            dead_after: Duration::from_secs(3),
        }
    }
}

/// The cryptographic suite of a vSubnet; there is no negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Noise_IKpsk2_25519_AESGCM_SHA256.
    X25519 = 1,
    /// Noise_IKpsk2_P256_AESGCM_SHA256 with compressed points.
    P256 = 2,
}

/// The epoch secret of a vSubnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Psk {
    /// Its number; epoch 0 is 32 zero octets.
    pub epoch: u16,
    /// The secret.
    pub key: Secret,
}

/// Limits of one vSubnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// BUM frames per second accepted from one peer.
    pub bum_pps: u32,
    /// How many may come at once.
    pub bum_burst: u32,
    /// The most of them to or from the LAN of a gateway in any second.
    pub gateway_bum_pps: u32,
    /// The same of one station there.
    pub gateway_source_bum_pps: u32,
    /// How long a learned entry lives.
    pub ageing: Duration,
    /// Virtual addresses: bound to nobody, and any member may claim them.
    pub shared_ips: Vec<IpAddr>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            bum_pps: 200,
            bum_burst: 400,
            gateway_bum_pps: 1_000,
            gateway_source_bum_pps: 200,
            ageing: Duration::from_secs(300),
            shared_ips: Vec::new(),
        }
    }
}

/// One vSubnet as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VSubnetState {
    /// Its number, 1 to 2^24 - 1.
    pub vni: Vni,
    /// Its suite.
    pub suite: Suite,
    /// The name of the TAP; the engine only passes it on.
    pub tap: String,
    /// The TAP's MTU.
    pub mtu: u16,
    /// Epoch secrets; the first is used to send, all are accepted. Empty: epoch 0.
    pub psks: Vec<Psk>,
    /// This node's role.
    pub role: Role,
    /// This node's MACs.
    pub macs: Vec<Mac>,
    /// This node's addresses.
    pub ips: Vec<IpAddr>,
    /// Limits.
    pub policy: Policy,
    /// The other members.
    pub peers: Vec<PeerState>,
}

/// Another member of a vSubnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Its node ID.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its static public key: 32 octets (suite 1) or 33 (suite 2).
    pub public_key: Vec<u8>,
    /// Its role.
    pub role: Role,
    /// Its MACs.
    pub macs: Vec<Mac>,
    /// Its addresses in the vSubnet.
    pub ips: Vec<IpAddr>,
    /// Where it may be reached.
    pub endpoints: Vec<SocketAddr>,
    /// Whether a session is wanted without waiting for traffic.
    pub warm: bool,
}

/// Why a state can't be applied; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The private key is not one of the suite's curve.
    #[error("the node's private key is not a valid key of vSubnet {0}'s suite")]
    PrivateKey(Vni),
    /// A peer's public key has the wrong length.
    #[error("the public key of node {node} in vSubnet {vni} is not valid")]
    PublicKey {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        node: NodeId,
    },
    /// The VNI is zero, over 24 bits, or listed twice.
    #[error("vSubnet number {0} is out of range or listed twice")]
    Vni(Vni),
    /// A peer is listed twice, or is this node, or shares a key.
    #[error("node {node} is listed twice in vSubnet {vni}, or shares its key, or is this node")]
    DuplicatePeer {
        /// The vSubnet.
        vni: Vni,
        /// The peer.
        node: NodeId,
    },
    /// The timers contradict each other.
    #[error("reject_after must be longer than rekey_after + rekey_jitter")]
    Timers,
}
