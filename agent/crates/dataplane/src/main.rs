//! `cairn-dataplane`: the packet process of a Cairn node.
//!
//! Two packet threads and one that owns the protocol's core and the control
//! socket. It keeps its TAPs and sessions when the agent goes away.
#![forbid(unsafe_code)]

mod arguments;
mod control;
mod desired;
mod failure;
mod lanes;
mod log;
mod manager;
mod offloads;
mod outbox;
mod plumbing;
mod refusal;
mod slow;
mod wiring;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use arguments::Arguments;
use cairn_device::signals::EndSignals;
use cairn_device::udp::Spare;
use cairn_device::{confine, process};
use control::{Access, Control, Listener};
use failure::Failure;

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.into()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::Version => print(concat!("cairn-dataplane ", env!("CARGO_PKG_VERSION"), "\n")),
        Arguments::Help => print(arguments::USAGE),
        Arguments::Run {
            socket,
            take_over,
            group_access,
        } => {
            let access = if group_access {
                Access::Group
            } else {
                Access::User
            };
            serve(&socket, take_over, access)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::environment(format!("stdout: {error}"), "give it an open stdout"))
}

fn serve(socket: &Path, take_over: bool, access: Access) -> Result<(), Failure> {
    log::set_level(std::env::var("CAIRN_DATAPLANE_LOG").ok().as_deref());
    std::panic::set_hook(Box::new(|panic| die(&format!("bug: {panic}"))));
    let signals = EndSignals::new()
        .map_err(|error| Failure::internal(format!("signals can't be read: {error}")))?;
    let mut hardening = process::harden();
    let spare = Spare::prepare(lanes::pairs());
    let listener = if take_over {
        None
    } else {
        Some(Listener::bind(socket, access)?)
    };
    // Before there is a second thread: what a thread may do is inherited, and not taken back.
    let keep_lock = hardening.lock_needs_capability;
    hardening.missing.extend(confine::confine(keep_lock));
    for missing in &hardening.missing {
        log::warn("degraded", &[("what", &"hardening"), ("reason", missing)]);
    }
    let mut control = Control::new(signals, hardening, spare)?;
    match listener {
        Some(listener) => control.listen(listener)?,
        None => control::take_over(&mut control, socket, access)?,
    }
    log::info(
        "ready",
        &[("socket", &socket.display()), ("pid", &std::process::id())],
    );
    manager::tell_ready();
    control.run()
}

/// Ends the process because a part of it died: half a data plane is none.
///
/// TAPs are persistent and a socket file that stays is replaced at the next start.
pub(crate) fn die(cause: &str) -> ! {
    let failure = Failure::internal(cause.replace(['\n', '\r'], " "));
    eprintln!("{failure}");
    std::process::exit(failure.exit_code().into())
}
