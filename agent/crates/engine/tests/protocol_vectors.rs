//! docs/protocol-vectors.json is what this implementation computes.

mod vectors;

#[test]
fn the_documented_vectors_are_what_is_computed() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../docs/protocol-vectors.json"
    );
    let documented = std::fs::read_to_string(path).expect("docs/protocol-vectors.json");
    let documented: serde_json::Value = serde_json::from_str(&documented).expect("JSON");

    assert_eq!(documented, vectors::all());
}
