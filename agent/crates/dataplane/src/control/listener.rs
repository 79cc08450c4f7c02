//! The control socket's place in the file system.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Who may connect, beside root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This process's user.
    User,
    /// Its group too: the agent is of another user then.
    Group,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::User => 0o600,
            Self::Group => 0o660,
        }
    }
}

/// A bound control socket; its file goes with it, unless a successor has replaced it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    access: Access,
}

impl Listener {
    /// Binds where no other process listens; a file that one left behind is replaced.
    pub fn bind(path: &Path, access: Access) -> Result<Self, Failure> {
        if let Some(cause) = occupied(path) {
            return Err(cause);
        }
        Self::replace(path, access)
    }

    /// Binds in the place of a process that is about to end.
    ///
    /// The file appears under its name with its final mode: there is no moment at
    /// which another user could connect.
    pub fn replace(path: &Path, access: Access) -> Result<Self, Failure> {
        Self::place(path, access).map_err(|error| {
            Failure::environment(
                format!(
                    "the control socket {} can't be made: {error}",
                    path.display()
                ),
                "use --socket with a path of at most 90 octets in a directory that you may write",
            )
        })
    }

    fn place(path: &Path, access: Access) -> io::Result<Self> {
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)?;
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{}", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        remove_if_there(&unfinished)?;
        let listener = UnixListener::bind(&unfinished)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(access.mode()))?;
        let inode = fs::metadata(&unfinished)?.ino();
        fs::rename(&unfinished, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
            access,
        })
    }

    /// Who may connect.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Takes the next connection, if one waits.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours {
            // Where it can't be removed the next start finds it stale and replaces it.
            let _stale = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn occupied(path: &Path) -> Option<Failure> {
    let file = fs::symlink_metadata(path).ok()?;
    if !file.file_type().is_socket() {
        return Some(Failure::environment(
            format!("{} exists and is no socket", path.display()),
            "remove it, or use --socket with another path",
        ));
    }
    UnixStream::connect(path).ok()?;
    Some(Failure::environment(
        format!("another data plane is running at {}", path.display()),
        "stop it, replace it with --take-over, or use --socket with another path",
    ))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
