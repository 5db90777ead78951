//! The whole service over real sockets: on free ports, against the sandbox, with the real SDK. Each module is a theme.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and counts in metrics are exact although they are floats"
)]

#[allow(dead_code, reason = "shared with the slow tests of e2e")]
mod binary;
mod check;
mod events;
#[allow(dead_code, reason = "shared with the slow tests of e2e")]
mod ingestion;
mod process;
mod sns_errors;
mod token;
mod trouble;
mod web;
#[allow(dead_code, reason = "shared with the slow tests of e2e")]
mod world;
