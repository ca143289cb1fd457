//! An entry of the index: the place of a block, and a tag by which it is found.

use super::Place;

/// Twelve bytes, in memory as in a file. Entries are in order of their tags; what follows the tag only makes the order total.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub tag: u32,
    place: [u32; 2],
}

impl Entry {
    /// Bytes of an entry.
    pub const SIZE: usize = size_of::<Self>();

    pub fn new(tag: u32, place: Place) -> Self {
        Entry {
            tag,
            place: place.to_words(),
        }
    }

    #[inline]
    pub fn place(self) -> Place {
        Place::from_words(self.place)
    }

    /// As a file of this process holds it.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [self.tag, self.place[0], self.place[1]];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_ne_bytes();
        }
        bytes
    }

    /// The entry of these bytes.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Entry {
            tag: u32::from_ne_bytes([a, b, c, d]),
            place: [
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
            ],
        }
    }
}
