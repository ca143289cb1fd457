//! R5: which commits `Commit::read` accepts, and which signatures `Commit::verify`. Every commit here is signed as it should be
//! unless the signature is what the test is about, so that nothing else can be the reason for a refusal.

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rsky_backfiller::error::{JobError, Reason};
use rsky_backfiller::repo::commit::Commit;
use support::generator::{
    Cid, Fields, SigningKey, Value, commit_fields, did_plc, set_field, sign_commit,
    sign_commit_with, tid,
};

const NOW: u64 = 1_750_000_000_000_000;
const MINUTE: u64 = 60_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(NOW)
}

fn did() -> String {
    did_plc(5)
}

fn root() -> Cid {
    Cid::dag_cbor(b"the root of the tree")
}

fn keys() -> [SigningKey; 2] {
    [SigningKey::k256(5), SigningKey::p256(5)]
}

fn fields() -> Fields {
    commit_fields(&did(), &tid(NOW, 3), root())
}

fn read(block: &[u8]) -> Result<Commit, JobError> {
    Commit::read(block, &did(), now())
}

/// Reads and verifies the block with either key, whichever fits.
fn accept(block: &[u8], key: &SigningKey) -> Result<Commit, Reason> {
    let commit = read(block).map_err(|error| error.reason)?;
    let verified = commit.verify(&key.did_key());
    verified.map(|()| commit).map_err(|error| error.reason)
}

/// What becomes of a regular commit with this one change, signed with both keys.
fn changed(change: impl Fn(&mut Fields)) -> Result<(), Reason> {
    let [k256, p256] = keys().map(|key| {
        let mut fields = fields();
        change(&mut fields);
        accept(&sign_commit(fields, &key).1, &key).map(|_| ())
    });
    assert_eq!(k256, p256);
    k256
}

fn with(name: &str, value: Value) -> Result<(), Reason> {
    changed(|fields| set_field(fields, name, value.clone()))
}

fn without(name: &str) -> Result<(), Reason> {
    changed(|fields| fields.retain(|(known, _)| known != name))
}

/// A CBOR map of at most 23 fields, in any order, as often as they come.
fn map(fields: &[(&str, Value)]) -> Vec<u8> {
    let mut out = vec![0xa0 + fields.len() as u8];
    for (name, value) in fields {
        out.extend(Value::text(*name).encode());
        out.extend(value.encode());
    }
    out
}

#[test]
fn r5_a_regular_commit_is_accepted_with_its_parts() {
    for key in keys() {
        let commit = accept(&sign_commit(fields(), &key).1, &key).expect("a good commit");
        assert_eq!(commit.rev, tid(NOW, 3));
        assert_eq!(commit.data().0, root().bytes());
    }
}

#[test]
fn r5_other_versions_are_refused() {
    for version in [0, 1, 2, 4, 3 + 256, -1, -3] {
        assert_eq!(with("version", Value::Int(version)), Err(Reason::Commit));
    }
    for version in [Value::text("3"), Value::Float(3.0), Value::Null] {
        assert_eq!(with("version", version), Err(Reason::Commit));
    }
    assert_eq!(without("version"), Err(Reason::Commit));
}

#[test]
fn r5_the_commit_of_another_account_is_refused() {
    for other in [did_plc(6), did().to_uppercase(), did() + " ", String::new()] {
        let reason = with("did", Value::text(other));
        assert_eq!(reason, Err(Reason::DidMismatch));
    }
    assert_eq!(with("did", Value::Null), Err(Reason::Commit));
    assert_eq!(without("did"), Err(Reason::Commit));
}

#[test]
fn r5_a_rev_is_a_tid() {
    let rev = tid(NOW, 3);
    for wrong in ["", "self", "0000000000000", &rev[1..], &(rev.clone() + "2")] {
        assert_eq!(
            with("rev", Value::text(wrong)),
            Err(Reason::Commit),
            "{wrong}"
        );
    }
    let upper = rev.to_uppercase();
    assert_eq!(with("rev", Value::text(upper)), Err(Reason::Commit));
    assert_eq!(
        with("rev", Value::text("zzzzzzzzzzzzz")),
        Err(Reason::Commit)
    );
    assert_eq!(with("rev", Value::Int(1)), Err(Reason::Commit));
    assert_eq!(without("rev"), Err(Reason::Commit));
}

#[test]
fn r5_a_rev_is_at_most_five_minutes_ahead() {
    for (micros, expected) in [
        (0, Ok(())),
        (NOW - 1_000_000 * MINUTE, Ok(())),
        (NOW + 4 * MINUTE, Ok(())),
        (NOW + 5 * MINUTE, Ok(())),
        (NOW + 5 * MINUTE + 1, Err(Reason::Commit)),
        (NOW + 6 * MINUTE, Err(Reason::Commit)),
        ((1 << 53) - 1, Err(Reason::Commit)),
    ] {
        let rev = Value::text(tid(micros, 1023));
        assert_eq!(with("rev", rev), expected, "{micros}");
    }
}

#[test]
fn r5_prev_is_null_absent_or_any_cid() {
    assert_eq!(with("prev", Value::Null), Ok(()));
    assert_eq!(without("prev"), Ok(()));
    assert_eq!(with("prev", Value::Link(Cid::dag_cbor(b"gone"))), Ok(()));
    assert_eq!(with("prev", Value::Link(Cid::raw(b"gone"))), Ok(()));
    let text = Value::text(root().to_string());
    let bytes = Value::Bytes(root().bytes().to_vec());
    let list = Value::List(vec![Value::Link(root())]);
    for other in [
        text,
        bytes,
        list,
        Value::Int(0),
        Value::Bool(false),
        Value::map([]),
    ] {
        assert_eq!(
            with("prev", other.clone()),
            Err(Reason::Commit),
            "{other:?}"
        );
    }
}

#[test]
fn r5_data_is_a_link() {
    for other in [Value::Null, Value::text(root().to_string()), Value::Int(0)] {
        assert_eq!(with("data", other), Err(Reason::Commit));
    }
    assert_eq!(without("data"), Err(Reason::Commit));
}

/// What a careless decoder takes for the same.
#[test]
fn r5_fields_have_their_types() {
    let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let root = root().bytes();
    for (name, value) in [
        ("did", bytes(&did())),
        ("did", Value::Int(-1)),
        ("rev", bytes(&tid(NOW, 3))),
        ("version", Value::text("3")),
        ("data", Value::Bytes(root.to_vec())),
        ("data", Value::Null),
        ("prev", Value::Bytes(root.to_vec())),
        ("prev", Value::text("")),
    ] {
        let shown = format!("{name}: {value:?}");
        assert_eq!(with(name, value), Err(Reason::Commit), "{shown}");
    }
}

#[test]
fn r5_unknown_fields_are_accepted_and_signed() {
    let list = Value::List(vec![Value::map([("n", Value::Null)]), Value::Link(root())]);
    for name in ["a", "sih", "zzz", "unknown", "a field after all others"] {
        assert_eq!(with(name, list.clone()), Ok(()), "{name}");
        for key in keys() {
            let mut fields = fields();
            set_field(&mut fields, name, Value::text("before"));
            let mut block = sign_commit(fields, &key).1;
            let at = block
                .windows(6)
                .position(|six| six == b"before")
                .expect("the field");
            assert!(accept(&block, &key).is_ok());
            block[at] = b'd';
            assert_eq!(accept(&block, &key), Err(Reason::Signature), "{name}");
        }
    }
    // Up to 23, 255 and 65,535 signed fields the head of the map has one byte, two, three.
    for count in [23, 24, 25, 255, 256, 257, 300] {
        let many = changed(|fields| {
            let more = count - fields.len();
            (0..more).for_each(|n| set_field(fields, &format!("f{n}"), Value::Null));
        });
        assert_eq!(many, Ok(()), "{count}");
    }
}

#[test]
fn r5_every_signed_field_is_covered() {
    for key in keys() {
        let fields_of = |value: &[(&str, Value)]| {
            let message = Value::Map(fields()).encode();
            let mut fields = fields();
            set_field(
                &mut fields,
                "sig",
                Value::Bytes(key.sign(&message).to_vec()),
            );
            for (name, value) in value {
                set_field(&mut fields, name, value.clone());
            }
            Value::Map(fields).encode()
        };
        assert!(accept(&fields_of(&[]), &key).is_ok());
        for (name, value) in [
            ("rev", Value::text(tid(NOW, 4))),
            ("data", Value::Link(Cid::dag_cbor(b"another root"))),
            ("prev", Value::Link(root())),
            ("extra", Value::Null),
        ] {
            let block = fields_of(&[(name, value)]);
            assert_eq!(accept(&block, &key), Err(Reason::Signature), "{name}");
        }
    }
}

/// Makes a signature, right or wrong, of the bytes to be signed.
type Sign<'a> = dyn Fn(&[u8]) -> Vec<u8> + 'a;

#[test]
fn r5_only_64_bytes_with_a_low_s_are_a_signature() {
    for key in keys() {
        let reason = |sign: &Sign<'_>| {
            let block = sign_commit_with(fields(), sign).1;
            accept(&block, &key).map(|_| ())
        };
        assert_eq!(reason(&|m| key.sign(m).to_vec()), Ok(()));
        let wrong: [(&str, &Sign<'_>); 10] = [
            ("high-S", &|m| key.sign_high_s(m).to_vec()),
            ("DER", &|m| key.sign_der(m)),
            ("63 bytes", &|m| key.sign(m)[..63].to_vec()),
            ("65 bytes", &|m| [&key.sign(m)[..], &[0]].concat()),
            ("recovery id", &|m| [&[27], &key.sign(m)[..]].concat()),
            ("zeros", &|_| vec![0; 64]),
            ("ones", &|_| vec![0xff; 64]),
            ("nothing", &|_| vec![]),
            ("another message", &|_| key.sign(b"another").to_vec()),
            ("hashed twice", &|m| {
                key.sign(&support::generator::cid::sha256(m)).to_vec()
            }),
        ];
        for (name, sign) in wrong {
            assert_eq!(reason(sign), Err(Reason::Signature), "{name}");
        }
        let [mut r, mut s] = [vec![0; 64], vec![0; 64]];
        (r[31], s[63]) = (1, 1);
        assert_eq!(reason(&|_| r.clone()), Err(Reason::Signature));
        assert_eq!(reason(&|_| s.clone()), Err(Reason::Signature));
    }
}

#[test]
fn r5_another_key_does_not_fit() {
    let others = [SigningKey::k256(6), SigningKey::p256(6)];
    for key in keys() {
        let block = sign_commit(fields(), &key).1;
        for other in others.iter().chain(&keys()) {
            let fits = other.did_key() == key.did_key();
            let expected = if fits { Ok(()) } else { Err(Reason::Signature) };
            assert_eq!(accept(&block, other).map(|_| ()), expected);
        }
        let commit = read(&block).expect("a good commit");
        for no_key in [
            "",
            "did:key:",
            "did:key:z",
            "did:key:zQ3sh",
            &key.multibase(),
            "did:plc:a",
        ] {
            let error = commit.verify(&no_key.to_owned()).expect_err("no key");
            assert_eq!(error.reason, Reason::Signature, "{no_key}");
        }
    }
}

#[test]
fn r5_the_signature_is_bytes() {
    let key = SigningKey::k256(5);
    let unsigned = Value::Map(fields()).encode();
    assert_eq!(accept(&unsigned, &key), Err(Reason::Commit), "missing");
    let signature = key.sign(&unsigned);
    let numbers = signature.iter().map(|&byte| Value::Int(byte.into()));
    let list = Value::List(numbers.collect());
    let text = Value::text("s".repeat(64));
    for other in [
        list,
        text,
        Value::Null,
        Value::Int(1),
        Value::map([]),
        Value::Link(root()),
    ] {
        let mut fields = fields();
        set_field(&mut fields, "sig", other.clone());
        let block = Value::Map(fields).encode();
        assert_eq!(accept(&block, &key), Err(Reason::Commit), "{other:?}");
    }
}

#[test]
fn r5_a_commit_is_one_strict_map() {
    let key = SigningKey::k256(5);
    let mut sorted: Vec<(&str, Value)> = Vec::new();
    let fields = fields();
    for name in ["did", "rev", "data", "prev", "version"] {
        let field = fields.iter().find(|(known, _)| known == name);
        sorted.push((name, field.expect("a field").1.clone()));
    }
    let sign = |fields: &[(&'static str, Value)]| {
        let mut signed = fields.to_vec();
        signed.insert(2, ("sig", Value::Bytes(key.sign(&map(fields)).to_vec())));
        map(&signed)
    };
    let good = sign(&sorted);
    assert_eq!(good, sign_commit(fields.clone(), &key).1);
    let mut swapped = sorted.clone();
    swapped.swap(3, 4);
    let twice = |place: usize| {
        let mut twice = sorted.clone();
        twice.insert(place, sorted[place].clone());
        sign(&twice)
    };
    let text = |block: &[u8], from: &[u8], to: &[u8]| {
        let at = block.windows(from.len()).position(|part| part == from);
        let at = at.expect("the part to be replaced");
        [&block[..at], to, &block[at + from.len()..]].concat()
    };
    for (what, block) in [
        ("out of order", sign(&swapped)),
        ("did twice", twice(0)),
        ("version twice", twice(4)),
        ("trailing", [&good[..], &[0]].concat()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("indefinite", [&[0xbf], &good[1..], &[0xff]].concat()),
        (
            "not minimal",
            text(&good, b"\x67version\x03", b"\x67version\x18\x03"),
        ),
        ("key no text", text(&good, b"\x63did", b"\x43did")),
        ("a list", [&[0x86], &good[1..]].concat()),
        ("null", vec![0xf6]),
        ("nothing", vec![]),
        ("an empty map", vec![0xa0]),
    ] {
        assert_eq!(accept(&block, &key), Err(Reason::Commit), "{what}");
    }
    let mut deep = vec![0x81; 1 << 20];
    deep.splice(..0, *b"\xa1\x61a");
    assert_eq!(read(&deep).expect_err("too deep").reason, Reason::Commit);
}
