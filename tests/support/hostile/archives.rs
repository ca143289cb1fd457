//! Archives with wrong hashes (R2), wrong roots (R3), and without their end (R4).

use sha2::{Digest, Sha512};

use super::super::fixture_server::Fault;
use super::super::generator::car::{self, frame, frames, header};
use super::super::generator::{Cid, Repo, Value};
use super::Catalogue;

/// A record, a node and the commit of a repo, by name.
fn parts(repo: &Repo) -> [(&'static str, Cid); 3] {
    let node = *repo.nodes.last().expect("a node");
    [
        ("a record", repo.expected[1].cid),
        ("a node", node),
        ("the commit", repo.commit_cid),
    ]
}

/// The index of the block's frame; the header's is 0.
fn frame_of(repo: &Repo, cid: Cid) -> usize {
    let is_it = |(known, _): &(Cid, Vec<u8>)| *known == cid;
    repo.blocks.iter().position(is_it).expect("a block") + 1
}

pub fn wrong_hashes(catalogue: &mut Catalogue) {
    for part in 0..3 {
        let repo = catalogue.repo(12);
        let (name, cid) = parts(&repo)[part];
        let mut archive = repo.car();
        let end = frames(&archive)[frame_of(&repo, cid)].end;
        archive[end - 1] ^= 1;
        catalogue.add_car(format!("a flipped byte in {name}"), "car", &repo, archive);
    }
    for part in 0..3 {
        let repo = catalogue.repo(12);
        let (name, cid) = parts(&repo)[part];
        let mut archive = repo.car();
        let length = repo.block(cid).expect("a block").len();
        let end = frames(&archive)[frame_of(&repo, cid)].end;
        archive[end - length - 1] ^= 0x80;
        let name = format!("a flipped byte in the address of {name}");
        catalogue.add_car(name, "car", &repo, archive);
    }
    for part in 0..3 {
        let repo = catalogue.repo(12);
        let (name, cid) = parts(&repo)[part];
        let mut archive = repo.car();
        let content = repo.block(cid).expect("a block");
        let address = [&[1, 0x71, 0x13, 0x40][..], &Sha512::digest(content)].concat();
        let foreign = frame(&[&address, content].concat());
        let place = frames(&archive)[frame_of(&repo, cid)].clone();
        archive.splice(place, foreign);
        let name = format!("{name} under its SHA-512");
        catalogue.add_car(name, "incomplete", &repo, archive);
    }
    let repo = catalogue.repo(12);
    let mut archive = repo.car();
    let stray = Cid::raw(b"a blob").bytes();
    archive.extend(frame(&[&stray[..], b"another blob"].concat()));
    catalogue.add_car("a wrong block that nothing needs", "car", &repo, archive);
}

pub fn wrong_roots(catalogue: &mut Catalogue) {
    let with_header = |repo: &Repo, header: Vec<u8>| {
        let mut archive = repo.car();
        let old = frames(&archive)[0].clone();
        archive.splice(old, header);
        archive
    };
    let repo = catalogue.repo(5);
    catalogue.add_car("no root", "car", &repo, with_header(&repo, header(&[])));
    let repo = catalogue.repo(5);
    let raw = Cid::raw(repo.commit());
    let archive = with_header(&repo, header(&[raw]));
    catalogue.add_car("a raw root", "car", &repo, archive);
    let repo = catalogue.repo(5);
    let archive = car::write(&[repo.commit_cid], &repo.blocks[1..]);
    catalogue.add_car("the root's block is missing", "incomplete", &repo, archive);
    let repo = catalogue.repo(5);
    let archive = with_header(&repo, header(&[repo.root, repo.commit_cid]));
    catalogue.add_car("the commit is the second root", "commit", &repo, archive);
    let repo = catalogue.repo(5);
    let archive = with_header(&repo, header(&[repo.expected[0].cid]));
    catalogue.add_car("a record as the root", "commit", &repo, archive);
    let repo = catalogue.repo(5);
    let version_2 = frame(&Value::map([("version", Value::Int(2))]).encode());
    let archive = with_header(&repo, version_2);
    catalogue.add_car("the header of version 2", "car", &repo, archive);
    let repo = catalogue.repo(5);
    let roots = Value::List(vec![Value::text(repo.commit_cid.to_string())]);
    let text = frame(&Value::map([("version", Value::Int(1)), ("roots", roots)]).encode());
    catalogue.add_car("a root as text", "car", &repo, with_header(&repo, text));
    let repo = catalogue.repo(5);
    let page = b"<!doctype html><title>Hello</title>".to_vec();
    catalogue.add_car("no archive at all", "car", &repo, page);
}

pub fn cut_short(catalogue: &mut Catalogue) {
    let count = frames(&catalogue.repo(4).car()).len();
    for boundary in 1..count {
        let repo = catalogue.repo(4);
        let mut archive = repo.car();
        let frames = frames(&archive);
        // The trees of different keys differ; a cut before the last frame is one in any of them.
        let end = frames[boundary.min(frames.len() - 1) - 1].end;
        archive.truncate(end);
        let name = format!("cut behind frame {boundary}");
        catalogue.add_car(name, "incomplete", &repo, archive);
    }
    for (name, back) in [("one byte", 1), ("half of a record", 60)] {
        let repo = catalogue.repo(4);
        let mut archive = repo.car();
        archive.truncate(archive.len() - back);
        catalogue.add_car(format!("{name} short"), "car", &repo, archive);
    }
    let repo = catalogue.repo(4);
    let mut archive = repo.car();
    let last = frames(&archive).pop().expect("a frame");
    assert!(archive[last.start] >= 0x80, "its length takes two bytes");
    archive.truncate(last.start + 1);
    catalogue.add_car("cut inside the length of a frame", "car", &repo, archive);
    let repo = catalogue.repo(4);
    let mut archive = repo.car();
    let header = frames(&archive)[0].end;
    archive.truncate(header - 3);
    catalogue.add_car("cut inside the header", "car", &repo, archive);
    let repo = catalogue.repo(4);
    catalogue.add_car("nothing", "car", &repo, Vec::new());
    let repo = catalogue.repo(4);
    let archive = [repo.car(), vec![0x80, 0x80]].concat();
    catalogue.add_car("the length of one more frame begins", "car", &repo, archive);
    let repo = catalogue.repo(4);
    let archive = [repo.car(), vec![0xff; 20]].concat();
    catalogue.add_car("a length without end", "car", &repo, archive);
    let repo = catalogue.repo(4);
    // 1 TiB.
    let huge = vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    let archive = [repo.car(), huge].concat();
    catalogue.add_car("a frame of a terabyte", "car", &repo, archive);

    type Make = fn(usize) -> Fault;
    let faults: [(&str, &str, Make); 4] = [
        ("Content-Length", "network", |after| Fault::Truncate {
            after,
        }),
        ("chunked", "network", |after| Fault::TruncateChunked {
            after,
        }),
        ("a reset", "network", |after| Fault::Reset { after }),
        ("no length", "incomplete", |after| Fault::CloseDelimited {
            after: Some(after),
        }),
    ];
    for (framing, reason, fault) in faults {
        let repo = catalogue.repo(4);
        let after = frames(&repo.car())[2].end;
        let name = format!("{framing}, ended between frames");
        catalogue.add_fault(name, reason, &repo, fault(after));
        let repo = catalogue.repo(4);
        let after = frames(&repo.car())[2].end - 7;
        let name = format!("{framing}, ended inside a frame");
        let reason = if framing == "no length" {
            "car"
        } else {
            reason
        };
        catalogue.add_fault(name, reason, &repo, fault(after));
    }
    // All bytes are there, but the framing is not at its end: the server may have had more to say.
    let repo = catalogue.repo(4);
    let fault = Fault::TruncateChunked { after: usize::MAX };
    catalogue.add_fault("chunked, without the last chunk", "network", &repo, fault);
}
