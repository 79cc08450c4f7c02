//! One line per fact on stderr: a constant sentence, then `key=value`.
//!
//! Nothing per packet, no key, no content of frames.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Sets the level from the text of `CAIRN_DATAPLANE_LOG`; anything but `debug` is `info`.
pub fn set_level(text: Option<&str>) {
    DEBUG.store(text == Some("debug"), Ordering::Relaxed);
}

/// Whether debug lines are written.
pub fn is_debug() -> bool {
    DEBUG.load(Ordering::Relaxed)
}

/// A value of a line.
pub type Field<'a> = (&'a str, &'a dyn Display);

/// What an operator may want to know.
pub fn info(sentence: &str, fields: &[Field<'_>]) {
    write("info", sentence, fields);
}

/// What someone should look at.
pub fn warn(sentence: &str, fields: &[Field<'_>]) {
    write("warning", sentence, fields);
}

/// What helps to find a fault.
pub fn debug(sentence: &str, fields: &[Field<'_>]) {
    if is_debug() {
        write("debug", sentence, fields);
    }
}

fn write(level: &str, sentence: &str, fields: &[Field<'_>]) {
    let line = line(level, sentence, fields);
    // Where stderr is closed there is nobody to tell.
    let _nobody_listens = std::io::stderr().write_all(line.as_bytes());
}

fn line(level: &str, sentence: &str, fields: &[Field<'_>]) -> String {
    let mut line = format!("level={level} msg=");
    push_value(&mut line, sentence);
    for (key, value) in fields {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        push_value(&mut line, &value.to_string());
    }
    line.push('\n');
    line
}

/// Quotes what isn't one plain word, so that a line stays a line and a value a value.
fn push_value(line: &mut String, value: &str) {
    let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        line.push_str(value);
    } else {
        // Debug escapes quotes, line ends and control characters.
        let _never_fails = write!(line, "{value:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_not_end_the_line_or_start_a_field() {
        let line = line(
            "info",
            "peer seen",
            &[("name", &"a\nlevel=error x=\"1\""), ("n", &7)],
        );
        assert_eq!(
            line,
            "level=info msg=\"peer seen\" name=\"a\\nlevel=error x=\\\"1\\\"\" n=7\n"
        );
    }
}
