//! As much of Redis's protocol as the proxy must understand: where a command and where a reply ends.

use super::exec::{Command, Outcome};

/// The first command in the bytes, with its length there; `None` while it is not complete.
pub fn command(bytes: &[u8]) -> Option<(usize, Command)> {
    let (first, mut at) = line(bytes, 0)?;
    let Some(count) = first.strip_prefix(b"*") else {
        // As somebody types it into telnet.
        let words = first.split(|byte| *byte == b' ');
        return Some((at, words.map(<[u8]>::to_vec).collect()));
    };
    let mut parts = Vec::new();
    for _ in 0..number(count) {
        let (head, start) = line(bytes, at)?;
        let end = start + usize::try_from(number(&head[1..])).expect("the length of an argument");
        parts.push(bytes.get(start..end)?.to_vec());
        at = end + 2;
    }
    (at <= bytes.len()).then_some((at, parts))
}

/// The length of the first reply in the bytes; `None` while it is not complete.
pub fn reply(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0, 1);
    while left > 0 {
        let (head, next) = line(bytes, at)?;
        at = next;
        left -= 1;
        match (head.first(), number(head.get(1..).unwrap_or_default())) {
            (Some(b'$'), length @ 0..) => at += length as usize + 2,
            (Some(b'*'), count @ 0..) => left += count,
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// What a reply to EXEC says.
pub fn outcome(reply: &[u8]) -> Outcome {
    let head = line(reply, 0).map_or(&b""[..], |(head, _)| head);
    match head {
        b"*-1" | b"$-1" => Outcome::Nil,
        [b'*', ..] => Outcome::Applied,
        _ => Outcome::Refused(String::from_utf8_lossy(head).into_owned()),
    }
}

/// The line that begins there, without its end, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..end], at + end + 2))
}

/// A decimal number; −1 where there is none, as of an absent value.
fn number(digits: &[u8]) -> i64 {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(-1)
}
