//! One connection to the control socket: lines in, lines out, both bounded.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cairn_device::local;
use cairn_device::readiness::Interest;
use cairn_engine::Time;
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

/// The longest request (docs/protocol.md 2).
const LONGEST_LINE: usize = 64 << 20;

/// Octets of answers that a client may leave unread before it is cut off.
const MOST_UNREAD: usize = 64 << 20;

/// With more unread than this, a subscriber gets no further events: they wait in its queue.
const UNREAD_WITH_EVENTS: usize = 256 << 10;

/// Events that wait for a subscriber; later ones are counted as lost.
const MOST_EVENTS: usize = 1_024;

/// At most ten lines of events a second.
const BETWEEN_LINES: Duration = Duration::from_millis(100);

/// Read at once.
const CHUNK: usize = 16 << 10;

/// Chunks read before the timers and the other clients have their turn.
const CHUNKS: usize = 64;

/// Why a connection ends.
#[derive(Debug)]
pub enum Gone {
    /// The other end closed it.
    Closed,
    /// It failed, or broke a limit.
    Broken(String),
}

impl fmt::Display for Gone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => out.write_str("it was closed"),
            Self::Broken(cause) => out.write_str(cause),
        }
    }
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A connected client.
pub struct Client {
    stream: UnixStream,
    input: Zeroizing<Vec<u8>>,
    output: Zeroizing<Vec<u8>>,
    /// Octets of `output` that were sent already.
    sent: usize,
    subscription: Option<Subscription>,
}

#[derive(Default)]
struct Subscription {
    events: VecDeque<Value>,
    lost: u64,
    next_line: Time,
}

impl Client {
    /// Takes a connection.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Zeroizing::default(),
            output: Zeroizing::default(),
            sent: 0,
            subscription: None,
        })
    }

    /// What to wait for.
    pub fn interest(&self) -> Interest {
        Interest {
            read: true,
            write: self.unread() > 0,
        }
    }

    fn unread(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Reads what has come, as much as is fair, and returns the whole lines of it.
    pub fn read(&mut self) -> Result<Vec<Zeroizing<Vec<u8>>>, Gone> {
        let mut lines = Vec::new();
        let mut chunk = Zeroizing::new([0; CHUNK]);
        for _ in 0..CHUNKS {
            match self.stream.read(&mut chunk[..]) {
                Ok(0) if lines.is_empty() => return Err(Gone::Closed),
                // The lines have their answer first; the next read finds the end again.
                Ok(0) => return Ok(lines),
                Ok(length) => self.take(&chunk[..length], &mut lines)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lines)
    }

    fn take(&mut self, mut octets: &[u8], lines: &mut Vec<Zeroizing<Vec<u8>>>) -> Result<(), Gone> {
        while let Some(end) = octets.iter().position(|&octet| octet == b'\n') {
            append(&mut self.input, &octets[..end]);
            lines.push(std::mem::take(&mut self.input));
            octets = &octets[end + 1..];
        }
        append(&mut self.input, octets);
        if self.input.len() > LONGEST_LINE {
            return Err(Gone::Broken("a line is longer than 64 MiB".into()));
        }
        Ok(())
    }

    /// Queues a line and sends what the socket takes.
    pub fn say(&mut self, line: &Value) -> Result<(), Gone> {
        let mut text = line.to_string();
        text.push('\n');
        self.say_raw(text.as_bytes())?;
        text.zeroize();
        Ok(())
    }

    /// As [`Self::say`], for a line that is written already.
    pub fn say_raw(&mut self, octets: &[u8]) -> Result<(), Gone> {
        if self.unread() + octets.len() > MOST_UNREAD {
            return Err(Gone::Broken("it doesn't read its answers".into()));
        }
        append(&mut self.output, octets);
        self.send()
    }

    /// Sends a line with descriptors attached to its first octet.
    pub fn say_with_descriptors(
        &mut self,
        line: &Zeroizing<Vec<u8>>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Gone> {
        if self.unread() > 0 {
            return Err(Gone::Broken(
                "it asked for a take-over and reads no answers".into(),
            ));
        }
        let taken = local::send_with_descriptors(&self.stream, line, descriptors)?;
        self.say_raw(&line[taken..])
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn send(&mut self) -> Result<(), Gone> {
        while self.unread() > 0 {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The buffer is given back: answers are rare, and stats of many peers are large.
        self.output = Zeroizing::default();
        self.sent = 0;
        Ok(())
    }

    /// Makes a subscriber of it.
    pub fn subscribe(&mut self) {
        self.subscription.get_or_insert_default();
    }

    /// Queues an event if it subscribed, or counts it as lost.
    pub fn notify(&mut self, event: &Value) {
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        if subscription.events.len() == MOST_EVENTS {
            subscription.lost += 1;
        } else {
            subscription.events.push_back(event.clone());
        }
    }

    /// Sends a line of events if one is due.
    pub fn send_events(&mut self, now: Time) -> Result<(), Gone> {
        if self.unread() > UNREAD_WITH_EVENTS {
            return Ok(());
        }
        let Some(subscription) = self.subscription.as_mut().filter(|s| s.is_due(now)) else {
            return Ok(());
        };
        let line = subscription.take_line(now);
        self.say(&line)
    }

    /// When [`Self::send_events`] has something to do, unless the client doesn't read.
    pub fn next_events(&self) -> Option<Time> {
        let subscription = self.subscription.as_ref()?;
        let waiting = !subscription.is_empty() && self.unread() <= UNREAD_WITH_EVENTS;
        waiting.then_some(subscription.next_line)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Subscription {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.lost == 0
    }

    fn is_due(&self, now: Time) -> bool {
        !self.is_empty() && now >= self.next_line
    }

    fn take_line(&mut self, now: Time) -> Value {
        self.next_line = now + BETWEEN_LINES;
        let mut line = json!({ "events": self.events.drain(..).collect::<Vec<_>>() });
        if self.lost > 0 {
            line["lost"] = std::mem::take(&mut self.lost).into();
        }
        line
    }
}

/// Appends without leaving a copy of what was there: growing a `Vec` frees the old memory as it is.
fn append(buffer: &mut Zeroizing<Vec<u8>>, octets: &[u8]) {
    let wanted = buffer.len() + octets.len();
    if wanted > buffer.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(wanted.next_power_of_two()));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(ours).unwrap(), theirs)
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let (mut client, mut agent) = pair();
        agent.write_all(b"{\"a\"").unwrap();
        assert!(client.read().unwrap().is_empty());
        agent.write_all(b":1}\nsecond\nthi").unwrap();
        let lines: Vec<Vec<u8>> = client.read().unwrap().iter().map(|l| l.to_vec()).collect();
        assert_eq!(lines, [b"{\"a\":1}".to_vec(), b"second".to_vec()]);
    }

    #[test]
    fn what_was_sent_before_the_end_is_still_read() {
        let (mut client, mut agent) = pair();
        agent.write_all(b"last\n").unwrap();
        drop(agent);
        assert_eq!(client.read().unwrap().len(), 1);
        assert!(matches!(client.read(), Err(Gone::Closed)));
    }

    #[test]
    fn a_slow_subscriber_loses_events_and_is_told_how_many() {
        let (mut client, agent) = pair();
        client.subscribe();
        for n in 0..MOST_EVENTS + 5 {
            client.notify(&json!({ "n": n }));
        }
        client.send_events(Time::from_millis(1)).unwrap();

        let line = first_line(&agent);

        assert_eq!(line["events"].as_array().unwrap().len(), MOST_EVENTS);
        assert_eq!(line["lost"], 5);
    }

    #[test]
    fn events_come_in_at_most_ten_lines_a_second() {
        let (mut client, _agent) = pair();
        client.subscribe();
        let start = Time::from_millis(1_000);
        client.notify(&json!({}));
        client.send_events(start).unwrap();
        client.notify(&json!({}));
        assert_eq!(
            client.next_events(),
            Some(start + Duration::from_millis(100))
        );
        client
            .send_events(start + Duration::from_millis(99))
            .unwrap();
        assert!(client.next_events().is_some(), "still waiting");
        client
            .send_events(start + Duration::from_millis(100))
            .unwrap();
        assert_eq!(client.next_events(), None);
    }

    #[test]
    fn a_subscriber_that_reads_nothing_never_blocks_and_never_grows() {
        let (mut client, _agent) = pair();
        client.subscribe();
        for second in 0..2_000 {
            for _ in 0..100 {
                client.notify(&json!({ "what": "an event of a hundred octets or so".repeat(3) }));
            }
            client
                .send_events(Time::from_millis(second * 1_000))
                .unwrap();
        }
        assert!(client.unread() < 2 * UNREAD_WITH_EVENTS);
        assert_eq!(client.next_events(), None);
    }

    fn first_line(agent: &UnixStream) -> Value {
        use std::io::{BufRead, BufReader};
        let mut text = String::new();
        BufReader::new(agent).read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}
