//! Where `backfiller export` writes: a file is there when it is whole or not at all, and a reader that has seen enough, or a Ctrl-C, leaves
//! whole lines.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use support::exporting::{Export, folder, lines_of, path};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::mixed_repo;
use support::heavy;
use support::spilled::names;
use support::wait::eventually;

fn empty() -> (TempDir, String) {
    let folder = TempDir::new().expect("a folder");
    let out = path(&folder, "out.ndjson");
    (folder, out)
}

#[test]
fn a_file_is_there_when_all_is_written() {
    let server = FixtureServer::start();
    let (one, two) = (served(&server, 1, 700), served(&server, 2, 5));
    server.set_fault(&two.did, Fault::Hold { after: 10 });
    let (folder, out) = empty();
    let export = Export::of(Some(&server), &["--output", &out, &one.did, &two.did]);
    let running = export.start();
    server.wait_until_held(&two.did, 1);
    let part = || {
        let names = names(folder.path());
        let [name] = &names[..] else {
            panic!("one file: {names:?}");
        };
        assert!(
            name.starts_with(".out.ndjson.") && name.ends_with(".part"),
            "{name}"
        );
        fs::metadata(folder.path().join(name))
            .expect("the part")
            .len()
    };
    eventually("the first repo is written", || part() > 0);
    server.release(&two.did);
    let exported = running.wait();
    assert_eq!(exported.status, Some(0), "{:#?}", exported.errors);
    assert_eq!(exported.output, b"");
    assert_eq!(names(folder.path()), ["out.ndjson"]);
    let text = fs::read_to_string(&out).expect("the file");
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines_of(&lines, &one.did).len(), 702);
    assert_eq!(lines_of(&lines, &two.did).len(), 6);
    // As a file that the shell makes.
    let shell = fs::File::create(folder.path().join("shell")).expect("a file");
    let mode = |metadata: fs::Metadata| metadata.permissions().mode();
    assert_eq!(
        mode(fs::metadata(&out).expect("the file")),
        mode(shell.metadata().expect("the other"))
    );
}

#[test]
fn a_file_that_exists_is_replaced_only_by_force_and_only_when_all_is_written() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 5);
    let files = folder(&[("out.ndjson", b"before")]);
    let out = path(&files, "out.ndjson");
    Export::of(Some(&server), &["--output", &out, &repo.did])
        .run()
        .is_refused("--force");
    assert!(server.requests().is_empty());
    assert_eq!(fs::read(&out).expect("the file"), b"before");

    server.set_fault(&repo.did, Fault::Hold { after: 10 });
    let export = Export::of(Some(&server), &["--force", "--output", &out, &repo.did]);
    let running = export.start();
    server.wait_until_held(&repo.did, 1);
    assert_eq!(fs::read(&out).expect("the file"), b"before");
    server.release(&repo.did);
    assert_eq!(running.wait().status, Some(0));
    assert_eq!(
        fs::read_to_string(&out).expect("the file").lines().count(),
        6
    );
    assert_eq!(names(files.path()), ["out.ndjson"]);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 5);
    server.set_fault(&repo.did, Fault::Hold { after: 10 });
    let (folder, out) = empty();
    let running = Export::of(Some(&server), &["--output", &out, &repo.did]).start();
    server.wait_until_held(&repo.did, 1);
    fs::write(&out, "of another").expect("written");
    server.release(&repo.did);
    let exported = running.wait();
    assert_eq!(exported.status, Some(1));
    assert!(
        exported.errors.concat().contains("cannot be written"),
        "{:#?}",
        exported.errors
    );
    assert_eq!(fs::read(&out).expect("the file"), b"of another");
    // What was exported is not lost.
    let all = names(folder.path());
    assert_eq!(all.len(), 2, "{all:?}");
    let part = all.iter().find(|name| name.ends_with(".part"));
    let part = part.unwrap_or_else(|| panic!("{all:?}"));
    assert!(
        exported.errors.concat().contains(part),
        "{:#?}",
        exported.errors
    );
    let part = fs::read_to_string(folder.path().join(part)).expect("the part");
    assert_eq!(part.lines().count(), repo.expected.len() + 1);
}

#[test]
fn what_is_no_place_for_a_file_is_refused() {
    let files = folder(&[("file", b"")]);
    let link = files.path().join("link");
    symlink(files.path().join("file"), &link).expect("a link");
    let link = link.to_str().expect("a path").to_owned();
    for (out, what) in [
        ("/dev/null", "no file"),
        (".", "no file"),
        (&*link, "no file"),
        ("no-such-folder/out", "No such file"),
        ("out.ndjson/", "no name of a file"),
    ] {
        let export = Export::of(None, &["-", "--unverified", "--force", "--output", out]);
        export.input("").run().is_refused(what);
    }
    assert!(Path::new(&link).is_symlink());
}

#[test]
fn some_that_failed_are_no_reason_not_to_have_the_others() {
    let server = FixtureServer::start();
    let (good, gone) = (served(&server, 1, 5), served(&server, 2, 5));
    server.set_fault(&gone.did, Fault::xrpc(400, "RepoTakendown", ""));
    let (_folder, out) = empty();
    let export = Export::of(Some(&server), &["--output", &out, &good.did, &gone.did]);
    assert_eq!(export.run().status, Some(1));
    let text = fs::read_to_string(&out).expect("the file");
    assert_eq!(text.lines().count(), 6);
    assert!(!text.contains(&gone.did));
}

#[test]
fn a_disk_that_is_full_leaves_no_file() {
    let repo = heavy::repo(1, 4, 'x', 1 << 20);
    let files = folder(&[("repo.car", &repo.car())]);
    let (folder, out) = empty();
    let (car, key) = (path(&files, "repo.car"), repo.key.did_key());
    let args = [&*car, "--key", &key, "--output", &out];
    let exported = Export::with_largest_file(1 << 20, &args).run();
    assert_eq!(exported.status, Some(1));
    assert_eq!(exported.errors.len(), 1);
    assert!(
        exported.errors[0].contains("cannot be written"),
        "{:#?}",
        exported.errors
    );
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_process_that_is_killed_leaves_no_file_of_that_name() {
    let server = FixtureServer::start();
    let (one, two) = (served(&server, 1, 700), served(&server, 2, 5));
    server.set_fault(&two.did, Fault::Hold { after: 10 });
    let (folder, out) = empty();
    let export = Export::of(Some(&server), &["--output", &out, &one.did, &two.did]);
    let running = export.start();
    server.wait_until_held(&two.did, 1);
    eventually("the first repo is written", || {
        let parts = names(folder.path()).into_iter();
        parts
            .map(|name| fs::metadata(folder.path().join(name)).map_or(0, |it| it.len()))
            .sum::<u64>()
            > 0
    });
    running.signal(Signal::SIGKILL);
    assert_eq!(running.wait().status, None);
    assert!(!Path::new(&out).exists());
    let names = names(folder.path());
    assert!(
        names.iter().all(|name| name.ends_with(".part")),
        "{names:?}"
    );
}

#[test]
fn ctrl_c_ends_downloads_and_makes_no_file() {
    let server = FixtureServer::start();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (one, two) = (served(&server, 1, 700), served(&server, 2, 5));
        server.set_fault(&two.did, Fault::Hold { after: 10 });
        let (folder, out) = empty();
        let export = Export::of(Some(&server), &["--output", &out, &one.did, &two.did]);
        let running = export.start();
        server.wait_until_held(&two.did, 1);
        running.signal(signal);
        let exported = running.wait();
        assert_eq!(exported.status, Some(130));
        assert!(names(folder.path()).is_empty());
        let summary = exported.errors.last().expect("a summary");
        assert!(
            summary.contains("interrupted") && summary.contains("is not made"),
            "{summary}"
        );
        server.release(&two.did);
    }
}

/// A repo whose lines are more than a pipe takes.
fn long() -> (TempDir, String, String) {
    let repo = mixed_repo(1, 3000);
    let files = folder(&[("repo.car", &repo.car())]);
    let car = path(&files, "repo.car");
    (files, car, repo.key.did_key())
}

#[test]
fn ctrl_c_lets_the_repo_that_is_being_written_come_to_its_end() {
    let (_files, car, key) = long();
    let export = Export::of(None, &[&car, &car, &car, "--key", &key]).piped();
    let mut running = export.start();
    let mut pipe = running.child.0.stdout.take().expect("a pipe");
    let mut text = vec![0; 10];
    pipe.read_exact(&mut text).expect("the first bytes");
    running.signal(Signal::SIGINT);
    pipe.read_to_end(&mut text).expect("the rest");
    let exported = running.wait();
    assert_eq!(exported.status, Some(130));
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert!(text.ends_with('\n'));
    let whole = 3000 + 6;
    assert!(
        lines.len().is_multiple_of(whole) && lines.len() >= whole,
        "{}",
        lines.len()
    );
    assert!(lines[whole - 1].starts_with(r#"{"type":"repo""#));
    let summary = exported.errors.last().expect("a summary");
    let counted = format!("{} of 3 exported", lines.len() / whole);
    assert!(summary.contains(&counted), "{counted}: {summary}");
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let (_files, car, key) = long();
    let mut running = Export::of(None, &[&car, "--key", &key]).piped().start();
    let mut pipe = running.child.0.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0; 10]).expect("the first bytes");
    running.signal(Signal::SIGINT);
    // Nobody reads on, so only the second one can end it.
    eventually("it has ended", || {
        running.signal(Signal::SIGINT);
        running.child.0.try_wait().expect("the state").is_some()
    });
    assert_eq!(running.wait().status, Some(130));
}

#[test]
fn a_second_ctrl_c_leaves_nothing_of_a_file() {
    let repo = heavy::repo(1, 60, 'x', 1 << 20);
    let files = folder(&[("repo.car", &repo.car())]);
    let (folder, out) = empty();
    let car = path(&files, "repo.car");
    let args = [&car, "--key", &repo.key.did_key(), "--output", &out];
    let mut running = Export::of(None, &args).start();
    eventually("it is being written", || {
        let part = names(folder.path());
        part.iter().any(|name| {
            let about = fs::metadata(folder.path().join(name));
            about.is_ok_and(|about| about.len() > 0)
        })
    });
    // What is being written is written to its end, so there is time for the second one.
    running.signal(Signal::SIGINT);
    eventually("it has ended", || {
        running.signal(Signal::SIGINT);
        running.child.0.try_wait().expect("the state").is_some()
    });
    let exported = running.wait();
    assert_eq!(exported.status, Some(130));
    let [said] = &exported.errors[..] else {
        panic!("it has come to its end: {:#?}", exported.errors);
    };
    assert!(said.contains("second signal"), "{said}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let (_files, car, key) = long();
    let mut running = Export::of(None, &[&car, &car, "--key", &key])
        .piped()
        .start();
    let mut pipe = running.child.0.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0; 10]).expect("the first bytes");
    drop(pipe);
    let exported = running.wait();
    // Not all was written.
    assert_eq!(exported.status, Some(1));
    assert_eq!(exported.errors, [""; 0]);
}
