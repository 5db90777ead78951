//! Every status and many a broken body, of every call: more than the quick tests have time for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and counts in metrics are exact although they are floats"
)]

mod bad_input;
#[path = "../../../tests/service/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the service, which use all of it"
)]
mod world;
