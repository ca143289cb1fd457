//! The consumer name: at most one live process of the group has it.
//!
//! A key with a time to live holds the name, `<output>:consumer:<input>:<group>:<consumer>`; its value says who: host, process,
//! since when, and a token. The keeper renews it at a third of its time, so after a crash the name is free again within seconds.
//! A start waits for it as long as a crashed process may still seem to have it, and refuses to begin where the one who has it
//! goes on renewing it. Pinned by `tests/names.rs`.

use std::process;
use std::time::{Duration, Instant, SystemTime};

use redis::RedisResult;
use uuid::Uuid;

use super::progress;
use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::event::timestamp;
use crate::shutdown::Shutdown;

/// The longest time to live: how long a name stays taken after a crash.
const LONGEST: Duration = Duration::from_secs(10);
/// How often a start looks whether the name has become free.
const POLL: Duration = Duration::from_millis(100);

/// A consumer name, and who this process is.
pub struct Name {
    key: String,
    consumer: String,
    holder: String,
    ttl: Duration,
}

/// What taking a name has come to.
pub enum Taken {
    /// It is this process's.
    Yes,
    /// Another live process has it: who that is.
    By(String),
    /// Shutdown came first.
    Shutdown,
}

impl Name {
    /// The name of the configuration.
    pub fn new(config: &Config) -> Self {
        let consumer = &config.consumer;
        Name {
            key: format!("{}{consumer}", progress::prefix(config, "consumer")),
            consumer: consumer.clone(),
            holder: format!(
                "{} pid {} since {} ({})",
                gethostname::gethostname().display(),
                process::id(),
                timestamp(SystemTime::now()),
                Uuid::new_v4().simple(),
            ),
            ttl: config.lease.min(LONGEST),
        }
    }

    /// How often names and leases are renewed.
    pub fn renewal_interval(config: &Config) -> Duration {
        config.lease.min(LONGEST) / 3
    }

    /// Takes the name, or waits until it is clear that somebody alive has it.
    ///
    /// # Errors
    /// [`Stop::Error`], what waiting does not mend.
    pub fn take(&self, link: &mut Link, shutdown: &Shutdown) -> Result<Taken, Stop> {
        let mut until: Option<Instant> = None;
        loop {
            let found = link.insist(Patience::UntilShutdown, |link| {
                let holder = self.try_take(link)?;
                let left: i64 = match holder {
                    Some(_) => link.query(redis::cmd("PTTL").arg(&self.key))?,
                    None => 0,
                };
                Ok((holder, Duration::from_millis(left.max(0).unsigned_abs())))
            });
            let (holder, left) = match found {
                Ok((Some(holder), left)) => (holder, left),
                Ok((None, _)) => return Ok(Taken::Yes),
                Err(Stop::Shutdown) => return Ok(Taken::Shutdown),
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Ok(Taken::By(holder));
            }
            // The one who has it may have a longer lease than this process.
            until.get_or_insert_with(|| {
                let wait = (2 * self.ttl).max(left + POLL);
                log::warn!(
                    "~consumer" = self.consumer, "~holder" = holder;
                    "the consumer name {} is held by {holder}; waiting {:.0} s at most for it",
                    self.consumer,
                    wait.as_secs_f64().ceil()
                );
                now + wait
            });
            if shutdown.sleep(POLL) {
                return Ok(Taken::Shutdown);
            }
        }
    }

    /// Keeps the name, and takes it again where it has expired meanwhile. Returns who else has it, if so.
    ///
    /// # Errors
    /// Of Redis.
    pub fn keep(&self, link: &mut Link) -> RedisResult<Option<String>> {
        // Not by SET, which a server without memory refuses also where the key is there.
        let holder: Option<String> = link.query(redis::cmd("GET").arg(&self.key))?;
        match holder {
            None => self.try_take(link),
            Some(holder) if holder == self.holder => {
                // Should another one have taken it since, its time is lengthened once, which harms nobody.
                link.query::<u64>(redis::cmd("PEXPIRE").arg(&self.key).arg(self.millis()))?;
                Ok(None)
            }
            Some(holder) => Ok(Some(holder)),
        }
    }

    /// Lets the name go, if it still is this process's.
    ///
    /// # Errors
    /// Of Redis.
    pub fn give_back(&self, link: &mut Link) -> RedisResult<()> {
        link.query::<()>(redis::cmd("WATCH").arg(&self.key))?;
        let holder: Option<String> = link.query(redis::cmd("GET").arg(&self.key))?;
        if holder.as_deref() == Some(&self.holder) {
            link.query::<()>(&redis::cmd("MULTI"))?;
            link.query::<()>(redis::cmd("DEL").arg(&self.key))?;
            link.query::<Option<Vec<u64>>>(&redis::cmd("EXEC"))?;
        }
        Ok(())
    }

    /// Takes the name if nobody has it; returns who else has it.
    fn try_take(&self, link: &mut Link) -> RedisResult<Option<String>> {
        loop {
            let mut set = redis::cmd("SET");
            set.arg(&self.key).arg(&self.holder);
            let set: Option<String> = link.query(set.arg("NX").arg("PX").arg(self.millis()))?;
            if set.is_some() {
                return Ok(None);
            }
            let holder: Option<String> = link.query(redis::cmd("GET").arg(&self.key))?;
            match holder {
                Some(holder) if holder == self.holder => return Ok(None),
                Some(holder) => return Ok(Some(holder)),
                // It expired in between.
                None => {}
            }
        }
    }

    fn millis(&self) -> u64 {
        self.ttl.as_millis() as u64
    }
}
