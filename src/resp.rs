//! Commands in Redis's protocol, written straight into a buffer (RESP: redis.io/docs/reference/protocol-spec).
//!
//! A chunk is some five hundred commands that differ in one value; encoding them here, where the event's bytes are, costs one copy
//! and no allocation.

/// Appends a command: an array of bulk strings.
pub fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    head(out, b'*', parts.len());
    for part in parts {
        head(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// A value whose length is not known before it is written: [`begin_bulk`] … [`Bulk::end`].
pub struct Bulk {
    /// Where its length stands.
    at: usize,
    digits: usize,
}

/// Begins a value, whose bytes the caller appends. `digits` is how many digits its length will probably have: a good guess saves a
/// move of the value.
pub fn begin_bulk(out: &mut Vec<u8>, digits: usize) -> Bulk {
    out.push(b'$');
    let at = out.len();
    out.resize(at + digits, b'0');
    out.extend_from_slice(b"\r\n");
    Bulk { at, digits }
}

impl Bulk {
    /// Ends the value; returns its length in bytes.
    pub fn end(self, out: &mut Vec<u8>) -> usize {
        let digits = self.at..self.at + self.digits;
        let length = out.len() - digits.end - 2;
        let mut text = itoa::Buffer::new();
        let text = text.format(length).as_bytes();
        if text.len() == self.digits {
            out[digits].copy_from_slice(text);
        } else {
            out.splice(digits, text.iter().copied());
        }
        out.extend_from_slice(b"\r\n");
        length
    }
}

/// Commands that are sent in one go.
#[derive(Default)]
pub struct Pipeline {
    /// In Redis's protocol.
    pub bytes: Vec<u8>,
    /// How many commands, and so replies, these are.
    pub count: usize,
}

impl Pipeline {
    /// Adds a command.
    pub fn add(&mut self, parts: &[&[u8]]) -> &mut Self {
        command(&mut self.bytes, parts);
        self.count += 1;
        self
    }

    /// The same as one transaction: MULTI before it, EXEC behind it.
    pub fn in_transaction(&self) -> Pipeline {
        let mut transaction = Pipeline::default();
        transaction.add(&[b"MULTI"]);
        transaction.bytes.extend_from_slice(&self.bytes);
        transaction.count += self.count;
        transaction.add(&[b"EXEC"]);
        transaction
    }
}

fn head(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_the_bytes_that_the_redis_crate_sends() {
        let event = vec![b'x'; 1000];
        let parts: [&[u8]; 5] = [b"XADD", b"stream", b"*", b"event", &event];
        let mut out = Vec::new();
        command(&mut out, &parts);
        let mut theirs = redis::Cmd::new();
        for part in parts {
            theirs.arg(part);
        }
        assert_eq!(out, theirs.get_packed_command());
    }

    #[test]
    fn a_value_written_before_its_length_is_known_has_the_same_bytes() {
        for (length, digits) in [(0, 3), (9, 1), (9, 3), (999, 3), (1000, 3), (12_345, 1)] {
            let value = vec![b'x'; length];
            let mut out = b"before".to_vec();
            let bulk = begin_bulk(&mut out, digits);
            out.extend_from_slice(&value);
            assert_eq!(bulk.end(&mut out), length);
            let text = String::from_utf8(value).expect("ASCII");
            let expected = format!("before${length}\r\n{text}\r\n");
            assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
        }
    }
}
