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
}
