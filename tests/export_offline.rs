//! `backfiller export` of CARs that are there: whose signature they must have is said by whoever exports them, and all else is proved as
//! that of an account.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use support::exporting::{Export, folder, lines_of, path, timeless};
use support::fixture_server::{Fault, FixtureServer};
use support::generator::{Repo, RepoBuilder, SigningKey, Value, did_plc, records, set_field};
use support::hostile::of_rule;

const FIXTURES: [&str; 8] = [
    "empty-k256",
    "empty-p256",
    "one-k256",
    "one-p256",
    "kinds-k256",
    "kinds-p256",
    "thousand-k256",
    "thousand-p256",
];

/// A fixture's CAR, and what is known of it.
fn fixture(name: &str) -> (String, Json) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let text = fs::read_to_string(folder.join(format!("{name}.json"))).expect("its JSON");
    let about = serde_json::from_str(&text).expect("JSON");
    (path(folder, &format!("{name}.car")), about)
}

fn text<'j>(about: &'j Json, field: &str) -> &'j str {
    about[field].as_str().expect("a text")
}

fn repo(seed: u64, key: SigningKey) -> Repo {
    RepoBuilder::new(did_plc(seed))
        .key(key)
        .records(records::mixed(seed, 20))
        .build()
}

#[test]
fn each_key_is_proved_and_the_lines_are_those_of_the_account() {
    let server = FixtureServer::start();
    for name in FIXTURES {
        let (car, about) = fixture(name);
        let (did, key) = (text(&about, "did"), text(&about, "signingKey"));
        server.put_document(did, about["didDocument"].clone());
        server.put_repo(did, fs::read(&car).expect("an archive"));
        let online = Export::of(Some(&server), &[did, "--host", &server.url()]).run();
        let online: Vec<_> = online.lines().iter().map(|line| timeless(line)).collect();
        let documents = folder(&[("did.json", about["didDocument"].to_string().as_bytes())]);
        let document = path(&documents, "did.json");
        for signer in [["--key", key], ["--did-doc", &document]] {
            for of in [&[][..], &["--did", did]] {
                let offline = Export::of(None, &[&car]).args(signer).args(of).run();
                let lines: Vec<_> = offline.lines().iter().map(|line| timeless(line)).collect();
                assert_eq!(lines, online, "{name} {signer:?}");
            }
        }
    }
}

#[test]
fn standard_input_is_a_car_as_any_file() {
    let (car, about) = fixture("kinds-k256");
    let bytes = fs::read(&car).expect("an archive");
    let key = text(&about, "signingKey");
    let file = Export::of(None, &[&car, "--key", key]).run();
    let size = format!(" bytes={} ", bytes.len());
    let input = Export::of(None, &["-", "--key", key]).input(bytes).run();
    let said = input.errors.iter().filter(|line| line.contains(&size));
    assert_eq!(said.count(), 1, "{:?}", input.errors);
    let timeless = |lines: Vec<String>| lines.iter().map(|line| timeless(line)).collect::<Vec<_>>();
    assert_eq!(timeless(input.lines()), timeless(file.lines()));
    let nothing = Export::of(None, &["-", "--key", key]).input("").run();
    assert_eq!(nothing.status, Some(1));
    assert_eq!(nothing.failure("standard input").0, "car");
}

#[test]
fn another_key_and_another_document_write_nothing() {
    for curve in ["k256", "p256"] {
        let (car, _) = fixture(&format!("kinds-{curve}"));
        for other in FIXTURES
            .into_iter()
            .filter(|other| !other.starts_with("kinds"))
        {
            let (_, about) = fixture(other);
            let key = text(&about, "signingKey");
            let exported = Export::of(None, &[&car, "--key", key]).run();
            assert_eq!((exported.status, &exported.output[..]), (Some(1), &b""[..]));
            assert_eq!(exported.failure(&car).0, "signature", "{curve} {other}");
            // What was read is counted, whatever came of it.
            let size = format!(" bytes={} ", fs::metadata(&car).expect("an archive").len());
            let last = exported.errors.last().expect("a summary");
            assert!(last.contains(&size), "{last}");
            let documents = folder(&[("did.json", about["didDocument"].to_string().as_bytes())]);
            let document = path(&documents, "did.json");
            let exported = Export::of(None, &[&car, "--did-doc", &document]).run();
            assert_eq!((exported.status, &exported.output[..]), (Some(1), &b""[..]));
            let (reason, text) = exported.failure(&car);
            assert_eq!(reason, "identity", "{curve} {other}");
            assert!(text.contains("that of another DID"), "{text}");
        }
    }
}

#[test]
fn another_account_than_the_one_that_was_named_writes_nothing() {
    let (car, about) = fixture("one-k256");
    let key = text(&about, "signingKey");
    let exported = Export::of(None, &[&car, "--key", key, "--did", "did:plc:other"]).run();
    assert_eq!((exported.status, &exported.output[..]), (Some(1), &b""[..]));
    assert_eq!(exported.failure(&car).0, "did_mismatch");
}

#[test]
fn unverified_is_loud_and_spares_the_signature_alone() {
    let (car, _) = fixture("one-k256");
    let exported = Export::of(None, &[&car, "--unverified"]).run();
    assert_eq!(exported.lines().len(), 2);
    assert!(
        exported.errors[0].contains("NO SIGNATURE IS VERIFIED"),
        "{:#?}",
        exported.errors
    );
    let summary = exported.errors.last().expect("a summary");
    assert!(summary.contains("UNVERIFIED"), "{summary}");

    let forged = repo(1, SigningKey::k256(1)).resign_with(|_, _| vec![0; 64]);
    let named = |fields: &[(&'static str, Value)]| {
        let repo = repo(2, SigningKey::k256(2));
        let mut all = repo.commit_fields();
        for (name, value) in fields {
            set_field(&mut all, name, value.clone());
        }
        repo.resign_with_fields(all).car()
    };
    let good = repo(3, SigningKey::p256(3)).car();
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let injected = r#"did:plc:a","record":{"#;
    let files: [(&str, &[u8]); 6] = [
        ("forged.car", &forged.car()),
        ("flipped.car", &flipped),
        ("cut.car", &good[..last]),
        ("injected.car", &named(&[("did", Value::text(injected))])),
        ("key.car", &named(&[("did", Value::text("did:key:zQ3sh"))])),
        ("old.car", &named(&[("version", Value::Int(2))])),
    ];
    let folder = folder(&files);
    let paths: Vec<_> = files.iter().map(|(name, _)| path(&folder, name)).collect();
    let exported = Export::of(None, &["--unverified", "--concurrency", "3"])
        .args(&paths)
        .run();
    assert_eq!(exported.status, Some(1));
    let lines = exported.lines_however();
    assert_eq!(lines_of(&lines, &forged.did).len(), lines.len());
    assert_eq!(lines.len(), 21);
    let reasons = ["car", "car", "commit", "commit", "commit"];
    for (path, wanted) in paths[1..].iter().zip(reasons) {
        let (reason, text) = exported.failure(path);
        assert_eq!(reason, wanted, "{path}: {text}");
    }
}

#[test]
fn a_car_that_is_cut_anywhere_writes_nothing() {
    let repo = repo(1, SigningKey::k256(1));
    let car = repo.car();
    let cuts: Vec<_> = (0..car.len()).step_by(car.len() / 40).collect();
    let names: Vec<_> = cuts.iter().map(|cut| format!("{cut}.car")).collect();
    let files = names.iter().map(String::as_str);
    let files: Vec<_> = files
        .zip(&cuts)
        .map(|(name, cut)| (name, &car[..*cut]))
        .collect();
    let folder = folder(&files);
    let paths: Vec<_> = names.iter().map(|name| path(&folder, name)).collect();
    let key = repo.key.did_key();
    let exported = Export::of(None, &["--key", &key, "--concurrency", "4"])
        .args(&paths)
        .run();
    assert_eq!((exported.status, &exported.output[..]), (Some(1), &b""[..]));
    for path in &paths {
        let (reason, text) = exported.failure(path);
        assert!(
            matches!(reason, "car" | "incomplete"),
            "{path}: {reason}: {text}"
        );
    }
}

#[test]
fn i3_hostile_archives_write_nothing_whoever_brings_them() {
    for rule in ["R2", "R3", "R4", "R5", "R7"] {
        for hostile in of_rule(rule) {
            if !matches!(hostile.fault, Fault::Normal) {
                continue;
            }
            let document = hostile.document.to_string();
            let files = folder(&[
                ("repo.car", &hostile.car),
                ("did.json", document.as_bytes()),
            ]);
            let car = path(&files, "repo.car");
            let export = Export::of(None, &[&car, "--did-doc", &path(&files, "did.json")]);
            let exported = export.args(["--did", &hostile.did]).run();
            assert_eq!((exported.status, &exported.output[..]), (Some(1), &b""[..]));
            let (reason, text) = exported.failure(&car);
            assert_eq!(reason, hostile.reason, "{rule}: {}: {text}", hostile.name);
        }
    }
}

#[test]
fn a_car_that_is_too_large_or_cannot_be_read_is_said() {
    let repo = repo(1, SigningKey::k256(1));
    let (car, key) = (repo.car(), repo.key.did_key());
    let folder = folder(&[("a\u{1b}[2J\nb.car", &car[..100])]);
    let name = path(&folder, "a\u{1b}[2J\nb.car");
    let exported = Export::of(None, &[&name, "--key", &key]).run();
    assert_eq!(exported.status, Some(1));
    for line in &exported.errors {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(
        exported.errors[0].contains("a\\u{1b}[2J\\nb.car: car: "),
        "{:#?}",
        exported.errors
    );

    let limit = (car.len() - 1).to_string();
    let export = Export::of(None, &["-", "--key", &key, "--max-repo-bytes", &limit]);
    let exported = export.input(car).run();
    assert_eq!(exported.failure("standard input").0, "too_large");
    // The memory of the process itself: a file, but none that can be read from its beginning.
    let exported = Export::of(None, &["/proc/self/mem", "--key", &key]).run();
    assert_eq!(exported.status, Some(1));
    let (reason, text) = exported.failure("/proc/self/mem");
    assert_eq!(reason, "car");
    assert!(text.starts_with("cannot be read: "), "{text}");
}
