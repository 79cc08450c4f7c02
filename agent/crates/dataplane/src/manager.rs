//! What the service manager is told (sd_notify(3)): that we work, and under which number.
//!
//! A successor is started beside the old process, and by its own word becomes the service's main
//! process before the old one ends: the manager sees no end of the service.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::log;

/// Says that this process is ready and is the service; a no-op where nobody manages it.
pub fn tell_ready() {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
        return;
    };
    let octets = place.as_bytes();
    let address = match octets.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&place),
    };
    let text = format!("READY=1\nMAINPID={}\n", std::process::id());
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = told {
        log::warn("the service manager wasn't told", &[("cause", &error)]);
    }
}
