//! Why the process ends: a cause, a remedy and an exit code.

use std::fmt;
use std::process::ExitCode;

/// An end that the user must be told of.
#[derive(Debug)]
pub struct Failure {
    cause: String,
    remedy: String,
    code: u8,
}

impl Failure {
    /// A bug, or a part of the process that died.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::new(
            1,
            cause,
            "the supervisor starts it again; report it if it happens twice",
        )
    }

    /// Bad usage or input.
    pub fn usage(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(2, cause, remedy)
    }

    /// The other process can't be reached.
    pub fn unreachable(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(3, cause, remedy)
    }

    /// The environment lacks something.
    pub fn environment(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(6, cause, remedy)
    }

    fn new(code: u8, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            remedy: remedy.into(),
            code,
        }
    }

    /// The number that the process ends with.
    pub fn exit_code(&self) -> u8 {
        self.code
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        failure.code.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "error: {}\n  what to do: {}", self.cause, self.remedy)
    }
}
