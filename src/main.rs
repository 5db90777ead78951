//! The process: arguments, settings, log, application, exit code. No logic.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use probation_offender_events::application::Application;
use probation_offender_events::config::Settings;
use probation_offender_events::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a configuration that cannot work (EX_USAGE of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// Turns changes to offenders in Delius into events on an AWS SNS topic. Configured by environment variables; see the README.
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match in_runtime(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(settings));
    // A look-up of a host name that hangs must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    telemetry::start(settings.log_format, &settings.log_levels)?;
    let stop = CancellationToken::new();
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let version = settings.build_number.clone();
    let application = Application::build(settings).await?;
    tracing::info!(version, address = %application.address()?, "started");
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let signal = tokio::select! {
                _ = terminated.recv() => "SIGTERM",
                _ = interrupted.recv() => "SIGINT",
            };
            tracing::info!(signal, "stopping");
            stop.cancel();
        }
    });
    application.run_until_stopped(stop).await?;
    tracing::info!("stopped");
    Ok(())
}
