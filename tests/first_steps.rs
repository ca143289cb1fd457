//! The first steps of the README, as they stand there: an operator who has nothing else gets ten accounts done, sees why one
//! failed, tries it again, and exports one without Redis.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::backfiller::{Backfiller, binary};
use support::events::{OUTPUT, dead_letters, events_of, read_events, read_stream};
use support::fixture_server::{FixtureServer, served};
use support::generator::mixed_repo;
use support::ops::Ops;
use support::redis_server::RedisServer;
use support::wait::eventually;

/// The lines of the commands in the section, without their comments.
fn steps() -> Vec<String> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(readme).expect("the README");
    let (_, section) = readme.split_once("## First steps\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let blocks = section.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").expect("the block's end").0);
    let lines = blocks.flat_map(str::lines);
    lines
        .map(|line| {
            line.split(" #")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .collect()
}

/// Where the operator sits: his folder, and what has been set so far.
struct Shell<'a> {
    folder: &'a Path,
    env: BTreeMap<&'static str, String>,
    set: Vec<String>,
}

impl Shell<'_> {
    /// Runs a line; what it prints on standard output, when it ends well.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        let script = format!("{}\n{line}", self.set.join("\n"));
        let output = Command::new("bash")
            .args(["--norc", "-euc", &script])
            .current_dir(self.folder)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .output()
            .expect("bash");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[test]
fn the_first_steps_of_the_readme_work_as_they_stand_there() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let folder = tempfile::tempdir().expect("a folder");
    let mut accounts: Vec<_> = (1..10).map(|seed| served(&server, seed, 20)).collect();
    // The tenth is known to the directory, and its server has nothing of it.
    let failing = mixed_repo(10, 20);
    server.put_document(&failing.did, failing.did_document(&server.url()));
    let list: Vec<_> = accounts.iter().map(|repo| repo.did.as_str()).collect();
    let list = [list.join("\n"), failing.did.clone()].join("\n");
    fs::write(folder.path().join("accounts.txt"), list).expect("a file");

    let programs = binary().parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Shell {
        folder: folder.path(),
        env: BTreeMap::from([
            ("PATH", format!("{programs}:{path}")),
            ("REDIS_URL", redis.url()),
            ("BACKFILLER_PLC_URL", server.url()),
            ("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true".to_owned()),
        ]),
        set: Vec::new(),
    };
    let mut worker = None;
    let mut seen = Vec::new();
    for line in steps() {
        let word = line.split(' ').take(3).collect::<Vec<_>>().join(" ");
        match word.as_str() {
            "backfiller run" => {
                let started = Backfiller::builder(&redis, &server)
                    .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
                    .env("BACKFILLER_CONSUMER", "backfiller_1")
                    // The README's port may be taken here.
                    .env("BACKFILLER_METRICS_PORT", "0")
                    .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "100")
                    .arg("run")
                    .start();
                let ops = Ops::of(&started);
                let letters = || dead_letters(&mut connection).len() == 1;
                eventually("the tenth account is given up", letters);
                // What the page shows.
                assert_eq!(ops.get("/").status, 200);
                eventually("the page shows what has become of all", || {
                    let status = ops.status();
                    status["totals"]["repos"] == 9
                        && status["failures"][0]["reason"] == "repo_gone"
                        && status["failures"][0]["last"][0]["did"] == failing.did.as_str()
                        && status["dead_letters"]["last"][0]["did"] == failing.did.as_str()
                });
                worker = Some(started);
            }
            "backfiller enqueue --file" => {
                shell.run(&line);
                let messages = read_stream(&mut connection, "repo_backfill");
                assert_eq!(messages.len(), 10);
            }
            "backfiller dead-letters list" => {
                let printed = shell.run(&line);
                let letter = printed.lines().find(|line| line.contains(&failing.did));
                let letter = letter.unwrap_or_else(|| panic!("{printed}"));
                assert!(letter.contains("repo_gone"), "{letter}");
                seen.push(letter.split(' ').next().expect("a word").to_owned());
            }
            "backfiller dead-letters show" => {
                let printed = shell.run(&line);
                assert!(printed.contains(&failing.did), "{printed}");
                assert!(printed.contains("RepoNotFound"), "{printed}");
            }
            "backfiller dead-letters requeue" => {
                server.serve(&failing);
                shell.run(&line);
                eventually("the tenth account is done", || {
                    let events = read_events(&mut connection, OUTPUT);
                    !events_of(&events, &failing.did).is_empty()
                });
                assert!(dead_letters(&mut connection).is_empty());
            }
            // What the operator copies from what he sees.
            word if word.starts_with("ID=") => shell.set.push(format!("ID={}", seen[0])),
            word if word.starts_with("DID=") => shell.set.push(format!("DID={}", failing.did)),
            word if word.starts_with("export ") => shell.set.push(line.clone()),
            _ => {
                if line.starts_with("backfiller export") {
                    shell
                        .env
                        .insert("REDIS_URL", "redis://127.0.0.1:1".to_owned());
                }
                shell.run(&line);
            }
        }
    }
    assert!(worker.is_some_and(|mut worker| worker.is_running()));

    // What came of it: all ten in the stream, and the tenth as a file with the same events.
    let events = read_events(&mut connection, OUTPUT);
    accounts.push(failing);
    for account in &accounts {
        assert!(!events_of(&events, &account.did).is_empty());
    }
    let failing = accounts.pop().expect("the tenth");
    let file = fs::read_to_string(folder.path().join("account.ndjson")).expect("the export");
    let without_time = |text: &str| {
        let mut event: serde_json::Value = serde_json::from_str(text).expect("JSON");
        event["time"].take();
        event
    };
    let exported: Vec<_> = file.lines().map(without_time).collect();
    let written = events_of(&events, &failing.did);
    let written: Vec<_> = written
        .iter()
        .map(|event| without_time(&event.raw))
        .collect();
    assert_eq!(exported, written);
    assert_eq!(exported.len(), failing.expected.len() + 1);
}
