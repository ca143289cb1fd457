//! What the sink leaves behind when the writing of a repo ends in its midst, as a panic would end it (I5): the connection must
//! not hand the replies of one job to the next.

mod support;

use std::sync::Arc;

use rsky_backfiller::cli::{Cli, RedisOptions};
use rsky_backfiller::config::Config;
use rsky_backfiller::connection::Patience;
use rsky_backfiller::memory::Budget;
use rsky_backfiller::metrics::Metrics;
use rsky_backfiller::queue::fence::Standing;
use rsky_backfiller::queue::held::Held;
use rsky_backfiller::queue::{Job, Message};
use rsky_backfiller::repo::link::Link;
use rsky_backfiller::repo::mst;
use rsky_backfiller::shutdown::Shutdown;
use rsky_backfiller::sink::{EventWriter as _, Sink};
use rsky_backfiller::status::Slot;
use support::blocks;
use support::events::{GROUP, INPUT, OUTPUT, enqueue, pending_messages, stream_len};
use support::generator::{Repo, RepoBuilder, did_plc, records};
use support::redis_server::RedisServer;
use support::wait::eventually;

fn sink(redis: &RedisServer) -> Sink {
    let cli = Cli {
        redis: RedisOptions {
            redis_url: Some(redis.url()),
            ..RedisOptions::default()
        },
        consumer: Some("backfiller_1".to_owned()),
        ..Cli::default()
    };
    let config = Arc::new(Config::from_cli(&cli).expect("a configuration"));
    let shutdown = Shutdown::default();
    let (metrics, slot) = (Arc::new(Metrics::default()), Arc::new(Slot::default()));
    let memory = Budget::new(u64::MAX);
    Sink::new(
        &config,
        &shutdown,
        Default::default(),
        &memory,
        metrics,
        slot,
    )
    .expect("a sink")
}

fn job(repo: &Repo, id: &str) -> Job {
    let value = format!(r#"{{"did":"{}"}}"#, repo.did).into_bytes();
    Job {
        hold: Arc::new(Held::default()).hold(id).expect("held once"),
        id: id.to_owned(),
        message: Message::parse(&value).expect("a message"),
        value,
        attempt: 1,
        learnt: None,
    }
}

/// How often the server was asked for the length of a stream.
fn lengths_asked(connection: &mut redis::Connection) -> u64 {
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(connection)
        .expect("INFO");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_xlen:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn i5_replies_of_a_job_that_ended_in_its_midst_are_not_read_by_the_next() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let repo = RepoBuilder::new(did_plc(1))
        .records(records::mixed(1, 600))
        .build();
    let mut blocks = blocks::store(&repo.blocks);
    let root = repo.root.bytes();
    let mut tree = mst::prove(&mut blocks, Link(&root)).expect("a tree");
    let commit = cid::Cid::try_from(repo.commit_cid.bytes().as_slice()).expect("a CID");
    let id = delivered(&mut connection, &repo);
    let mut job = job(&repo, &id);

    let mut sink = sink(&redis);
    assert!(sink.wait_for_room(Patience::UntilShutdown).expect("room"));
    let acquire = |sink: &mut Sink, job: &mut Job| {
        let standing = sink.acquire(job).expect("an answer");
        assert_eq!(standing, Some(Standing::Mine));
    };
    acquire(&mut sink, &mut job);
    let mut writer = sink.begin(&job, &commit, &repo.rev);
    let mut walk = tree.walk();
    while let Some(leaf) = walk.next(&tree).expect("a leaf") {
        let skipped = writer
            .record(&leaf, tree.record(&leaf).expect("in memory"))
            .expect("written");
        assert_eq!(skipped, None);
    }
    // The first chunk is executed, and nobody has read the replies to it.
    eventually("the chunk that was sent is executed", || {
        stream_len(&mut connection, OUTPUT) == 501
    });
    drop(writer);

    // The next job asks for room: at once or, where the length is remembered, as soon as it is too old.
    let before = lengths_asked(&mut connection);
    eventually("the sink asks for the length", || {
        assert!(sink.wait_for_room(Patience::UntilShutdown).expect("room"));
        lengths_asked(&mut connection) > before
    });
    acquire(&mut sink, &mut job);
    let writer = sink.begin(&job, &commit, &repo.rev);
    assert_eq!(
        writer.resumed(),
        500,
        "and Redis knows how far the repo is written"
    );
    drop(writer);
    assert!(sink.wait_for_room(Patience::UntilShutdown).expect("room"));
}

/// A message that was read, and then taken over and tried by others, is not read as often as it was tried.
#[test]
fn attempts_that_others_made_since_a_message_was_read_count() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let repo = RepoBuilder::new(did_plc(1)).build();
    let id = delivered(&mut connection, &repo);
    let () = redis::cmd("XCLAIM")
        .arg(&[INPUT, GROUP, "other", "0", &id, "RETRYCOUNT", "5", "JUSTID"])
        .query(&mut connection)
        .expect("XCLAIM");
    let (mut sink, mut job) = (sink(&redis), job(&repo, &id));
    let standing = sink.acquire(&mut job).expect("an answer");
    assert_eq!((standing, job.attempt), (Some(Standing::Mine), 6));
    let pending = pending_messages(&mut connection);
    assert_eq!(pending[0].deliveries, 6);
}

/// A message of the repo, delivered to the sink's consumer; returns its id.
fn delivered(connection: &mut redis::Connection, repo: &Repo) -> String {
    let () = redis::cmd("XGROUP")
        .arg(&["CREATE", INPUT, GROUP, "0", "MKSTREAM"])
        .query(connection)
        .expect("a group");
    let id = enqueue(connection, &repo.did, None);
    let () = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, "backfiller_1", "STREAMS", INPUT, ">"])
        .query(connection)
        .expect("a delivery");
    id
}
