//! Writes what a test has proved to build/proofs/ID.json (architecture.md, Proofs).

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

/// What was proved; `value` was measured in this run and `holds` computed from it.
pub struct Proof<'a> {
    /// The test id that the design uses.
    pub id: &'a str,
    /// What is proved.
    pub what: &'a str,
    /// What has to hold.
    pub bar: &'a str,
    /// What was measured.
    pub value: f64,
    /// Its unit.
    pub unit: &'a str,
    /// Whether it holds.
    pub holds: bool,
    /// The name of the integration test.
    pub test: &'a str,
}

/// Writes a proof and returns whether it holds; its id has to be listed.
pub fn record(proof: &Proof<'_>) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let list = std::fs::read_to_string(root.join("tests/expected-proofs.txt")).expect("the list");
    let is_listed = |line: &str| line.split_whitespace().next() == Some(proof.id);
    assert!(list.lines().any(is_listed), "{} has no line", proof.id);
    let directory = root.join("build/proofs");
    std::fs::create_dir_all(&directory).expect("build/proofs");
    let written = json!({
        "id": proof.id,
        "what": proof.what,
        "bar": proof.bar,
        "value": proof.value,
        "unit": proof.unit,
        "holds": proof.holds,
        "command": format!("cargo test --manifest-path agent/Cargo.toml -p cairn-engine --test {}", proof.test),
        "commit": commit(&root),
        "at": now(),
    });
    let file = directory.join(format!("{}.json", proof.id));
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{written:#}\n")).expect("written");
    std::fs::rename(&new, &file).expect("renamed");
    proof.holds
}

/// The commit, with `+` where tracked files differ from it.
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let done = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| text.trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]);
    head + if dirty.is_some_and(|changes| !changes.is_empty()) {
        "+"
    } else {
        ""
    }
}

/// The date and time in UTC, to the second (RFC 3339). The civil date after H. Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms".
fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400 + 719_468, since.as_secs() % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}
