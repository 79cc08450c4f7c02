//! Buffers for a batch of frames or datagrams, allocated once.

/// Largest frame a TAP gives: 64 KiB of payload, Ethernet header, one VLAN tag,
/// rounded up. A read into less truncates without an error.
pub const FRAME_OCTETS: usize = 65_536 + 64;

/// Largest datagram, also the largest that `UDP_GRO` joins.
pub const DATAGRAM_OCTETS: usize = 65_536;

/// Slots of equal size with room before and after the content of each, so that
/// a header and a tag can be added in place.
///
/// The memory is zero pages until it is touched, so that large slots cost what
/// is used of them.
pub struct Batch<M> {
    storage: Box<[u8]>,
    slots: Vec<Slot<M>>,
    room: Room,
    filled: usize,
    limit: usize,
}

/// How a slot is divided.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Octets kept free before the content.
    pub before: usize,
    /// Largest content.
    pub content: usize,
    /// Octets kept free after the content.
    pub after: usize,
}

impl Room {
    const fn octets(self) -> usize {
        self.before + self.content + self.after
    }
}

#[derive(Clone, Copy)]
struct Slot<M> {
    length: usize,
    meta: M,
}

/// A filled slot: the whole of its memory, and where the content is in it.
pub struct Filled<'a, M> {
    /// `before` octets, then the content, then `after` octets and more.
    pub memory: &'a mut [u8],
    /// Where the content starts in `memory`.
    pub start: usize,
    /// Length of the content.
    pub length: usize,
    /// What came with it.
    pub meta: M,
}

impl<'a, M> Filled<'a, M> {
    /// Returns the content alone, for as long as the batch is borrowed.
    pub fn into_content(self) -> &'a mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// Returns the content alone.
    pub fn content(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl<M: Copy + Default> Batch<M> {
    /// Makes `slots` slots.
    pub fn new(slots: usize, room: Room) -> Self {
        Self {
            storage: vec![0; slots * room.octets()].into_boxed_slice(),
            slots: vec![
                Slot {
                    length: 0,
                    meta: M::default()
                };
                slots
            ],
            room,
            filled: 0,
            limit: slots,
        }
    }

    /// Forgets the content.
    pub fn clear(&mut self) {
        self.clear_for(self.slots.len());
    }

    /// Forgets the content; the batch is full with `at_most` slots, one at least.
    pub fn clear_for(&mut self, at_most: usize) {
        self.filled = 0;
        self.limit = at_most.clamp(1, self.slots.len());
    }

    /// How many slots hold content.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether no slot holds content.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether nothing more is to be filled.
    pub fn is_full(&self) -> bool {
        self.filled == self.limit
    }

    /// How many octets the filled slots hold.
    pub fn octets(&self) -> usize {
        self.slots[..self.filled]
            .iter()
            .map(|slot| slot.length)
            .sum()
    }

    /// How many slots are to be filled yet.
    pub fn left(&self) -> usize {
        self.limit - self.filled
    }

    /// Returns the content area of the slot at `index`, filled or not.
    pub(crate) fn area(&mut self, index: usize) -> &mut [u8] {
        let start = index * self.room.octets() + self.room.before;
        &mut self.storage[start..start + self.room.content]
    }

    /// Returns the content area of the next slot, with so many octets before it.
    pub(crate) fn next_area(&mut self, before: usize) -> &mut [u8] {
        let start = self.filled * self.room.octets() + self.room.before - before;
        &mut self.storage[start..start + before + self.room.content]
    }

    /// Returns the content areas of the slots that hold nothing yet, in order.
    pub(crate) fn free_areas(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let content = self.room.before..self.room.before + self.room.content;
        self.storage
            .chunks_exact_mut(self.room.octets())
            .skip(self.filled)
            .map(move |memory| &mut memory[content.clone()])
    }

    /// Declares the next slot to hold `length` octets of content.
    ///
    /// # Panics
    /// Where every slot is filled.
    pub(crate) fn fill(&mut self, length: usize, meta: M) {
        self.slots[self.filled] = Slot {
            length: length.min(self.room.content),
            meta,
        };
        self.filled += 1;
    }

    /// Returns the filled slots in order.
    pub fn filled(&mut self) -> impl Iterator<Item = Filled<'_, M>> {
        let start = self.room.before;
        self.storage
            .chunks_exact_mut(self.room.octets())
            .zip(&self.slots[..self.filled])
            .map(move |(memory, slot)| Filled {
                memory,
                start,
                length: slot.length,
                meta: slot.meta,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_room_on_both_sides() {
        let mut batch = Batch::<u8>::new(
            2,
            Room {
                before: 16,
                content: 100,
                after: 16,
            },
        );
        batch.area(0)[..3].copy_from_slice(b"abc");
        batch.fill(3, 7);

        let mut filled: Vec<_> = batch.filled().collect();

        assert_eq!(filled.len(), 1);
        assert_eq!(filled[0].content(), b"abc");
        assert_eq!(filled[0].meta, 7);
        assert_eq!(filled[0].start, 16);
        assert_eq!(filled[0].memory.len(), 132);
    }

    #[test]
    fn a_batch_is_full_with_as_many_as_it_was_cleared_for() {
        let room = Room {
            before: 0,
            content: 10,
            after: 0,
        };
        let mut batch = Batch::<()>::new(4, room);
        for (asked, given) in [(2, 2), (0, 1), (9, 4)] {
            batch.clear_for(asked);
            while !batch.is_full() {
                batch.fill(1, ());
            }
            assert_eq!((batch.len(), batch.left()), (given, 0));
        }
    }

    #[test]
    fn a_cleared_batch_can_be_filled_again() {
        let mut batch = Batch::<()>::new(
            1,
            Room {
                before: 0,
                content: 10,
                after: 0,
            },
        );
        batch.fill(10, ());
        assert!(batch.is_full());
        batch.clear();
        assert!(batch.is_empty());
        batch.fill(99, ());
        assert_eq!(batch.filled().next().map(|slot| slot.length), Some(10));
    }
}
