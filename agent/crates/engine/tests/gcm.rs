//! KT-2: AES-256-GCM as NIST has it. The comparison with OpenSSL is in
//! tests/contract/test_sealing_vectors.py.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

mod proof;

fn octets(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let octet = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
    pairs
        .map(|pair| octet(pair).expect("hexadecimal"))
        .collect()
}

#[test]
fn kt_2_every_nist_vector_seals_and_opens_as_written() {
    let file = include_str!("data/nist-gcm-256.csv");
    let mut tried = 0;
    let mut wrong = 0;
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<Vec<u8>> = line.split(',').map(octets).collect();
        let [key, nonce, plaintext, aad, ciphertext, tag] = &fields[..] else {
            panic!("six fields: {line}");
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key"));
        let nonce = || Nonce::try_assume_unique_for_key(nonce).expect("12 octets");
        let mut sealed = plaintext.clone();
        let made = key
            .seal_in_place_separate_tag(nonce(), Aad::from(aad), &mut sealed)
            .expect("sealed");
        let mut opened = [&ciphertext[..], &tag[..]].concat();
        let read = key.open_in_place(nonce(), Aad::from(aad), &mut opened);
        let right = sealed == *ciphertext
            && made.as_ref() == tag
            && read.is_ok_and(|read| read == &plaintext[..]);
        tried += 1;
        wrong += u32::from(!right);
    }
    assert!(tried > 300, "{tried} vectors");
    assert!(proof::record(&proof::Proof {
        id: "KT-2-nist",
        what: "AES-256-GCM as NIST's vectors have it",
        bar: &format!("0 of {tried} differ"),
        value: f64::from(wrong),
        unit: "vectors",
        holds: wrong == 0,
        test: "gcm",
    }));
}
