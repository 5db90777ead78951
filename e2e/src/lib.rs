//! Tests with heavy tools: a browser, containers, LocalStack, Helm, Prometheus, processes that are killed.
//!
//! They are a crate of their own so that neither `cargo run --example sandbox` nor `cargo test` compiles these tools. The
//! two binaries of this crate are those of the service and of the sandbox, built from the same files: cargo gives a test
//! the binaries of its own package only.

use std::io::Write;
use std::path::PathBuf;

/// Says that a test is skipped, and why.
///
/// # Panics
/// In CI, which must not skip.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must not skip: {reason}"
    );
    // Straight to the terminal: the test harness keeps back what a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// The folder with what `e2e/tests/deployment/install-tools.sh` installs: a virtual environment of Python.
#[must_use]
pub fn deployment_tools() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let tools = variable("DEPLOYMENT_TOOLS").or_else(|| {
        let cache =
            variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(cache.join("probation-offender-events/deployment-tools"))
    });
    tools.unwrap_or_default()
}
