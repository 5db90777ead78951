//! The process: arguments, settings, log, application, exit code. No logic.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use probation_offender_events::application::{self, Application};
use probation_offender_events::config::{self, Settings};
use probation_offender_events::metrics::Metrics;
use probation_offender_events::offender_update::OffenderId;
use probation_offender_events::{is_ready, signals, telemetry, web};

/// Compared with the C library's allocator, it saves a fifth of the CPU time per row, and needs less than a megabyte
/// more (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a configuration that is wrong (EX_USAGE of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// Publishes events to an AWS SNS topic when offenders in Delius change. Environment variables configure the service:
/// `config` lists them, and docs/configuration.md explains them. Without a command, the service runs until SIGTERM.
#[derive(Parser)]
#[command(version = version())]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Check that the service can reach and use everything it depends on. It claims and publishes nothing. Exit code: 0
    /// if all checks pass, 1 if one fails, 64 if the configuration is wrong
    Check {
        /// Also request the identifiers of this offender from community-api
        #[arg(long)]
        offender_id: Option<i64>,
    },
    /// Print the settings in force and where each comes from, without secrets
    Config,
    /// Check that the service on SERVER_PORT is ready, for a container's health check
    Healthcheck,
}

/// Images have their version in the environment.
fn version() -> String {
    let build_number = std::env::var("BUILD_NUMBER").ok();
    let build_number = build_number.filter(|version| !version.is_empty());
    build_number.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::Config)) {
        match config::listing(config::environment) {
            Ok(listing) => print(&listing.trim_end()),
            Err(faults) => say(&faults),
        }
    }
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(faults) => {
            say(&faults);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let ended = match arguments.command {
        None => serve(settings),
        Some(Command::Check { offender_id }) => in_runtime(check(settings, offender_id)),
        Some(Command::Config) => Ok(()),
        Some(Command::Healthcheck) => in_runtime(is_ready(settings.server_port)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints why the process ends. If no one reads standard error, this neither panics nor delays the end of the process
/// by more than a second.
fn say(reason: &dyn Display) {
    let reason = format!("{reason}\n");
    let (done, said) = mpsc::channel();
    let say = move || done.send(std::io::stderr().write_all(reason.as_bytes()));
    let _ = thread::Builder::new().spawn(say);
    let _ = said.recv_timeout(Duration::from_secs(1));
}

/// Prints an answer, and does not panic if no one reads it.
fn print(answer: &dyn Display) {
    let _ = writeln!(std::io::stdout(), "{answer}");
}

fn in_runtime(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // One thread: the service mostly waits, and waking another thread for each row costs a fifth of the row's CPU time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(task);
    // A lookup of a host name may hang. It must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn check(settings: Settings, offender_id: Option<i64>) -> anyhow::Result<()> {
    let environment = application::environment(settings).await?;
    let findings = environment.findings(offender_id.map(OffenderId)).await;
    for finding in &findings {
        print(finding);
    }
    let failed = findings.iter().filter(|finding| finding.outcome.is_err());
    match failed.count() {
        0 => Ok(()),
        failed => anyhow::bail!("{failed} of {} checks failed", findings.len()),
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new()?);
    let _log = telemetry::start(
        settings.log_format,
        settings.log_colours,
        &settings.log_levels,
        metrics.log_lines_lost.clone(),
    )?;
    web::server::raise_descriptor_limit();
    in_runtime(run(settings, metrics))
}

async fn run(settings: Settings, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let stop = signals::stop().context("cannot wait for signals")?;
    let application = Application::build(settings, metrics).await?;
    application.run_until_stopped(stop).await
}
