//! What the page of the operator is tested with: a server that says what a test wants, and what it may say.

pub mod judge;
pub mod server;
pub mod status;

/// The files of the page, as the program has them.
#[path = "../../../src/http/page.rs"]
pub mod files;
