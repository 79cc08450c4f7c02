//! The control socket of the real binary, without root: no TAPs here.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const NODE: &str = "4c4b1a6e-0000-4000-8000-0123456789ab";
/// 32 octets 0x01: not anyone's key.
const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_successor_that_was_given_up_ends_and_leaves_the_old_one_its_socket() {
    let place = Place::new();
    fs::create_dir_all(place.socket().parent().unwrap()).unwrap();
    let old = std::os::unix::net::UnixListener::bind(place.socket()).unwrap();
    let old = std::thread::spawn(move || {
        let mut lines = BufReader::new(old.accept().unwrap().0);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let answer = json!({"id": 1, "ok": true, "generation": null, "fds": [], "recent": [],
                            "state": null});
        let stream = lines.get_mut();
        stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
        // It hears `taken` too late: the connection ends without an answer.
        lines.read_line(&mut line).unwrap();
        drop(lines);
        old
    });

    let (code, text) = ended(spawn(&place, &["--take-over"]));

    let old = old.join().unwrap();
    assert_eq!(code, Some(3), "{text}");
    old.set_nonblocking(true).unwrap();
    let _agent = UnixStream::connect(place.socket()).unwrap();
    assert!(old.accept().is_ok(), "the socket isn't the old one's");
}

#[test]
fn before_a_state_the_generation_is_null() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let hello = dataplane.agent().ask(json!({"op": "hello"}));
    assert_eq!(hello["ok"], true);
    assert_eq!(hello["protocol"], 1);
    assert_eq!(hello["generation"], Value::Null);
    assert_eq!(hello["pid"], dataplane.process.id());
}

#[test]
fn applying_the_same_state_again_changes_nothing() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let (mut agent, state) = (dataplane.agent(), state(free_port()));

    let first = agent.apply(4, &state);
    let second = agent.apply(5, &state);

    assert_eq!(
        (&first["ok"], &first["changed"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        (&second["ok"], &second["changed"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(agent.ask(json!({"op": "hello"}))["generation"], 5);
}

#[test]
fn of_a_state_that_is_refused_nothing_is_applied() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let mut agent = dataplane.agent();
    let port = free_port();
    let mut bad_key = state(port);
    bad_key["node"]["private_key"] = "c2hvcnQ=".into();
    let mut no_tap = state(port);
    no_tap["vsubnets"] = json!([{"vni": 7, "tap": "cairn-absent"}]);
    let mut bad_vni = state(port);
    bad_vni["vsubnets"] = json!([{"vni": "seven", "tap": "cairn7"}]);

    for (state, code) in [
        (bad_key, "bad_key"),
        (no_tap, "tap_missing"),
        (bad_vni, "bad_state"),
        (json!([]), "bad_state"),
    ] {
        let answer = agent.apply(9, &state);
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(
            answer["error"]["message"]
                .as_str()
                .is_some_and(|text| text.len() > 20)
        );
    }
    assert_eq!(agent.ask(json!({"op": "hello"}))["generation"], Value::Null);
    UdpSocket::bind(("0.0.0.0", port)).expect("the port was not kept");
}

#[test]
fn a_gate_that_is_not_there_and_a_peer_that_is_not_known_are_refused() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let mut agent = dataplane.agent();
    agent.apply(1, &state(free_port()));

    let gate = json!({"op": "gate", "vni": 7, "term": 1, "forward_until_ns": 1});
    assert_eq!(agent.ask(gate)["error"]["code"], "no_gateway");
    let forget = json!({"op": "forget", "vni": 7, "peer": NODE});
    assert_eq!(agent.ask(forget)["error"]["code"], "unknown_peer");
}

#[test]
fn a_port_in_use_is_named_with_its_remedy() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let port = free_port();
    let other = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    let mut agent = dataplane.agent();

    let refused = agent.apply(1, &state(port));

    assert_eq!(refused["error"]["code"], "port_in_use");
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&port.to_string())
    );
    drop(other);
    // A program that another test starts has the socket too until its `exec`.
    let begun = Instant::now();
    let mut answer = agent.apply(1, &state(port));
    while answer["ok"] != true && begun.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(10));
        answer = agent.apply(1, &state(port));
    }
    assert_eq!(answer["ok"], true, "{answer}");
}

#[test]
fn a_line_that_is_no_request_is_answered_and_the_connection_stays() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let mut agent = dataplane.agent();
    agent.say("{\"id\": 3, \"op\"");
    assert_eq!(agent.hear()["error"]["code"], "bad_request");
    agent.say("{\"id\": 4, \"op\": \"fly\"}");
    let answer = agent.hear();
    assert_eq!(
        (&answer["id"], &answer["error"]["code"]),
        (&json!(4), &json!("unknown_op"))
    );
    let probe = json!({"op": "probe", "vni": 1, "peer": NODE});
    assert_eq!(agent.ask(probe)["error"]["code"], "unknown_peer");
    assert_eq!(agent.ask(json!({"op": "hello"}))["ok"], true);
}

#[test]
fn stats_and_subscription_work_without_a_state() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let mut agent = dataplane.agent();
    let stats = agent.ask(json!({"op": "stats"}));
    assert_eq!(
        (&stats["ok"], &stats["vsubnets"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(agent.ask(json!({"op": "subscribe"}))["ok"], true);
    assert_eq!(agent.ask(json!({"op": "underlay_changed"}))["ok"], true);
}

#[test]
fn the_agents_going_away_leaves_the_state_in_place() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    assert_eq!(dataplane.agent().apply(7, &state(free_port()))["ok"], true);
    assert_eq!(
        dataplane.agent().ask(json!({"op": "hello"}))["generation"],
        7
    );
}

#[test]
fn without_descriptors_to_spare_it_waits_and_goes_on() {
    let place = Place::new();
    // Enough for the start, its two sockets and a client or two.
    let limited = format!(
        "ulimit -n 17; exec {} --socket {}",
        env!("CARGO_BIN_EXE_cairn-dataplane"),
        place.socket().display()
    );
    let process = Command::new("sh")
        .args(["-c", &limited])
        .env("CAIRN_TEST_THREAD_PAIRS", "1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let dataplane = DataPlane {
        process,
        place: &place,
    };
    let mut crowd: Vec<Agent> = (0..12).map(|_| dataplane.agent()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let ticks = processor_ticks(dataplane.process.id());
    assert!(ticks < 20, "it is busy: {ticks}");
    assert_eq!(crowd[0].ask(json!({"op": "hello"}))["ok"], true);

    let mut last = crowd.pop().unwrap();
    crowd.clear();

    assert_eq!(last.ask(json!({"op": "hello"}))["ok"], true);
}

/// Hundredths of a second of processor time that a process has used.
fn processor_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let place = Place::new();
    let _dataplane = DataPlane::start(&place);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.socket()), 0o600);
    assert_eq!(mode(place.socket().parent().unwrap()), 0o755);
}

#[test]
fn the_socket_is_for_the_group_too_where_that_is_asked_for() {
    let place = Place::new();
    let _dataplane = DataPlane::start_with(&place, &["--group-access"]);
    let mode = fs::metadata(place.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

/// What a process of another user of the group `group` is answered; it needs root.
fn asked_by_another_user(place: &Place, group: &str) -> String {
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect({:?}); \
         s.send(b'{{\"id\":1,\"op\":\"hello\"}}\\n'); print(s.recv(4096).decode())",
        place.socket()
    );
    let user = [
        "--reuid=65534",
        "--clear-groups",
        "--regid",
        group,
        "/usr/bin/python3",
        "-c",
    ];
    let output = Command::new("setpriv")
        .args(user)
        .arg(script)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn another_user_is_answered_where_the_group_has_access_and_is_its_own() {
    if cairn_device::local::own().uid != 0 {
        eprintln!("not run: needs root");
        return;
    }
    for (arguments, group, is_answered) in [
        (&["--group-access"][..], "0", true),
        (&["--group-access"][..], "65534", false),
        (&[][..], "0", false),
    ] {
        let place = Place::new();
        let _dataplane = DataPlane::start_with(&place, arguments);
        let text = asked_by_another_user(&place, group);
        assert_eq!(
            text.contains("generation"),
            is_answered,
            "{arguments:?} {group}: {text}"
        );
    }
}

#[test]
fn once_it_runs_it_has_no_capability_and_most_calls_are_forbidden() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    dataplane.agent().ask(json!({"op": "hello"}));
    let status = fs::read_to_string(format!("/proc/{}/status", dataplane.process.id())).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    // CAP_IPC_LOCK stays where the limit of locked memory can't be lifted, as in a container.
    let effective = u64::from_str_radix(&value("CapEff:"), 16).unwrap();
    assert_eq!(effective & !(1 << 14), 0, "{status}");
    assert_eq!(value("CapPrm:"), value("CapEff:"));
    assert_eq!(
        (value("NoNewPrivs:"), value("Seccomp:")),
        ("1".into(), "2".into())
    );
}

#[test]
fn a_second_process_at_the_same_socket_is_refused() {
    let place = Place::new();
    let first = DataPlane::start(&place);
    let (code, text) = ended(spawn(&place, &[]));
    assert_eq!(code, Some(6), "{text}");
    assert!(
        text.contains("error: another data plane is running"),
        "{text}"
    );
    assert!(text.contains("what to do:"), "{text}");
    assert_eq!(first.agent().ask(json!({"op": "hello"}))["ok"], true);
}

#[test]
fn a_socket_that_a_dead_process_left_is_replaced() {
    let place = Place::new();
    let mut first = DataPlane::start(&place);
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    assert!(place.socket().exists());
    let second = DataPlane::start(&place);
    assert_eq!(second.agent().ask(json!({"op": "hello"}))["ok"], true);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let place = Place::new();
    fs::create_dir_all(place.socket().parent().unwrap()).unwrap();
    fs::write(place.socket(), "precious").unwrap();
    let (code, text) = ended(spawn(&place, &[]));
    assert_eq!(code, Some(6), "{text}");
    assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
}

#[test]
fn a_signal_ends_it_with_zero_and_without_its_socket() {
    for signal in ["TERM", "INT"] {
        let place = Place::new();
        let mut dataplane = DataPlane::start(&place);
        let pid = dataplane.process.id().to_string();
        Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status()
            .unwrap();
        assert_eq!(exit_code(&mut dataplane.process), Some(0));
        assert!(!place.socket().exists());
    }
}

#[test]
fn no_secret_is_ever_logged() {
    let place = Place::new();
    let mut dataplane = DataPlane::start(&place);
    let mut state = state(free_port());
    dataplane.agent().apply(1, &state);
    state["node"]["private_key"] = format!("{KEY}broken").into();
    dataplane.agent().apply(2, &state);
    dataplane.agent().say(&format!(
        "{{\"op\": \"apply\", \"state\": {{\"k\": \"{KEY}\""
    ));
    dataplane.process.kill().unwrap();
    let mut log = String::new();
    dataplane
        .process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(log.contains("state applied"), "{log}");
    assert!(!log.contains(&KEY[..12]), "{log}");
}

#[test]
fn a_successor_takes_state_and_port_over() {
    let place = Place::new();
    let mut old = DataPlane::start(&place);
    let port = free_port();
    assert_eq!(old.agent().apply(12, &state(port))["ok"], true);
    let instance = old.agent().ask(json!({"op": "hello"}))["instance"].clone();

    let new = DataPlane {
        process: spawn(&place, &["--take-over"]),
        place: &place,
    };

    assert_eq!(exit_code(&mut old.process), Some(0));
    let hello = new.agent().ask(json!({"op": "hello"}));
    assert_eq!(hello["generation"], 12);
    assert_eq!(hello["pid"], new.process.id());
    assert_ne!(hello["instance"], instance);
    UdpSocket::bind(("0.0.0.0", port)).expect_err("the successor has the port");
    let again = new.agent().apply(12, &state(port));
    assert_eq!(
        (&again["ok"], &again["changed"]),
        (&json!(true), &json!(false))
    );
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let place = Place::new();
    let dataplane = DataPlane::start(&place);
    let port = free_port();
    dataplane.agent().apply(3, &state(port));
    let mut successor = dataplane.agent();
    let handed_over = successor.ask(json!({"op": "takeover"}));
    assert_eq!(handed_over["state"], state(port));
    let busy = dataplane.agent().ask(json!({"op": "hello"}));
    assert_eq!(busy["error"]["code"], "handing_over");

    drop(successor);

    let deadline = Instant::now() + PATIENCE;
    while dataplane.agent().ask(json!({"op": "hello"}))["ok"] != true {
        assert!(Instant::now() < deadline, "it goes on");
    }
    assert_eq!(
        dataplane.agent().ask(json!({"op": "hello"}))["generation"],
        3
    );
    assert_eq!(
        dataplane.agent().ask(json!({"op": "taken"}))["error"]["code"],
        "bad_request"
    );
}

#[test]
fn taking_over_from_nobody_says_so() {
    let place = Place::new();
    let (code, text) = ended(spawn(&place, &["--take-over"]));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("no data plane answers"), "{text}");
}

#[test]
fn bad_usage_is_told_with_a_remedy() {
    let output = Command::new(env!("CARGO_BIN_EXE_cairn-dataplane"))
        .arg("--fast")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("error: unknown argument") && text.contains("what to do:"),
        "{text}"
    );
}

// What the tests need.

/// A directory of a test's own.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cairn-control-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("run").join("dataplane.sock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _may_not_exist = fs::remove_dir_all(&self.0);
    }
}

struct DataPlane<'a> {
    process: Child,
    place: &'a Place,
}

impl<'a> DataPlane<'a> {
    /// Starts it and waits until it listens.
    fn start(place: &'a Place) -> Self {
        Self::start_with(place, &[])
    }

    fn start_with(place: &'a Place, arguments: &[&str]) -> Self {
        let dataplane = Self {
            process: spawn(place, arguments),
            place,
        };
        dataplane.agent();
        dataplane
    }

    /// Connects; waits until the process listens.
    fn agent(&self) -> Agent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.place.socket()) {
                Ok(stream) => return Agent::new(stream),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for DataPlane<'_> {
    fn drop(&mut self) {
        let _may_have_ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

struct Agent {
    lines: BufReader<UnixStream>,
    last_id: u64,
}

impl Agent {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            lines: BufReader::new(stream),
            last_id: 100,
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.lines.get_mut(), "{line}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, mut request: Value) -> Value {
        self.last_id += 1;
        request["id"] = self.last_id.into();
        self.say(&request.to_string());
        let answer = self.hear();
        assert!(answer["id"] == self.last_id, "{answer}");
        answer
    }

    fn apply(&mut self, generation: u64, state: &Value) -> Value {
        self.ask(json!({"op": "apply", "generation": generation, "state": state}))
    }
}

fn spawn(place: &Place, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_cairn-dataplane"))
        .arg("--socket")
        .arg(place.socket())
        .args(arguments)
        .env("CAIRN_DATAPLANE_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn exit_code(process: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    panic!("it doesn't end");
}

fn ended(mut process: Child) -> (Option<i32>, String) {
    let code = exit_code(&mut process);
    let mut text = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (code, text)
}

/// A port of this test alone: below the kernel's ephemeral ones, from which a test beside this one
/// could be given a port between our look and its use.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        if UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

fn state(port: u16) -> Value {
    json!({
        "cluster_id": NODE,
        "node": {"id": NODE, "private_key": KEY},
        "port": port,
        "revision": 1,
        "vsubnets": [],
    })
}
