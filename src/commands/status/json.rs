//! A look as a JSON object. Its keys are stable, all of them are always there, and where nothing is known they are null.

use data_encoding::BASE64_NOPAD;
use serde_json::{Map, Value, json};

use super::Look;
use super::sample::{AGES, Consumer, Rate, Sample};
use crate::config::Config;

/// The object, in one line.
pub(super) fn line(look: &Look, config: &Config) -> String {
    let (sample, rate, error) = match look {
        Look::There(sample, rate) => (Some(&**sample), rate.as_ref(), Value::Null),
        Look::Away(why) => (None, None, Value::from(why.as_str())),
    };
    let known = |value: &dyn Fn(&Sample) -> Value| sample.map_or(Value::Null, value);
    let group = |value: &dyn Fn(&super::sample::Group) -> Value| {
        known(&|sample| sample.group.as_ref().map_or(Value::from(0), value))
    };
    json!({
        "now_ms": known(&|s| s.now_ms.into()),
        "redis": { "connected": sample.is_some(), "error": error },
        "queue": {
            "stream": config.backfill_stream,
            "exists": known(&|s| s.has_stream.into()),
            "length": known(&|s| s.glance.length.into()),
        },
        "group": {
            "name": config.group,
            "exists": known(&|s| s.group.is_some().into()),
            "pending": group(&|g| g.pending.into()),
            "undelivered": known(&|s| s.group.map_or(s.glance.length, |g| g.undelivered).into()),
            "undelivered_is_estimate": known(&|s| s.group.is_some_and(|g| g.is_estimate).into()),
        },
        "pending": known(&pending),
        "consumers": known(&|s| s.consumers.iter().map(consumer).collect()),
        "more_consumers": known(&|s| s.more_consumers.into()),
        "output": {
            "stream": config.firehose_stream,
            "length": known(&|s| s.output.into()),
            "high_water_mark": config.high_water_mark,
        },
        "dead_letters": {
            "stream": config.dlq_stream,
            "length": known(&|s| s.dead.length.into()),
            "looked_at": known(&|s| s.dead.counts.total.into()),
            "by_reason": known(&|s| s.dead.counts.json()),
        },
        "rate": rate.map_or(Value::Null, rate_json),
    })
    .to_string()
}

fn pending(sample: &Sample) -> Value {
    let pending = &sample.pending;
    let limits = AGES.iter().map(|(_, seconds)| Value::from(*seconds));
    let by_age: Vec<_> = limits
        .chain([Value::Null])
        .zip(pending.by_age)
        .map(|(limit, count)| json!({ "below_seconds": limit, "count": count }))
        .collect();
    let by_attempts: Map<_, _> = pending
        .by_attempts
        .iter()
        .map(|(attempts, count)| (attempts.to_string(), Value::from(*count)))
        .collect();
    json!({
        "looked_at": pending.looked_at,
        "is_sample": pending.is_sample,
        "by_age": by_age,
        "by_attempts": by_attempts,
    })
}

fn consumer(consumer: &Consumer) -> Value {
    json!({
        "name": exact(&consumer.name),
        "alive": consumer.holder.is_some(),
        "holder": consumer.holder.as_deref().map_or(Value::Null, exact),
        "pending": consumer.pending,
        "idle_ms": consumer.idle_ms,
        "inactive_ms": consumer.inactive_ms,
    })
}

fn rate_json(rate: &Rate) -> Value {
    json!({
        "seconds": rate.seconds,
        "done": rate.done,
        "done_per_second": rate.per_second,
        "seconds_left": rate.seconds_left,
    })
}

/// Text as it is; bytes that are none as `{"$bytes": base64}`.
fn exact(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "$bytes": BASE64_NOPAD.encode(bytes) }),
    }
}
