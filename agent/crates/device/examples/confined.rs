//! Confines itself and then does what it is told to; crates/device/tests/confine.rs looks how
//! that ends.
#![allow(clippy::print_stdout, reason = "its output is what the test reads")]

use std::io::Read as _;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Command;

use cairn_device::confine::confine;

fn main() -> std::io::Result<()> {
    let asked = std::env::args().nth(1).unwrap_or_default();
    let missing = confine(false);
    assert!(missing.is_empty(), "{missing:?}");
    match asked.as_str() {
        "program" => Command::new("/bin/true").status().map(drop)?,
        "packet-socket" => raw_socket(libc::AF_PACKET),
        "netlink" => raw_socket(libc::AF_NETLINK),
        "ptrace" => call(libc::SYS_ptrace),
        "mount" => call(libc::SYS_mount),
        "kexec" => call(libc::SYS_kexec_load),
        "executable-memory" => executable_memory(),
        "allowed" => allowed()?,
        _ => std::process::exit(2),
    }
    println!("went on");
    Ok(())
}

fn call(number: libc::c_long) {
    // SAFETY: it doesn't get as far as looking at arguments.
    unsafe { libc::syscall(number, 0, 0, 0, 0, 0) };
}

fn raw_socket(family: libc::c_int) {
    // SAFETY: takes numbers.
    unsafe { libc::socket(family, libc::SOCK_RAW, 0) };
}

fn executable_memory() {
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping that nothing uses.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
}

/// What the data plane does while it runs, beside packets.
fn allowed() -> std::io::Result<()> {
    let thread = std::thread::spawn(|| vec![1_u8; 1 << 22].len());
    let _length = thread.join();
    UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:9")?;
    let _pair = UnixStream::connect("/nowhere").is_err();
    let mut status = String::new();
    std::fs::File::open("/proc/self/status")?.read_to_string(&mut status)?;
    let wanted = [
        "CapEff:",
        "CapPrm:",
        "CapInh:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
    ];
    for line in status
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
    {
        println!("{line}");
    }
    Ok(())
}
