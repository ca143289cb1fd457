//! BACKFILLER_COLLECTIONS: the records of other collections become no events, and that is all that is different. They are proved, they
//! count in the progress, and so a list that changes while a repo is half written neither repeats nor shifts anything.

mod support;

use tempfile::TempDir;

use support::events::{
    Event, OUTPUT, assert_repo, assert_repo_events, events_of, progress_keys, read_events,
    stream_len, take_events, wait_until_drained,
};
use support::filtered::{COLLECTIONS, Stage, every, in_turns, is, of_kind};
use support::fleet::Fleet;
use support::generator::{Cid, ExpectedRecord, Record, Repo, RepoBuilder, Value, did_plc};
use support::heavy::varied;
use support::hostile::outcomes;
use support::instances::{end_well, has_said, summary};
use support::proxy::{Action, Exec};
use support::spilled::frugal;
use support::wait::eventually;

/// The events of these records, and no others.
#[track_caller]
fn assert_records(events: &[Event], repo: &Repo, expected: &[ExpectedRecord]) {
    let commit = repo.commit_cid.to_string();
    assert_repo_events(events, &repo.did, &commit, &repo.rev, expected);
}

/// Also at the borders of chunks: these count what is written, not what is passed.
#[test]
fn only_wanted_records_become_events_500_of_them_in_a_chunk() {
    let mut stage = Stage::new();
    // 499, 500, 501 and 1001 even records, between as many odd ones.
    let sizes = [(2, 499), (4, 250), (6, 167), (14, 143)];
    let repos = [1, 2, 3, 4].map(|seed| {
        let (collections, each) = sizes[seed as usize - 1];
        in_turns(seed, collections, each)
    });
    let list = every("even", &repos[3]);
    repos.iter().for_each(|repo| stage.put(repo));
    let backfiller = stage.program(&list).start();
    wait_until_drained(&mut stage.connection);
    let events = read_events(&mut stage.connection, OUTPUT);
    let mut filtered = 0;
    for (repo, chunks) in repos.iter().zip([1, 1, 2, 3]) {
        let wanted = of_kind("even", &repo.expected);
        assert_records(&events, repo, &wanted);
        let of_repo = events_of(&events, &repo.did).into_iter();
        let of_repo = of_repo.filter(|event| event.text("type") == "repo");
        assert_eq!(of_repo.count(), chunks, "{} records", wanted.len());
        filtered += repo.expected.len() - wanted.len();
        let counts = format!(" records={} ", wanted.len());
        let rest = format!(" filtered={} ", repo.expected.len() - wanted.len());
        backfiller.wait_for_line(|line| {
            line.contains(&format!("done did={} ", repo.did))
                && line.contains(&counts)
                && line.contains(&rest)
        });
    }
    let backfiller = end_well(backfiller);
    assert_eq!(summary(&backfiller, "filtered"), filtered as u64);
    assert_eq!(summary(&backfiller, "skipped"), 0);
    assert_eq!(summary(&backfiller, "failures"), 0);
}

#[test]
fn a_prefix_stands_for_all_below_it_and_all_for_everything() {
    for (list, wanted) in [
        (
            "app.bsky.feed.*",
            &["app.bsky.feed.like", "app.bsky.feed.post"][..],
        ),
        (
            " app.bsky.feeds.x , app.bsky.feed.post",
            &["app.bsky.feed.post", "app.bsky.feeds.x"],
        ),
        (
            "all",
            &[
                "app.bsky.feed.like",
                "app.bsky.feed.post",
                "app.bsky.feeds.x",
            ],
        ),
        (
            "",
            &[
                "app.bsky.feed.like",
                "app.bsky.feed.post",
                "app.bsky.feeds.x",
            ],
        ),
    ] {
        let mut stage = Stage::new();
        let record = |name: &str| Record::new(name, "a", Value::map([("n", Value::Int(1))]));
        let repo = RepoBuilder::new(did_plc(1))
            .records(
                [
                    "app.bsky.feed.like",
                    "app.bsky.feed.post",
                    "app.bsky.feeds.x",
                ]
                .map(record),
            )
            .build();
        stage.put(&repo);
        let _backfiller = stage.program(list).start();
        wait_until_drained(&mut stage.connection);
        let events = read_events(&mut stage.connection, OUTPUT);
        let creates = events.iter().filter(|event| event.text("type") == "create");
        let written: Vec<_> = creates.map(|event| event.text("collection")).collect();
        assert_eq!(written, wanted, "{list:?}");
    }
}

#[test]
fn a_repo_of_which_nothing_is_wanted_is_one_repo_event() {
    let mut stage = Stage::new();
    let repos = [in_turns(1, 4, 400), RepoBuilder::new(did_plc(2)).build()];
    repos.iter().for_each(|repo| stage.put(repo));
    let backfiller = stage.program("com.example.other").start();
    wait_until_drained(&mut stage.connection);
    let events = read_events(&mut stage.connection, OUTPUT);
    for repo in &repos {
        assert_records(&events, repo, &[]);
    }
    assert_eq!(events.len(), 2);
    assert_eq!(summary(&end_well(backfiller), "filtered"), 1600);
}

/// What is not wanted is not looked into, but a key that is none belongs to no collection.
#[test]
fn unwanted_records_are_filtered_and_bad_keys_skipped() {
    let mut stage = Stage::new();
    let bad = || vec![0xff];
    let repo = in_turns(1, 2, 3);
    let records = repo.expected.iter().map(|it| {
        let block = repo.block(it.cid).expect("a block").to_vec();
        (it.clone(), block)
    });
    let mut builder = RepoBuilder::new(did_plc(1))
        .raw_record("aa.even.c", "bad", bad())
        .raw_record("ab.odd.c", "bad", bad())
        .raw_key_record("no key", Cid::dag_cbor(&bad()), Some(bad()))
        .raw_key_record("ab.odd.c/n o", Cid::dag_cbor(&bad()), Some(bad()));
    for (it, block) in records {
        builder = builder.raw_record_expecting(&it.collection, &it.rkey, block, it.json);
    }
    let repo = builder.build();
    stage.put(&repo);
    let backfiller = stage.program("aa.even.c").start();
    wait_until_drained(&mut stage.connection);
    let events = read_events(&mut stage.connection, OUTPUT);
    assert_records(&events, &repo, &of_kind("even", &repo.expected));
    let backfiller = end_well(backfiller);
    let counts = ["records", "filtered", "skipped"].map(|name| summary(&backfiller, name));
    assert_eq!(counts, [3, 4, 3]);
}

/// Nothing of what is proved depends on what is wanted (R2, R7).
#[test]
fn unwanted_records_are_proved() {
    let mut stage = Stage::new();
    let mut missing = in_turns(1, 2, 40);
    let last = missing.expected.last().expect("a record").clone();
    assert!(is("odd", &last.collection));
    missing.blocks.retain(|(cid, _)| *cid != last.cid);
    let mut flipped = in_turns(2, 2, 40);
    let last = flipped.expected.last().expect("a record").cid;
    let block = flipped.blocks.iter_mut().find(|(cid, _)| *cid == last);
    *block.expect("a block").1.last_mut().expect("a byte") ^= 1;
    let repos = [("incomplete", missing), ("car", flipped)];
    repos.iter().for_each(|(_, repo)| stage.put(repo));
    let backfiller = stage.program("aa.even.c").start();
    let ended = outcomes::wait_for(&backfiller, 2);
    for (reason, repo) in &repos {
        let failed = outcomes::of(&ended, &repo.did);
        assert!(
            failed.line.contains(&format!(" reason={reason} ")),
            "{}",
            failed.line
        );
    }
    assert_eq!(stream_len(&mut stage.connection, OUTPUT), 0);
}

/// What the second instance writes, with the list `second`, after the first one has died behind its first chunk, with the even ones.
#[track_caller]
fn resumed_with(second: &str, then: impl Fn(&[ExpectedRecord]) -> Vec<ExpectedRecord>) {
    let mut stage = Stage::new();
    let repo = in_turns(1, 20, 100);
    stage.put(&repo);
    // Waits after each chunk until the output is emptied.
    let mut first = stage
        .program(&every("even", &repo))
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    eventually("the first chunk is written", || {
        stream_len(&mut stage.connection, OUTPUT) == 501
    });
    first.kill();
    let mut events = take_events(&mut stage.connection);
    // Five even collections, and the four odd ones between and the one behind them.
    let (before, behind) = repo.expected.split_at(1000);
    let progress = &progress_keys(&mut stage.connection)[..];
    let [progress] = progress else {
        panic!("one progress: {progress:?}");
    };
    let written: String = redis::cmd("HGET")
        .arg(progress)
        .arg(repo.commit_cid.to_string())
        .query(&mut stage.connection)
        .expect("the leaves passed");
    assert!(written.starts_with("1000 "), "{written}");

    let second = stage.program(second).env("BACKFILLER_CONSUMER", "second");
    let second = second.start();
    wait_until_drained(&mut stage.connection);
    assert!(has_said(&second, "going on behind leaf 1000"));
    events.extend(read_events(&mut stage.connection, OUTPUT));
    let mut expected = of_kind("even", before);
    let rest = then(behind);
    let filtered = (behind.len() - rest.len()) as u64;
    expected.extend(rest);
    assert_records(&events, &repo, &expected);
    assert_eq!(summary(&end_well(second), "filtered"), filtered);
}

#[test]
fn a_list_that_changes_between_chunks_neither_repeats_nor_shifts() {
    let repo = in_turns(1, 20, 100);
    resumed_with(&every("odd", &repo), |behind| of_kind("odd", behind));
}

#[test]
fn a_list_that_goes_away_between_chunks_neither_repeats_nor_shifts() {
    resumed_with("all", <[_]>::to_vec);
}

/// The rest may be nothing: then the last chunk is the `repo` event alone, as that of an empty repo.
#[test]
fn a_list_that_wants_nothing_of_the_rest_ends_the_repo() {
    let mut stage = Stage::new();
    let repo = in_turns(1, 20, 100);
    stage.put(&repo);
    let mut first = stage
        .program("all")
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    eventually("the first chunk is written", || {
        stream_len(&mut stage.connection, OUTPUT) == 501
    });
    first.kill();
    take_events(&mut stage.connection);
    let second = stage
        .program("com.example.other")
        .env("BACKFILLER_CONSUMER", "second")
        .start();
    wait_until_drained(&mut stage.connection);
    let events = read_events(&mut stage.connection, OUTPUT);
    let kinds: Vec<_> = events.iter().map(|event| event.text("type")).collect();
    assert_eq!(kinds, ["repo"]);
    assert_eq!(summary(&end_well(second), "filtered"), 1500);
}

#[test]
fn a_connection_that_is_cut_neither_repeats_nor_shifts_filtered_events() {
    let mut fleet = Fleet::new(&[]);
    let list = "app.bsky.actor.*,app.bsky.feed.like,app.bsky.feed.repost,app.bsky.graph.block";
    let instance = fleet.start_with(1, |program| program.env(COLLECTIONS, list));
    let cuts = [(Action::CutBefore, 2), (Action::CutAfter, 4)].map(|(action, place)| {
        let mut chunks = 0;
        instance.proxy.once(action, move |exec: &Exec| {
            chunks += usize::from(exec.is_chunk());
            chunks == place
        })
    });
    fleet.put(&[6000]);
    wait_until_drained(&mut fleet.connection);
    assert_eq!(cuts.each_ref().map(|cut| cut.count()), [1, 1]);
    let unwanted = ["app.bsky.feed.post", "app.bsky.graph.follow"];
    let expected = &mut fleet.repos[0].expected;
    expected.retain(|record| !unwanted.contains(&record.collection.as_str()));
    assert!(expected.len() > 2000, "several chunks: {}", expected.len());
    fleet.assert_written_once([instance]);
}

#[test]
fn a_spilled_repo_is_filtered_as_any_other() {
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let mut repo = varied();
    stage.put(&repo);
    let list = "app.bsky.feed.like,com.example.*";
    let backfiller = frugal(stage.program(list), folder.path()).start();
    wait_until_drained(&mut stage.connection);
    let all = repo.expected.len();
    repo.expected.retain(|record| {
        record.collection == "app.bsky.feed.like" || record.collection.starts_with("com.example.")
    });
    assert_repo(&read_events(&mut stage.connection, OUTPUT), &repo);
    let backfiller = end_well(backfiller);
    assert_eq!(summary(&backfiller, "spills"), 1);
    let filtered = all - repo.expected.len();
    assert!(filtered > 1000);
    assert_eq!(summary(&backfiller, "filtered"), filtered as u64);
}
