//! R1: the JSON text of a record, and which records are skipped and why, from bytes written by hand. In the tables a byte is two hex digits; a text is what stands in quotation marks.

mod support;

use rsky_backfiller::repo::cbor::Malformed;
use rsky_backfiller::repo::record::{Skip, transcode};
use support::generator::{Cid, Value};

/// The JSON of a block; whatever is printed is JSON and comes after what was there.
fn json(block: &[u8]) -> Result<String, Skip> {
    let mut out = b"before ".to_vec();
    transcode(block, &mut out)?;
    let text = String::from_utf8(out).expect("UTF-8");
    let text = text.strip_prefix("before ").expect("appended").to_owned();
    // serde_json itself goes down less than 128 levels.
    if text.matches(['{', '[']).count() < 120 {
        let parsed = serde_json::from_str::<serde_json::Value>(&text);
        parsed.unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    Ok(text)
}

/// The JSON of a value, inside of a map and an array.
fn value(bytes: &[u8]) -> Result<String, Malformed> {
    let text = json(&[b"\xa1\x61v\x81", bytes].concat()).map_err(|skip| match skip {
        Skip::Malformed(malformed) => malformed,
        other => panic!("{other:?}"),
    })?;
    let inner = text.strip_prefix(r#"{"v":["#);
    let inner = inner.and_then(|text| text.strip_suffix("]}"));
    Ok(inner.expect("the map and the array").to_owned())
}

fn prints(bytes: &[u8], expected: &str) {
    assert_eq!(value(bytes).as_deref(), Ok(expected), "{bytes:02x?}");
}

fn skips(bytes: &[u8], expected: Malformed) {
    assert_eq!(value(bytes), Err(expected), "{bytes:02x?}");
}

/// Each value of a table, separated by spaces or lines.
fn all_skip(table: &str, expected: Malformed) {
    table
        .split_whitespace()
        .for_each(|hex| skips(&unhex(hex), expected));
}

/// The bytes of hex digits, with ASCII between quotation marks.
fn unhex(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (place, part) in text.split('\'').enumerate() {
        if place % 2 == 1 {
            out.extend(part.bytes());
            continue;
        }
        let digits = part.as_bytes().chunks(2);
        out.extend(digits.map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hex digits")
        }));
    }
    out
}

fn text(text: &str) -> Vec<u8> {
    Value::text(text).encode()
}

fn malformed(hex: &str, expected: Malformed) {
    assert_eq!(json(&unhex(hex)), Err(Skip::Malformed(expected)), "{hex}");
}

#[test]
fn r1_integers_are_exact() {
    let edges = [
        0,
        23,
        24,
        255,
        256,
        65_535,
        65_536,
        1 << 32,
        (1 << 53) - 1,
        1 << 53,
        (1 << 53) + 1,
    ];
    for n in edges {
        prints(&Value::Int(n).encode(), &n.to_string());
        prints(&Value::Int(-n).encode(), &(-n).to_string());
    }
    for (hex, expected) in [
        ("1b7fffffffffffffff", "9223372036854775807"),
        ("1b8000000000000000", "9223372036854775808"),
        ("1bffffffffffffffff", "18446744073709551615"),
        ("3b7ffffffffffffffe", "-9223372036854775807"),
        ("3b7fffffffffffffff", "-9223372036854775808"),
        ("3b8000000000000000", "-9223372036854775809"),
        ("3bffffffffffffffff", "-18446744073709551616"),
    ] {
        prints(&unhex(hex), expected);
    }
}

#[test]
fn r1_finite_floats_are_numbers_and_others_are_skipped() {
    for (hex, expected) in [
        ("f93c00", 1.0),
        ("f93e00", 1.5),
        ("f98000", -0.0),
        ("f97bff", 65504.0),
        ("f90001", 5.960464477539063e-8),
        ("f903ff", 0.00006097555160522461),
        ("fa47c35000", 100000.0),
        ("fa3dcccccd", 0.10000000149011612),
        ("fa00000001", 1.401298464324817e-45),
        ("fb0000000000000000", 0.0),
        ("fb8000000000000000", -0.0),
        ("fbc008000000000000", -3.0),
        ("fb7e37e43c8800759c", 1e300),
        ("fb7fefffffffffffff", f64::MAX),
        ("fb0000000000000001", 5e-324),
        ("fb4340000000000000", 9007199254740992.0),
        ("fb44b52d02c7e14af6", 1e23),
    ] {
        // Several texts name a float; it must read back as it was, and never as an integer.
        let text = value(&unhex(hex)).expect("a finite float");
        let read: f64 = text.parse().expect("a number");
        assert_eq!(read.to_bits(), f64::to_bits(expected), "{text}");
        assert!(text.contains(['.', 'e']), "{text} is an integer");
    }
    for (hex, expected) in [
        ("f93c00", "1.0"),
        ("f98000", "-0.0"),
        ("fbc008000000000000", "-3.0"),
        ("fb3fb999999999999a", "0.1"),
        ("fb4340000000000000", "9007199254740992.0"),
    ] {
        prints(&unhex(hex), expected);
    }
    let wide = "fb7ff0000000000000 fbfff0000000000000 fb7ff8000000000000 fbfff0000000000001";
    all_skip(wide, Malformed::NotFinite);
    let narrow = "f97c00 f9fc00 f97e00 f97c01 fa7f800000 faff800000 fa7fc00000 fa7f800001";
    all_skip(narrow, Malformed::NotFinite);
}

#[test]
fn r1_other_simple_values_are_skipped() {
    prints(&unhex("83f4f5f6"), "[false,true,null]");
    all_skip("f7 e0 f3 f813 f814 f816 f817 f820 f8ff", Malformed::Simple);
}

#[test]
fn r1_duplicate_keys_are_skipped_and_unsorted_ones_keep_their_order() {
    prints(
        &unhex("a361'c'0161'a'0262'bb'03"),
        r#"{"c":1,"a":2,"bb":3}"#,
    );
    prints(
        &unhex("a262'aa'0161'b'a261'z'0261'y'03"),
        r#"{"aa":1,"b":{"z":2,"y":3}}"#,
    );
    prints(
        &unhex("a261'a'0162'aa'a161'a'02"),
        r#"{"a":1,"aa":{"a":2}}"#,
    );
    for twice in [
        "a261'a'0161'a'02",
        "a260016002",
        "a361'a'0161'b'0261'a'03",
        "a461'b'0161'a'0261'c'818061'b'03",
        "a362'bb'0161'a'a161'x'8062'bb'03",
        "a161'a'81a261'b'0161'b'01",
        "a261'b'a261'x'0161'x'0161'a'00",
    ] {
        skips(&unhex(twice), Malformed::DuplicateKey);
        malformed(twice, Malformed::DuplicateKey);
    }
    let mut far = unhex("b903e9");
    (0..1000).for_each(|n| far.extend([text(&n.to_string()), vec![0]].concat()));
    let with = |key: &str| value(&[&far[..], &text(key), &[0]].concat());
    assert_eq!(with("500"), Err(Malformed::DuplicateKey));
    assert!(with("another").is_ok());
}

#[test]
fn r1_indefinite_and_reserved_lengths_are_skipped() {
    let open = "7f61'a'ff 7fff 5f41'a'ff 9f01ff 9fff bf61'a'01ff bfff a17f61'a'ff01";
    all_skip(open, Malformed::Indefinite);
    all_skip(
        "ff 1f 3f df 1c 3d 5e 7c 9d be dc fc fe",
        Malformed::Indefinite,
    );
    malformed("bf61'a'01ff", Malformed::Indefinite);
}

#[test]
fn r1_heads_that_are_not_minimal_are_skipped() {
    let contents = ["", "", "'x'", "'x'", "01", "61'a'01"].map(unhex);
    for (major, content) in (0..).zip(contents) {
        let with = |additional: u8, argument: &str| {
            let head = [&[major << 5 | additional], &unhex(argument)[..]].concat();
            value(&[head, content.clone()].concat())
        };
        assert!(with(1, "").is_ok(), "{major}");
        let wide = [
            (24, "01"),
            (25, "0001"),
            (26, "00000001"),
            (27, "0000000000000001"),
        ];
        let edge = [
            (24, "17"),
            (25, "00ff"),
            (26, "0000ffff"),
            (27, "00000000ffffffff"),
        ];
        for (additional, argument) in wide.into_iter().chain(edge) {
            let wide = with(additional, argument);
            assert_eq!(wide, Err(Malformed::NotMinimal), "{major} {argument}");
        }
    }
    let cid = [&[0], &Cid::raw(b"").bytes()[..]].concat();
    skips(
        &[unhex("d9002a5825"), cid.clone()].concat(),
        Malformed::NotMinimal,
    );
    skips(&[unhex("d82a590025"), cid].concat(), Malformed::NotMinimal);
    all_skip("a17801'a'01 b80161'a'01", Malformed::NotMinimal);
    malformed("b80161'a'01", Malformed::NotMinimal);
}

#[test]
fn r1_only_tag_42_is_known_and_holds_a_cid() {
    let raw = Cid::raw(b"x");
    let link = |cid: &[u8]| {
        let bytes = Value::Bytes([&[0], cid].concat()).encode();
        [&[0xd8, 42], &bytes[..]].concat()
    };
    let [sha512, dag_pb, v0] = ["01711340", "01701220", "1220"].map(unhex);
    // Hashes and codecs that lead nowhere are printed like others.
    for cid in [
        raw.bytes().to_vec(),
        Cid::dag_cbor(b"x").bytes().to_vec(),
        [&sha512[..], &[7; 64]].concat(),
        [&dag_pb[..], &raw.digest].concat(),
        [&v0[..], &raw.digest].concat(),
    ] {
        let text = cid::Cid::try_from(&cid[..]).expect("a CID").to_string();
        prints(&link(&cid), &format!(r#"{{"$link":"{text}"}}"#));
    }
    prints(&link(&raw.bytes()), &format!(r#"{{"$link":"{raw}"}}"#));

    let tags = "c060 c100 c24101 d8184100 d82940 d82b40 d9d9f700 dbffffffffffffffff00";
    all_skip(tags, Malformed::Tag);
    all_skip(
        "d82a40 d82a4100 d82a4101 d82a61'b' d82a01 d82af6 d82a80 d82ad82a4100",
        Malformed::Link,
    );
    let bare = [unhex("d82a5824"), raw.bytes().to_vec()].concat();
    let other_base = [unhex("d82a582501"), raw.bytes().to_vec()].concat();
    let long = [&raw.bytes()[..], &[0]].concat();
    let [no_digest, version_9] = ["01711220", "0971120100"].map(unhex);
    for wrong in [
        bare,
        other_base,
        link(&long),
        link(&raw.bytes()[..35]),
        link(&no_digest),
        link(&version_9),
    ] {
        skips(&wrong, Malformed::Link);
    }
}

#[test]
fn r1_text_is_utf8_and_stays_as_it_is() {
    for wrong in [
        "62c328",
        "61ff",
        "6180",
        "62c0af",
        "63eda080",
        "64f4908080",
        "61c3",
    ] {
        skips(&unhex(wrong), Malformed::Utf8);
        skips(&unhex(&format!("a1{wrong}01")), Malformed::Utf8);
    }
    let control: String = ('\0'..' ').collect();
    let escaped = [
        r"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f",
        r"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f",
    ];
    for (plain, expected) in [
        (control.as_str(), escaped.concat().as_str()),
        ("a\"b\\c/d", r#"a\"b\\c/d"#),
        (
            "\u{7f}\u{80}\u{2028}\u{2029}",
            "\u{7f}\u{80}\u{2028}\u{2029}",
        ),
        ("\u{feff}bom", "\u{feff}bom"),
        ("\u{fffd}\u{ffff}\u{10ffff}", "\u{fffd}\u{ffff}\u{10ffff}"),
        ("é 漢 👩‍💻", "é 漢 👩‍💻"),
        ("", ""),
    ] {
        prints(&text(plain), &format!("\"{expected}\""));
        let map = [&[0xa1], &text(plain)[..], &[1]].concat();
        prints(&map, &format!("{{\"{expected}\":1}}"));
        let printed = value(&text(plain)).expect("a text");
        assert_eq!(
            serde_json::from_str::<String>(&printed).expect("JSON"),
            plain
        );
    }
    for key in ["__proto__", "constructor", "10", "2", "$link", "$type"] {
        let map = [&[0xa2], &text("an earlier key")[..], &[1], &text(key), &[2]].concat();
        let expected = format!(r#"{{"an earlier key":1,"{key}":2}}"#);
        assert_eq!(json(&map).as_deref(), Ok(&*expected));
    }
}

#[test]
fn r1_bytes_are_base64_without_padding_and_lookalikes_stay_maps() {
    for (hex, expected) in [
        ("40", ""),
        ("41ff", "/w"),
        ("42fbf0", "+/A"),
        ("43'abc'", "YWJj"),
        ("4400000000", "AAAAAA"),
    ] {
        prints(&unhex(hex), &format!(r#"{{"$bytes":"{expected}"}}"#));
    }
    let cid = Cid::raw(b"").to_string();
    for pairs in [
        &[("$link", cid.as_str())][..],
        &[("$link", "no CID")],
        &[("$bytes", "YWJj")],
        &[("$bytes", "no base64 ")],
        &[("cid", &cid), ("mimeType", "image/png")],
        &[("cid", &cid), ("extra", "kept"), ("mimeType", "image/png")],
        &[("$type", "blob")],
    ] {
        let fields = pairs
            .iter()
            .map(|(key, value)| format!(r#""{key}":"{value}""#));
        let expected = fields.collect::<Vec<_>>().join(",");
        let map = Value::map(pairs.iter().map(|(key, value)| (*key, Value::text(*value))));
        prints(&map.encode(), &format!("{{{expected}}}"));
        assert_eq!(json(&map.encode()), Ok(format!("{{{expected}}}")));
    }
}

#[test]
fn r1_a_record_is_one_map_within_bounds() {
    for other in [
        "80",
        "81a0",
        "61'a'",
        "41'a'",
        "01",
        "f6",
        "f5",
        "fb0000000000000000",
    ] {
        assert_eq!(json(&unhex(other)), Err(Skip::NotAMap), "{other}");
    }
    assert_eq!(json(&unhex("a0")).as_deref(), Ok("{}"));
    malformed("a000", Malformed::TrailingBytes);
    malformed("a0a0", Malformed::TrailingBytes);
    malformed("a10102", Malformed::Key);
    malformed("a141'a'02", Malformed::Key);
    let block = unhex("a261'a'8219010062'xx'62'bb'a161'c'f6");
    assert!(json(&block).is_ok());
    for cut in 0..block.len() {
        let cut = json(&block[..cut]);
        assert_eq!(cut, Err(Skip::Malformed(Malformed::Truncated)));
    }
    let huge = "5bffffffffffffffff 7bffffffffffffffff 9bffffffffffffffff bbffffffffffffffff";
    all_skip(huge, Malformed::Truncated);

    for level in ["81", "a161'v'"].map(unhex) {
        let deep = |levels: usize| [unhex("a161'v'"), level.repeat(levels - 1), vec![1]].concat();
        let text = json(&deep(128)).expect("128 levels");
        assert_eq!(text.matches(['{', '[']).count(), 128);
        assert_eq!(text.matches(['}', ']']).count(), 128);
        for levels in [129, 130, 100_000] {
            let deep = json(&deep(levels));
            assert_eq!(deep, Err(Skip::Malformed(Malformed::TooDeep)), "{levels}");
        }
    }
    let of_size = |size: usize| [unhex("a161'v'"), text(&"x".repeat(size - 8))].concat();
    assert_eq!(of_size(2 << 20).len(), 2 << 20);
    assert!(json(&of_size(2 << 20)).is_ok());
    assert_eq!(json(&of_size((2 << 20) + 1)), Err(Skip::TooLarge));
}
