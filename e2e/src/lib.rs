//! Tests with heavy tools: a browser, containers, LocalStack, Helm, Prometheus, processes that are killed.
//!
//! They are a crate of their own so that neither `cargo run --example sandbox` nor `cargo test` compiles these tools. The
//! two binaries of this crate are those of the service and of the sandbox, built from the same files: cargo gives a test
//! the binaries of its own package only.
