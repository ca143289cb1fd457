//! What processes that are dead have said, for when the run fails.

use std::collections::VecDeque;
use std::thread;

use super::instance::Instance;

/// How many logs are kept.
const LOGS: usize = 40;

/// What the killed processes have said.
#[derive(Default)]
pub struct Logs(VecDeque<(String, Vec<String>)>);

impl Logs {
    pub fn keep(&mut self, dead: &Instance) {
        let head = format!("{} (process {})", dead.name, dead.process.pid());
        self.0.push_back((head, dead.process.lines()));
        if self.0.len() > LOGS {
            self.0.pop_front();
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if thread::panicking() {
            for (head, lines) in &self.0 {
                eprintln!("--- log of killed {head}");
                lines.iter().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
