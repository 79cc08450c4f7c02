//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::failure::Failure;

/// What the process was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Carry packets.
    Run {
        /// The control socket.
        socket: PathBuf,
        /// Take sockets and TAPs over from the process that is running there.
        take_over: bool,
        /// Whether the process's group may use the control socket.
        group_access: bool,
    },
    /// Print the version.
    Version,
    /// Print how to use it.
    Help,
}

/// Where the agent looks for us.
const DEFAULT_SOCKET: &str = "/run/cairn/dataplane.sock";

/// What `--help` prints.
pub const USAGE: &str = "\
cairn-dataplane: the packet process of a Cairn node

usage: cairn-dataplane [--socket PATH] [--group-access] [--take-over]

  --socket PATH   control socket (default /run/cairn/dataplane.sock)
  --group-access  let this process's group use the control socket, not its user only
  --take-over     take sockets and TAPs over from the process running at PATH
  --version       print the version
  --help          print this

environment: CAIRN_DATAPLANE_LOG=info|debug
All else comes from cairn-agent by the control socket.
";

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, Failure> {
    let mut arguments = arguments.into_iter();
    let mut socket = PathBuf::from(DEFAULT_SOCKET);
    let mut take_over = false;
    let mut group_access = false;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--socket") => {
                let path = arguments.next().filter(|path| !path.is_empty());
                socket = path
                    .ok_or_else(|| usage("--socket wants a path".into()))?
                    .into();
            }
            Some("--take-over") => take_over = true,
            Some("--group-access") => group_access = true,
            Some("--version") => return Ok(Arguments::Version),
            Some("--help" | "-h") => return Ok(Arguments::Help),
            _ => return Err(usage(format!("unknown argument {argument:?}"))),
        }
    }
    Ok(Arguments::Run {
        socket,
        take_over,
        group_access,
    })
}

fn usage(cause: String) -> Failure {
    Failure::usage(cause, "see cairn-dataplane --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Arguments, Failure> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_socket_has_a_default() {
        let run = Arguments::Run {
            socket: DEFAULT_SOCKET.into(),
            take_over: false,
            group_access: false,
        };
        assert_eq!(parsed(&[]).unwrap(), run);
        let run = Arguments::Run {
            socket: "/tmp/x".into(),
            take_over: true,
            group_access: true,
        };
        let given = ["--take-over", "--group-access", "--socket", "/tmp/x"];
        assert_eq!(parsed(&given).unwrap(), run);
    }

    #[test]
    fn an_argument_that_is_unknown_or_cut_short_is_bad_usage() {
        for arguments in [&["--socket"][..], &["--sokcet", "x"], &["x"]] {
            assert_eq!(
                parsed(arguments).unwrap_err().exit_code(),
                2,
                "{arguments:?}"
            );
        }
    }
}
