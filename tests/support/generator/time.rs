//! Times as the protocol writes them: TIDs and timestamps.

/// The TID of a time in microseconds since 1970 and a clock id of ten bits.
pub fn tid(micros: u64, clock: u16) -> String {
    const ALPHABET: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";
    let bits = (micros & ((1 << 53) - 1)) << 10 | u64::from(clock & 0x3ff);
    (0..13)
        .rev()
        .map(|place| char::from(ALPHABET[(bits >> (place * 5) & 31) as usize]))
        .collect()
}

/// A time in microseconds since 1970 as an RFC 3339 text with milliseconds.
pub fn timestamp(micros: u64) -> String {
    let (days, millis) = (micros / 86_400_000_000, micros / 1000 % 86_400_000);
    // Days to a date of the Gregorian calendar, years counted from March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * march + 2) / 5 + 1,
        if march < 10 { march + 3 } else { march - 9 },
    );
    let year = era * 400 + year + u64::from(month <= 2);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
