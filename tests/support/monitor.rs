//! What a server executes, command by command, as MONITOR tells it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use redis::Connection;

use super::redis_server::RedisServer;
use super::wait::LIMIT;

/// Listens to all commands that a server executes.
pub struct Monitor(BufReader<TcpStream>);

impl Monitor {
    pub fn start(redis: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        assert_eq!(answer, "+OK\r\n");
        Self(reader)
    }

    /// The commands up to now: the client's address, and the command with its arguments in quotes.
    pub fn commands(mut self, connection: &mut Connection) -> Vec<(String, String)> {
        let () = redis::cmd("ECHO").arg("the end").query(connection).unwrap();
        let mut commands = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let (head, command) = line.split_once("] ").expect("a line of MONITOR");
            let command = command.trim_end().to_owned();
            if command == r#""ECHO" "the end""# {
                return commands;
            }
            commands.push((head.split(' ').next_back().unwrap().to_owned(), command));
        }
    }
}

/// The transactions among the commands, each without its MULTI and EXEC; asserts that what is listed
/// as `only_within` is never sent outside of one.
pub fn transactions(commands: &[(String, String)], only_within: &[&str]) -> Vec<Vec<String>> {
    let mut open: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut all = Vec::new();
    for (client, command) in commands {
        match command.as_str() {
            r#""MULTI""# => assert!(open.insert(client, Vec::new()).is_none()),
            r#""EXEC""# => all.push(open.remove(client.as_str()).expect("EXEC after MULTI")),
            command => match open.get_mut(client.as_str()) {
                Some(queued) => queued.push(command.to_owned()),
                None => {
                    let name = command.split('"').nth(1).unwrap();
                    assert!(!only_within.contains(&name), "outside of MULTI: {command}");
                }
            },
        }
    }
    all
}
