//! The service over real sockets, in tests that are too slow for the quick ones: every status and many broken bodies of
//! every call, and waits for batches of telemetry, timeouts and other pods.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and counts in metrics are exact although they are floats"
)]

mod bad_input;
#[path = "../../../tests/service/binary.rs"]
#[allow(dead_code, reason = "shared with the tests of the service")]
mod binary;
mod delivery;
#[path = "../../../tests/service/ingestion.rs"]
#[allow(dead_code, reason = "shared with the tests of the service")]
mod ingestion;
mod insights;
mod outages;
mod pods;
mod proxy;
#[path = "../../../tests/service/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the service")]
mod world;
