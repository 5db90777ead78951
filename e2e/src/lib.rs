//! Tests with heavy tools: a browser, containers, LocalStack, Helm, Prometheus, processes that are killed.
//!
//! They are a separate crate, so that neither `cargo run --example sandbox` nor `cargo test` compiles these tools. Its
//! two binaries are those of the service and of the sandbox, built from the same files, since cargo gives a test only
//! the binaries of the test's package.

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
    // Directly to the terminal, since the test harness hides what a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// The folder with what `e2e/tests/deployment/install-tools.sh` installs: a virtual environment of Python.
pub fn deployment_tools() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let tools = variable("DEPLOYMENT_TOOLS").or_else(|| {
        let cache =
            variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(cache.join("probation-offender-events/deployment-tools"))
    });
    tools.unwrap_or_default()
}
