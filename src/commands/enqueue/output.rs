//! Where messages go: into the input stream, or onto standard output in a dry run.
//!
//! Messages are added in transactions, so a batch is there as a whole or not at all; a page of a list is added together with the
//! [place](super::cursor) behind it. A connection is not tried again: whoever types a command is told at once.

use std::io::{self, Write};
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::cursor::{Kept, Place};
use super::progress::Progress;
use crate::commands::{Failure, output_failed, server};
use crate::config::Config;
use crate::connection::{Link, not_connected};
use crate::queue::fence::no_array;
use crate::queue::message::FIELD;
use crate::resp::Pipeline;
use crate::shutdown::Shutdown;
use crate::terminal::count;

/// Messages in one transaction: enough that the way to Redis does not matter.
pub(super) const BATCH: usize = 500;
/// How often the length of the input is looked at while it is above the mark.
const POLL: Duration = Duration::from_millis(500);

/// Where messages go.
pub(super) enum Output {
    /// Standard output.
    Print,
    /// The input stream.
    Stream(Box<Stream>),
}

/// The input stream.
pub(super) struct Stream {
    link: Link,
    config: Config,
    mark: u64,
}

impl Output {
    /// Connects to Redis, unless it is a dry run. `mark`: the length at which adding waits; 0: never.
    ///
    /// # Errors
    /// That Redis cannot be used.
    pub fn new(dry_run: bool, config: &Config, mark: u64) -> Result<Self, Failure> {
        if dry_run {
            return Ok(Output::Print);
        }
        Ok(Output::Stream(Box::new(Stream {
            link: server::connect(config)?,
            config: config.clone(),
            mark,
        })))
    }

    /// Waits until the input is below the mark; returns whether it is, or shutdown was asked for.
    ///
    /// # Errors
    /// That Redis cannot be used.
    pub fn wait_for_room(
        &mut self,
        shutdown: &Shutdown,
        progress: &mut Progress,
    ) -> Result<bool, Failure> {
        let Output::Stream(stream) = self else {
            return Ok(true);
        };
        loop {
            let length = stream.length()?;
            if stream.mark == 0 || length < stream.mark {
                progress.goes_on();
                return Ok(true);
            }
            progress.waits(&format!(
                "the input has {} messages; waiting until there are less than {}",
                count(length),
                count(stream.mark)
            ));
            if shutdown.sleep(POLL) {
                return Ok(false);
            }
        }
    }

    /// Adds these.
    ///
    /// # Errors
    /// That they could not be written; or that it is not known, where the connection was lost meanwhile.
    pub fn add(&mut self, messages: &[String]) -> Result<(), Failure> {
        match self {
            Output::Print => print(messages),
            Output::Stream(stream) => messages.chunks(BATCH).try_for_each(|batch| {
                let commands = stream.additions(batch);
                let generation = stream.link.generation();
                stream.execute(generation, &commands)?;
                Ok(())
            }),
        }
    }

    /// Where a list goes on; its start in a dry run.
    ///
    /// # Errors
    /// That Redis cannot be used.
    pub fn place(&mut self, kept: &Kept, restart: bool) -> Result<Place, Failure> {
        let Output::Stream(stream) = self else {
            return Ok(Place::default());
        };
        let place = match restart {
            true => kept.forget(&mut stream.link).map(|()| Place::default()),
            false => kept.read(&mut stream.link),
        };
        place.map_err(|error| server::failed(&stream.config, &error))
    }

    /// Adds the messages of a page together with the place behind it.
    ///
    /// # Errors
    /// As [`Output::add`]; and that the place is not the one that the page was asked from: another call lists the same host.
    pub fn add_page(
        &mut self,
        messages: &[String],
        kept: &Kept,
        from: &Place,
        to: &Place,
    ) -> Result<(), Failure> {
        let Output::Stream(stream) = self else {
            return print(messages);
        };
        let elsewhere = || {
            let key = &kept.key;
            Failure::Failed(format!(
                "another call lists the same host: {key} has changed meanwhile"
            ))
        };
        let present = kept.watch(&mut stream.link);
        let present = present.map_err(|error| server::failed(&stream.config, &error))?;
        let generation = stream.link.generation();
        if present != *from {
            return Err(elsewhere());
        }
        let mut commands = stream.additions(messages);
        kept.write(&mut commands, to);
        match stream.execute(generation, &commands)? {
            true => Ok(()),
            false => Err(elsewhere()),
        }
    }
}

impl Stream {
    fn length(&mut self) -> Result<u64, Failure> {
        let mut command = redis::cmd("XLEN");
        let length = self.link.query(command.arg(&self.config.backfill_stream));
        length.map_err(|error| server::failed(&self.config, &error))
    }

    fn additions(&self, messages: &[String]) -> Pipeline {
        let key = self.config.backfill_stream.as_bytes();
        let mut commands = Pipeline::default();
        for message in messages {
            commands.add(&[b"XADD", key, b"*", FIELD.as_bytes(), message.as_bytes()]);
        }
        commands
    }

    /// Executes these on the connection of this number; `false`: what is watched there has changed.
    fn execute(&mut self, generation: u64, commands: &Pipeline) -> Result<bool, Failure> {
        let transaction = commands.in_transaction();
        let sent = if self.link.is_connected_as(generation) {
            self.link.send_on(generation, &transaction.bytes)
        } else {
            // On another connection nothing would be watched.
            Err(not_connected())
        };
        let replies: RedisResult<Vec<Value>> = sent.and_then(|()| {
            (0..transaction.count)
                .map(|_| self.link.receive())
                .collect()
        });
        let unknown = |error: RedisError| {
            let why = server::away(&self.config, &error);
            Failure::Failed(format!(
                "{why}; whether the last {} commands were executed is not known",
                count(commands.count as u64)
            ))
        };
        let mut replies = replies.map_err(unknown)?;
        let failed = |error: RedisError| server::failed(&self.config, &error);
        let executed = replies.pop().unwrap_or(Value::Nil);
        // What was refused while it was queued says more than EXEC's own error.
        for reply in replies {
            reply.extract_error().map_err(failed)?;
        }
        match executed {
            Value::Nil => Ok(false),
            Value::Array(replies) => {
                // All or nothing, but for a key that became something else within the last moment.
                for reply in replies {
                    reply.extract_error().map_err(failed)?;
                }
                Ok(true)
            }
            Value::ServerError(error) => Err(failed(error.into())),
            _ => Err(failed(no_array())),
        }
    }
}

fn print(messages: &[String]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    messages
        .iter()
        .try_for_each(|message| writeln!(out, "{message}"))
        .and_then(|()| out.flush())
        .map_err(output_failed)
}
