//! Compares what the documents say about events and endpoints with the running service.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking"
)]

mod events;
mod openapi;
#[path = "../../../tests/service/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the service, which use all of it"
)]
mod world;
