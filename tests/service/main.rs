//! The whole service over real sockets: on free ports, against the sandbox, with the real SDK. Each module is a theme.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and counts in metrics are exact although they are floats"
)]

mod check;
mod events;
mod ingestion;
mod insights;
mod pods;
mod process;
mod proxy;
mod sns_errors;
mod token;
mod trouble;
mod web;
mod world;
