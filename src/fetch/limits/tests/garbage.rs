//! What cannot be read says nothing, nothing is further away than the cap, and nothing panics.

use std::time::UNIX_EPOCH;

use ureq::http::HeaderValue;

use super::super::*;
use super::{NOW, read, seconds};

#[test]
fn garbage_says_nothing() {
    for text in [
        "",
        " ",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "ten",
        "1.",
        ".5",
        "1.2.3",
        "1 2",
        "∞",
        "60s",
        "\"60\"",
        "Fri, 99 Nov 2025 22:14:20 GMT",
        "2025-11-14T22:14:20Z",
        "NaN",
        "inf",
        ";",
        "=",
        ",",
        "\"",
    ] {
        let said = read(&[
            ("Retry-After", text),
            ("RateLimit-Limit", text),
            ("RateLimit-Remaining", text),
            ("RateLimit-Reset", text),
            ("RateLimit-Policy", text),
            ("RateLimit", text),
            ("Date", text),
        ]);
        assert_eq!(said, Limits::default(), "{text:?}");
    }
    let no_window = read(&[("RateLimit-Policy", "100;w=0")]);
    assert_eq!((no_window.limit, no_window.window), (Some(100), None));
}

#[test]
fn no_wait_is_longer_than_the_cap() {
    let most = "9".repeat(40);
    for text in [
        "3601",
        "86400",
        "4102444800",
        "18446744073709551615",
        "18446744073709551616.5",
        &most,
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ] {
        let said = read(&[("Retry-After", text), ("RateLimit-Reset", text)]);
        assert_eq!(said.retry_after, Some(MAX_WAIT), "{text}");
        assert_eq!(said.reset, Some(MAX_WAIT), "{text}");
        assert_eq!(said.wait(), Some(MAX_WAIT), "{text}");
        let state = read(&[("RateLimit", &format!("\"a\";r=0;t={text}"))]);
        assert!(state.reset.is_none_or(|reset| reset <= MAX_WAIT), "{text}");
    }
    let counts = read(&[("RateLimit-Remaining", &most), ("RateLimit-Limit", &most)]);
    assert_eq!(
        (counts.remaining, counts.limit),
        (Some(u64::MAX), Some(u64::MAX))
    );
}

/// Numbers that look random and are the same each time.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Any bytes that a header can have, and pieces of what is expected in any order, under any clock.
#[test]
fn nothing_panics_and_nothing_is_longer_than_the_cap() {
    const PIECES: [&str; 26] = [
        "\"",
        "\\",
        ";",
        ",",
        "=",
        " ",
        "w",
        "q=",
        "r=",
        "t=",
        "w=",
        "\"a\"",
        "limit=",
        "reset=",
        "remaining=",
        "qu=\"x\"",
        "0",
        "1",
        "30",
        ".5",
        "-",
        "1763158400",
        "18446744073709551615",
        "Fri, 14 Nov 2025 22:14:20 GMT",
        "Friday, 14-Nov-25",
        "Fri Nov 14 22:14:20 0000",
    ];
    let names = [LIMIT, REMAINING, RESET].concat();
    let names = [&names[..], &[POLICY, STATE, "retry-after", "date"]].concat();
    let clocks = [0, 1, NOW, u64::from(u32::MAX), i64::MAX as u64];
    let mut noise = Noise(1);
    let mut read = 0;
    for _ in 0..50_000 {
        let mut headers = HeaderMap::new();
        for _ in 0..noise.below(8) {
            let mut value = Vec::new();
            for _ in 0..noise.below(6) {
                match noise.below(12) {
                    0 => value.push(noise.below(256) as u8),
                    _ => value.extend_from_slice(PIECES[noise.below(PIECES.len())].as_bytes()),
                }
            }
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(names[noise.below(names.len())], value);
            }
        }
        let clock = UNIX_EPOCH.checked_add(seconds(clocks[noise.below(clocks.len())]));
        let said = Limits::read(&headers, clock.unwrap_or(UNIX_EPOCH));
        let waits = [said.retry_after, said.reset, said.wait()];
        assert!(waits.iter().flatten().all(|wait| *wait <= MAX_WAIT));
        assert_ne!(said.window, Some(Duration::ZERO));
        assert_ne!(said.wait(), Some(Duration::ZERO));
        read += usize::from(said != Limits::default());
    }
    assert!(read > 5_000, "much of it says something: {read}");
}
