//! The bounded queue from the packet threads to the thread that owns the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cairn_device::readiness::EventFd;
use cairn_engine::{Message, SlowPath};

/// Twice what turns the cookie on (rule 2), so that a flood is noticed before the queue is full.
const LONGEST: usize = 1_024;

struct Bell {
    ready: EventFd,
    rung: AtomicBool,
    waiting: AtomicUsize,
}

/// The end of a packet thread.
#[derive(Clone)]
pub struct Submit {
    queue: SyncSender<Message>,
    bell: Arc<Bell>,
}

/// The end of the thread that owns the core.
pub struct Collect {
    queue: Receiver<Message>,
    bell: Arc<Bell>,
}

/// Makes a queue.
pub fn queue() -> std::io::Result<(Submit, Collect)> {
    let (sender, receiver) = sync_channel(LONGEST);
    let bell = Arc::new(Bell {
        ready: EventFd::new()?,
        rung: AtomicBool::new(false),
        waiting: AtomicUsize::new(0),
    });
    let submit = Submit {
        queue: sender,
        bell: Arc::clone(&bell),
    };
    Ok((
        submit,
        Collect {
            queue: receiver,
            bell,
        },
    ))
}

impl Submit {
    /// Wakes the owner of the core without a message.
    pub fn ring(&self) {
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            self.bell.ready.signal();
        }
    }
}

impl SlowPath for Submit {
    fn submit(&mut self, message: Message) -> bool {
        // Counted first, so that the other end never takes off what wasn't added.
        self.bell.waiting.fetch_add(1, Ordering::AcqRel);
        let taken = self.queue.try_send(message).is_ok();
        if taken {
            self.ring();
        } else {
            self.bell.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }
}

impl Collect {
    /// The descriptor that is readable while messages may wait.
    pub fn ready(&self) -> &EventFd {
        &self.bell.ready
    }

    /// To be called before taking, so that no message is left without a bell.
    pub fn silence(&self) {
        self.bell.ready.clear();
        // A swap: it orders what the last bell announced before what is taken now.
        self.bell.rung.swap(false, Ordering::AcqRel);
    }

    /// Rings again, because messages were left for the next round.
    pub fn ring(&self) {
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            self.bell.ready.signal();
        }
    }

    /// Takes the next message.
    pub fn take(&self) -> Option<Message> {
        let message = self.queue.try_recv().ok()?;
        self.bell.waiting.fetch_sub(1, Ordering::AcqRel);
        Some(message)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.bell.waiting.load(Ordering::Acquire)
    }
}
