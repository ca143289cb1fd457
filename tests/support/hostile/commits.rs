//! Commits that are not what their owner signed, or that no owner may sign (R5).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::generator::{
    Block, Cid, Repo, SigningKey, Value, did_plc, set_field, sign_commit_with, tid,
};
use super::Catalogue;

/// The rev of a commit made so much later than now.
pub fn rev_ahead(ahead: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    tid((now + ahead).as_micros() as u64, 3)
}

/// The repo under another commit, whatever it is.
fn with_commit(mut repo: Repo, commit: Block) -> Repo {
    repo.commit_cid = commit.0;
    repo.blocks[0] = commit;
    repo
}

pub fn fill(catalogue: &mut Catalogue) {
    let ahead = rev_ahead(Duration::from_secs(360));
    let deep = Value::List((0..100).map(|_| Value::Null).collect());
    let fields = [
        ("version 2", "commit", "version", Value::Int(2)),
        ("version 4", "commit", "version", Value::Int(4)),
        ("version 259", "commit", "version", Value::Int(259)),
        ("a version as text", "commit", "version", Value::text("3")),
        (
            "another DID",
            "did_mismatch",
            "did",
            Value::text(did_plc(1)),
        ),
        ("no DID", "commit", "did", Value::Null),
        ("a rev 6 minutes ahead", "commit", "rev", Value::text(ahead)),
        (
            "a rev that is no TID",
            "commit",
            "rev",
            Value::text("2025-01-01T00:00:00Z"),
        ),
        ("an empty rev", "commit", "rev", Value::text("")),
        (
            "a rev of 12 characters",
            "commit",
            "rev",
            Value::text("3lrhkyyzs222"),
        ),
        ("a prev of another kind", "commit", "prev", deep),
        ("data as text", "commit", "data", Value::text("bafy")),
    ];
    for (name, reason, field, value) in fields {
        let repo = catalogue.repo(5);
        let mut fields = repo.commit_fields();
        set_field(&mut fields, field, value);
        catalogue.add(name, reason, &repo.resign_with_fields(fields));
    }
    for missing in ["version", "did", "rev", "data"] {
        let repo = catalogue.repo(5);
        let mut fields = repo.commit_fields();
        fields.retain(|(name, _)| name != missing);
        let repo = repo.resign_with_fields(fields);
        catalogue.add(format!("no field {missing}"), "commit", &repo);
    }

    type Sign = fn(&SigningKey, &[u8]) -> Vec<u8>;
    let signatures: [(&str, Sign); 9] = [
        ("high S", |key, message| key.sign_high_s(message).to_vec()),
        ("DER", |key, message| key.sign_der(message)),
        ("the other key", |_, message| {
            SigningKey::k256(1).sign(message).to_vec()
        }),
        ("the hash of other bytes", |key, message| {
            key.sign(&message[1..]).to_vec()
        }),
        ("63 bytes", |key, message| key.sign(message)[..63].to_vec()),
        ("65 bytes", |key, message| {
            [&key.sign(message)[..], &[0]].concat()
        }),
        ("no bytes", |_, _| Vec::new()),
        ("zeros", |_, _| vec![0; 64]),
        ("r and s exchanged", |key, message| {
            let signature = key.sign(message);
            [&signature[32..], &signature[..32]].concat()
        }),
    ];
    for (name, sign) in signatures {
        // With a key of either curve.
        for key in [SigningKey::k256(77), SigningKey::p256(77)] {
            let mut repo = catalogue.repo(5);
            let curve = key.type_of_2019();
            repo.key = key;
            let repo = repo.resign_with(sign);
            catalogue.add(format!("{name} ({curve})"), "signature", &repo);
        }
    }

    let repo = catalogue.repo(5);
    let commit = Value::Map(repo.commit_fields()).encode();
    let commit = (Cid::dag_cbor(&commit), commit);
    catalogue.add("no signature", "commit", &with_commit(repo, commit));
    let repo = catalogue.repo(5);
    let signed = repo.commit_fields();
    let mut fields = signed.clone();
    set_field(&mut fields, "more", Value::Int(1));
    let signature = repo.key.sign(&Value::Map(signed).encode());
    let commit = sign_commit_with(fields, |_| signature.to_vec());
    let repo = with_commit(repo, commit);
    catalogue.add("a field that is not signed", "signature", &repo);
    let repo = catalogue.repo(5);
    let other = catalogue.repo(6).root;
    let signature = repo.key.sign(&Value::Map(repo.commit_fields()).encode());
    let mut fields = repo.commit_fields();
    set_field(&mut fields, "data", Value::Link(other));
    let commit = sign_commit_with(fields, |_| signature.to_vec());
    let repo = with_commit(repo, commit);
    catalogue.add("the signature of another tree", "signature", &repo);
    let repo = catalogue.repo(5);
    // {"a": [[[…]]], …}: a reader that recurses would not come back.
    let mut block = vec![0xa1, 0x61, b'a'];
    block.extend([0x81].repeat(100_000));
    block.push(0xf6);
    let commit = (Cid::dag_cbor(&block), block);
    catalogue.add("nested 100,000 deep", "commit", &with_commit(repo, commit));
    let repo = catalogue.repo(5);
    let mut block = repo.commit().to_vec();
    block.push(0);
    let commit = (Cid::dag_cbor(&block), block);
    catalogue.add(
        "a byte behind the commit",
        "commit",
        &with_commit(repo, commit),
    );
}
