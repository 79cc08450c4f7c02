//! The values of docs/protocol-vectors.json, computed.

use cairn_engine::testing::public_key;
use cairn_engine::testing::transcript::{
    Initiator, Setting, Side, fill_macs, respond, seal_cookie,
};
use cairn_engine::{Kind, SealKey, Suite};
use cairn_wire::header;
use serde_json::{Value, json};

const CLUSTER_ID: [u8; 16] = *b"cluster-id-16-oc";
const VNI: u32 = 7;
const EPOCH: u16 = 3;
const INITIATOR_INDEX: u32 = 0x0001_0203;
const RESPONDER_INDEX: u32 = 0x000a_0b0c;
const COOKIE: [u8; 16] = [0xc0; 16];

/// All vectors.
pub fn all() -> Value {
    json!({
        "protocol": 1,
        "specification": "docs/protocol.md section 1; octet strings are hexadecimal",
        "suites": [of(Suite::X25519), of(Suite::P256)],
    })
}

fn of(suite: Suite) -> Value {
    let initiator = Side {
        private: [0x11; 32],
        ephemeral: [0x22; 32],
    };
    let responder = Side {
        private: [0x33; 32],
        ephemeral: [0x44; 32],
    };
    let (initiator_public, responder_public) = (
        public_key(suite, &initiator.private),
        public_key(suite, &responder.private),
    );
    let head = header::init(INITIATOR_INDEX, VNI, EPOCH, suite as u8);
    let mut prologue = b"VSN1".to_vec();
    prologue.push(suite as u8);
    prologue.extend_from_slice(&CLUSTER_ID);
    prologue.extend_from_slice(&VNI.to_be_bytes());
    prologue.extend_from_slice(&head);
    let setting = Setting {
        suite,
        psk: [0x55; 32],
        prologue,
    };
    let payload1: [u8; 24] = std::array::from_fn(|at| u8::try_from(at).unwrap_or(0));
    let payload2 = [0xff, 0xff, 0, 0, 0x0a, 0x0b, 0x0c, 0];

    let started = Initiator::start(&setting, &initiator, &responder_public, &payload1)
        .expect("keys of the curve");
    let (answered, _) =
        respond(&setting, &responder, started.message(), &payload2).expect("authentic");
    let resp_head = header::resp(RESPONDER_INDEX, INITIATOR_INDEX);
    let init = datagram(&head, started.message(), suite, &responder_public, None);
    let init_with_cookie = datagram(
        &head,
        started.message(),
        suite,
        &responder_public,
        Some(&COOKIE),
    );
    let resp = datagram(
        &resp_head,
        &answered.message,
        suite,
        &initiator_public,
        None,
    );
    let mac1 = init[init.len() - 32..init.len() - 16]
        .try_into()
        .expect("16 octets");
    let cookie = seal_cookie(
        suite,
        &responder_public,
        INITIATOR_INDEX,
        &mac1,
        &COOKIE,
        [0x66; 12],
    );
    let outcome = started.finish(&answered.message).expect("authentic");
    json!({
        "suite": suite as u8,
        "initiator_private": hex(&initiator.private),
        "initiator_public": hex(&initiator_public),
        "initiator_ephemeral": hex(&initiator.ephemeral),
        "responder_private": hex(&responder.private),
        "responder_public": hex(&responder_public),
        "responder_ephemeral": hex(&responder.ephemeral),
        "cluster_id": hex(&CLUSTER_ID),
        "vni": VNI,
        "psk_epoch": EPOCH,
        "psk": hex(&setting.psk),
        "noise_prologue": hex(&setting.prologue),
        "init_payload": hex(&payload1),
        "init": hex(&init),
        "cookie_value": hex(&COOKIE),
        "cookie": hex(&cookie),
        "init_with_cookie": hex(&init_with_cookie),
        "resp_payload": hex(&payload2),
        "resp": hex(&resp),
        "initiator_seals_with": hex(&outcome.seal),
        "responder_seals_with": hex(&outcome.open),
        "data": sealed(Kind::Data, &outcome.seal, RESPONDER_INDEX, 0, &[0x5a; 60]),
        "control_probe": sealed(Kind::Control, &outcome.open, INITIATOR_INDEX, (1 << 48) - (1 << 20) - 1,
            &[4, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
    })
}

fn datagram(
    head: &[u8; 16],
    noise: &[u8],
    suite: Suite,
    receiver: &[u8],
    cookie: Option<&[u8; 16]>,
) -> Vec<u8> {
    let mut message = head.to_vec();
    message.extend_from_slice(noise);
    message.extend_from_slice(&[0; 32]);
    fill_macs(suite, receiver, &mut message, cookie);
    message
}

fn sealed(kind: Kind, key: &[u8; 32], receiver: u32, counter: u64, plaintext: &[u8]) -> Value {
    let mut datagram = vec![0; 32 + plaintext.len()];
    datagram[16..16 + plaintext.len()].copy_from_slice(plaintext);
    SealKey::new(key).seal_in_place(kind, receiver, [0x77; 6], counter, &mut datagram);
    json!({"counter": counter, "plaintext": hex(plaintext), "datagram": hex(&datagram)})
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
