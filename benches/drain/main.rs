//! What a row costs and how fast a backlog is drained. It measures the service in the release profile, the sandbox and
//! the sequential baseline, each in a separate process. `cargo bench --bench drain` prints its tables, and `-- --help`
//! lists its parts. docs/performance.md explains the results.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench prints rounded figures for a person"
)]

mod bare;
mod contention;
mod drains;
mod figures;
mod growth;
mod process;
mod run;
mod sequential;
mod standing;
mod world;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use self::figures::Limits;
use self::world::Conditions;

#[derive(Parser)]
#[command(
    about = "Measures the service against the sandbox",
    after_help = "SERVICE_X=value in the environment sets X for the service, as in SERVICE_OFFENDERUPDATEPOLL_MAXINFLIGHT=64"
)]
struct Arguments {
    /// A small run, in less than two minutes
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Drains, Part::Contention, Part::Growth, Part::Standing])]
    part: Vec<Part>,
    /// The round trips of the drains, in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [0, 5, 20])]
    round_trip: Vec<u64>,
    /// Set by cargo
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Speed and cost at several round trips, against the sequential baseline
    Drains,
    /// More pods
    Contention,
    /// Cost over the length of the backlog
    Growth,
    /// Start, idle, size
    Standing,
}

/// The role of a process that the bench starts.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
enum Role {
    /// The sandbox
    #[command(hide = true)]
    World(Conditions),
    /// The baseline
    #[command(hide = true)]
    Sequential,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::World(conditions)) => world::serve(conditions),
        Some(Role::Sequential) => tokio::runtime::Runtime::new()?.block_on(sequential::run()),
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    process::build_service()?;
    let mut limits = Limits::default();
    let quick = arguments.quick;
    println!("{}", machine()?);
    for part in &arguments.part {
        match part {
            Part::Drains => {
                let effort = drains::Effort {
                    seconds: if quick { 2.0 } else { 15.0 },
                };
                for &round_trip in &arguments.round_trip {
                    drains::measure(round_trip, &effort, &mut limits)?;
                }
            }
            Part::Contention => {
                let rows = if quick { 200 } else { 2_000 };
                // The database of community-api near, and 4 ms away.
                for (lock_ms, rows) in [(3, rows), (60, rows / 10)] {
                    let conditions = Conditions {
                        round_trip_ms: 0,
                        lock_ms,
                    };
                    contention::measure(conditions, rows)?;
                }
            }
            Part::Growth => {
                let backlogs: &[usize] = if quick {
                    &[1_000, 10_000]
                } else {
                    &[1_000, 10_000, 100_000, 300_000]
                };
                growth::measure(backlogs, &mut limits)?;
            }
            Part::Standing => {
                let effort = standing::Effort {
                    starts: if quick { 5 } else { 20 },
                    intervals: if quick { 1 } else { 6 },
                };
                standing::measure(&effort, &mut limits)?;
            }
        }
    }
    limits.print();
    Ok(())
}

/// When and on what this runs.
fn machine() -> Result<String> {
    let read = |path: &str, name: &str| -> Result<String> {
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line
            .and_then(|line| line.split_once(':'))
            .map_or("", |(_, value)| value.trim());
        Ok(value.to_owned())
    };
    Ok(format!(
        "{}, {} × {}, {} of memory, Linux {}, load {}",
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
        std::thread::available_parallelism()?,
        read("/proc/cpuinfo", "model name")?,
        read("/proc/meminfo", "MemTotal")?,
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        std::fs::read_to_string("/proc/loadavg")?.trim(),
    ))
}
