//! TAP, UDP, clock and entropy: all system calls and all unsafe.
