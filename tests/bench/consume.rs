//! What Redis pays for a consumer of the output, and how large the output is in its memory.

use redis::streams::StreamReadReply;

use crate::stage::{OUTPUT, Stage};

/// How many entries are asked for at a time, like a chunk of ours.
const BATCH: usize = 500;
const GROUP: &str = "consumers";

/// Of the output of one run.
#[derive(Clone, Copy, Debug)]
pub struct Consumed {
    /// CPU time of Redis.
    pub redis: f64,
    /// Memory of the whole stream.
    pub bytes: u64,
}

impl Consumed {
    pub fn at_best(self, other: Option<Consumed>) -> Consumed {
        let redis = other.map_or(self.redis, |other| self.redis.min(other.redis));
        Consumed { redis, ..self }
    }
}

/// Reads the output as one consumer of a group does, in batches that are acknowledged and deleted.
pub fn run(stage: &mut Stage) -> Consumed {
    let mut usage = redis::cmd("MEMORY");
    usage.arg("USAGE").arg(OUTPUT).arg("SAMPLES").arg(0);
    let bytes = stage.ask(&usage);
    let mut group = redis::cmd("XGROUP");
    group.arg("CREATE").arg(OUTPUT).arg(GROUP).arg(0);
    let () = stage.ask(&group);
    let before = stage.clocks();
    loop {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg("bench");
        read.arg("COUNT").arg(BATCH);
        read.arg("STREAMS").arg(OUTPUT).arg(">");
        let reply: Option<StreamReadReply> = stage.ask(&read);
        let entries = reply.into_iter().flat_map(|reply| reply.keys);
        let ids: Vec<String> = entries
            .flat_map(|stream| stream.ids)
            .map(|id| id.id)
            .collect();
        if ids.is_empty() {
            break;
        }
        let mut done = redis::pipe();
        done.cmd("XACK").arg(OUTPUT).arg(GROUP).arg(&ids).ignore();
        done.cmd("XDEL").arg(OUTPUT).arg(&ids).ignore();
        let () = done
            .query(&mut stage.connection)
            .expect("the entries are deleted");
    }
    Consumed {
        redis: stage.since(&before).redis.as_secs_f64(),
        bytes,
    }
}
