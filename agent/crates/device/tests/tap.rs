//! Real TAP devices. Each test runs again by itself in a network namespace of its
//! own, where nothing else sends; without root or /dev/net/tun it says that it didn't run.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cairn_device::readiness::{Epoll, Interest};
use cairn_device::tap::{
    FrameBatch, OutgoingFrame, Tap, TapError, TapQueue, VnetHeader, Written, frame_batch,
};

const INSIDE: &str = "CAIRN_TEST_INSIDE_NAMESPACE";

#[test]
fn frames_pass_in_both_directions() {
    inside("frames_pass_in_both_directions", || {
        ip("tuntap add dev t0 mode tap vnet_hdr multi_queue");
        ip("link set t0 address 02:00:00:00:00:01 up");
        ip("addr add 192.0.2.1/24 dev t0");
        let tap = Tap::attach("t0").unwrap();
        assert_eq!(tap.name(), "t0");

        // The host answers an ARP request: one frame in, one frame out.
        let ask = || {
            let written = tap.write(&[plain(&[&arp_request()])]);
            assert_eq!(written.frames, 1);
        };
        let reply = wait_for_frame(&tap, ask, |frame| frame[12..14] == [0x08, 0x06]);

        assert_eq!(reply[..6], [2, 0, 0, 0, 0, 9], "to the one that asked");
        assert_eq!(
            reply[6..12],
            [2, 0, 0, 0, 0, 1],
            "not shifted by the header"
        );
        assert_eq!(reply[20..22], [0, 2], "a reply");
    });
}

#[test]
fn what_was_attached_to_can_have_one_queue_or_many() {
    inside("what_was_attached_to_can_have_one_queue_or_many", || {
        ip("tuntap add dev q1 mode tap vnet_hdr");
        ip("tuntap add dev qn mode tap vnet_hdr multi_queue");
        let first = Tap::attach("q1").unwrap();
        assert!(matches!(Tap::attach("q1"), Err(TapError::Busy(_))));
        drop(first);
        Tap::attach("q1").unwrap();
        let _both = [Tap::attach("qn").unwrap(), Tap::attach("qn").unwrap()];
    });
}

#[test]
fn a_device_of_another_kind_is_refused() {
    inside("a_device_of_another_kind_is_refused", || {
        ip("tuntap add dev l3 mode tun");
        ip("link add d0 type bridge");
        for name in ["l3", "d0"] {
            let error = Tap::attach(name).unwrap_err();
            assert!(
                matches!(error, TapError::WrongKind(..)),
                "{name}: {error:?}"
            );
        }
    });
}

#[test]
fn frames_for_a_device_that_is_down_are_counted() {
    inside("frames_for_a_device_that_is_down_are_counted", || {
        ip("tuntap add dev t0 mode tap vnet_hdr multi_queue");
        let tap = Tap::attach("t0").unwrap();
        let down = tap.write(&[plain(&[&arp_request()])]);
        assert_eq!(
            down,
            Written {
                unavailable: 1,
                ..Written::default()
            }
        );
        ip("link set t0 up");
        let short = tap.write(&[plain(&[&[0; 13]]), plain(&[&arp_request()])]);
        assert_eq!(
            short,
            Written {
                frames: 1,
                refused: 1,
                ..Written::default()
            }
        );
    });
}

#[test]
fn a_device_that_is_deleted_ends_the_queue() {
    inside("a_device_that_is_deleted_ends_the_queue", || {
        ip("tuntap add dev t0 mode tap vnet_hdr multi_queue");
        let tap = Tap::attach("t0").unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(tap.readiness(), 1, Interest::READ).unwrap();

        ip("link del t0");

        let mut ready = Vec::new();
        epoll
            .wait(&mut ready, Some(Duration::from_secs(5)))
            .unwrap();
        assert!(ready.iter().any(|one| one.readable), "the reader is woken");
        assert!(tap.read(&mut frame_batch(1)).is_err());
    });
}

#[test]
fn a_queue_can_be_taken_over() {
    inside("a_queue_can_be_taken_over", || {
        use std::os::fd::AsFd;
        ip("tuntap add dev t0 mode tap vnet_hdr");
        let first = Tap::attach("t0").unwrap();
        let second = Tap::from_descriptor(first.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(second.name(), "t0");
        let not_a_tap = std::fs::File::open("/dev/null").unwrap();
        assert!(Tap::from_descriptor(not_a_tap.into()).is_err());
    });
}

#[test]
fn a_frame_longer_than_the_mtu_is_read_whole() {
    inside("a_frame_longer_than_the_mtu_is_read_whole", || {
        ip("tuntap add dev t0 mode tap vnet_hdr");
        ip("link set t0 mtu 9000 up");
        ip("addr add 192.0.2.1/24 dev t0");
        ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev t0");
        let tap = Tap::attach("t0").unwrap();
        let sender = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        let send = || assert_eq!(sender.send_to(&[7; 8900], "192.0.2.9:9").unwrap(), 8900);
        let frame = wait_for_frame(&tap, send, |frame| frame.len() > 8900);
        assert_eq!(frame.len(), 14 + 20 + 8 + 8900);
    });
}

/// Runs `test` in a new network namespace, by way of this binary itself.
fn inside(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if let Some(reason) = missing() {
        eprintln!("NOT RUN: {name}: {reason}");
        return;
    }
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{text}"
    );
}

fn missing() -> Option<String> {
    if cairn_device::local::own().uid != 0 {
        Some("not root".to_owned())
    } else if let Err(error) = std::fs::File::open("/dev/net/tun") {
        Some(format!("/dev/net/tun: {error}"))
    } else {
        let tried = Command::new("unshare")
            .args(["--net", "ip", "link"])
            .output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {text}");
}

fn plain<'a>(parts: &'a [&'a [u8]]) -> OutgoingFrame<'a> {
    OutgoingFrame {
        header: VnetHeader::default(),
        parts,
    }
}

/// 192.0.2.9 at 02:..:09 asks for 192.0.2.1.
fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x08, 0x06]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 9, 192, 0, 2, 9]);
    frame.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    frame
}

/// Pokes the host until it sends what is meant. It sends of its own, too (router
/// solicitations...), and nothing before it has noticed that the device has a carrier.
fn wait_for_frame(tap: &Tap, poke: impl Fn(), wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut batch: FrameBatch = frame_batch(8);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        poke();
        sleep(Duration::from_millis(5));
        batch.clear();
        tap.read(&mut batch).unwrap();
        for mut filled in batch.filled() {
            assert!(filled.meta.is_plain(), "no offload was asked for");
            if wanted(filled.content()) {
                return filled.content().to_vec();
            }
        }
    }
    panic!("the frame didn't come");
}
