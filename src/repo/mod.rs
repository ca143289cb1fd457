//! A repository, from the bytes of its CAR to proven records.
//!
//! [`car`] reads frames into [`blocks`], [`commit`] proves who signed, [`mst`] proves order and completeness, [`record`] turns
//! a record's block into JSON; [`cbor`] is the strict reader that the last three share. Nothing here knows of Redis or HTTP.

pub mod blocks;
pub mod car;
pub mod cbor;
pub mod commit;
pub mod link;
pub mod mst;
pub mod record;
