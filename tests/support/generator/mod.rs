//! An independent generator of AT Protocol repositories, good ones and broken ones.
//!
//! It shares no tree, CBOR, CAR or signature code with the program it tests: everything here is
//! written from the specifications. [`RepoBuilder`] makes valid repositories together with the
//! records a reader must find in them; the parts of a [`Repo`] are open, so that a test can break
//! any of them and sign the result again.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test crate includes the whole generator and uses a part of it"
)]

pub mod builder;
pub mod car;
pub mod cbor;
pub mod cid;
pub mod commit;
pub mod content;
pub mod did;
pub mod keys;
pub mod mst;
pub mod node;
pub mod random;
pub mod records;
pub mod repo;
pub mod time;

pub use self::builder::{RepoBuilder, mixed_repo};
pub use self::cbor::Value;
pub use self::cid::Cid;
pub use self::commit::{Block, Fields, commit_fields, set_field, sign_commit, sign_commit_with};
pub use self::did::{did_document, did_plc};
pub use self::keys::SigningKey;
pub use self::random::Random;
pub use self::records::Record;
pub use self::repo::{ExpectedRecord, Repo};
pub use self::time::tid;
