//! What a confined process may do, and how it ends at what it may not.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Cargo builds the examples with the tests, beside them.
fn confined(asked: &str) -> Output {
    let test = std::env::current_exe().unwrap();
    let built: PathBuf = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/confined");
    Command::new(built).arg(asked).output().unwrap()
}

#[test]
fn a_call_that_is_not_on_the_list_ends_the_process() {
    for asked in [
        "program",
        "packet-socket",
        "netlink",
        "ptrace",
        "mount",
        "kexec",
    ] {
        let output = confined(asked);
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGSYS),
            "{asked}: {output:?}"
        );
    }
}

#[test]
fn memory_can_not_be_made_executable() {
    let output = confined("executable-memory");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
fn what_it_does_is_allowed_and_it_has_no_capability() {
    let output = confined("allowed");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.ends_with("went on\n"),
        "{text}"
    );
    for line in text.lines().filter(|line| line.starts_with("Cap")) {
        assert!(line.ends_with("0000000000000000"), "{text}");
    }
    assert!(
        text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"),
        "{text}"
    );
}
