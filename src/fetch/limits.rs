//! stub
use std::time::{Duration, SystemTime};
/// stub
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// stub
    pub retry_after: Option<Duration>,
    /// stub
    pub remaining: Option<u64>,
    /// stub
    pub reset: Option<Duration>,
    /// stub
    pub limit: Option<u64>,
    /// stub
    pub window: Option<Duration>,
}
impl Limits {
    /// stub
    pub fn of(_headers: &ureq::http::HeaderMap, _now: SystemTime) -> Self {
        Self::default()
    }
    /// stub
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after.or(self.reset)
    }
}
