//! A game day. It makes each outage of a list in a separate world. A real Prometheus with the chart's alerts shows
//! which alert fires, when, and with which text.
//!
//! ```bash
//! cargo run -p e2e --example game-day                                  # all scenarios side by side, about 40 minutes
//! cargo run -p e2e --example game-day -- --only sns-down --only html   # some of them
//! cargo run -p e2e --example game-day -- --list                        # their names
//! ```
//!
//! The pods are processes of the service; each world around them is a sandbox. Alerts are evaluated every 15 seconds.
//! The result is a table in Markdown, which docs/reliability.md shows. The exit code is 1 if a scenario did not end as
//! expected. `prometheus` must be installed.

mod prometheus;
mod scenarios;
mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::prometheus::{Firing, Prometheus};
use self::scenarios::{SCENARIOS, Scenario};
use self::world::World;

/// Everything is healthy for this long at first, so that every series has a history.
const HEALTHY: Duration = Duration::from_mins(4);
/// How long the outages last.
const OUTAGE: Duration = Duration::from_mins(25);
/// How long the worlds are watched after them.
const AFTERWARDS: Duration = Duration::from_mins(11);

#[derive(Parser)]
struct Arguments {
    /// Run only this scenario; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Print the names of the scenarios
    #[arg(long)]
    list: bool,
}

struct Seen {
    scenario: &'static Scenario,
    firings: Vec<Firing>,
    /// How long after the start of the outage the first row was marked as permanently failed.
    first_loss: Option<Duration>,
    lost: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let chosen: Vec<&'static Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == scenario.name)
        })
        .collect();
    if arguments.list {
        for scenario in chosen {
            say(&format!("{:<20} {}", scenario.name, scenario.outage));
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        arguments.only.is_empty() || chosen.len() == arguments.only.len(),
        "--only names a scenario that does not exist; --list prints them"
    );
    build_binaries().await?;
    let seen = play(&chosen).await?;
    say(&table(&seen));
    let is_expected = seen.iter().all(Seen::is_expected);
    Ok(ExitCode::from(u8::from(!is_expected)))
}

/// Cargo builds only the example itself for `cargo run --example`.
async fn build_binaries() -> anyhow::Result<()> {
    let mut build = Command::new(env!("CARGO"));
    // Together with the example, so that dependencies have the same features and nothing is compiled twice.
    build.args(["build", "--quiet", "-p", "e2e", "--bins", "--examples"]);
    let status = build.status().await.context("cargo cannot be started")?;
    ensure!(status.success(), "the service cannot be built");
    Ok(())
}

async fn play(chosen: &[&'static Scenario]) -> anyhow::Result<Vec<Seen>> {
    let folder = std::env::temp_dir().join(format!("game-day-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder)?;
    note(&format!(
        "{} scenarios; logs in {}",
        chosen.len(),
        folder.display()
    ));
    let mut worlds = Vec::new();
    for scenario in chosen {
        worlds.push(World::start(scenario, &folder).await?);
    }
    let targets = worlds.iter().flat_map(World::targets).collect();
    let prometheus = Prometheus::start(&folder, targets)?;
    let outage = Instant::now() + HEALTHY;
    let end = outage + OUTAGE + AFTERWARDS;
    let mut playing = JoinSet::new();
    for world in worlds {
        playing.spawn(world.play(outage..outage + OUTAGE, end));
    }
    let mut firings: BTreeMap<String, Vec<Firing>> = BTreeMap::new();
    while Instant::now() < end {
        sleep(Duration::from_secs(5)).await;
        prometheus.update(&mut firings, outage).await;
    }
    let mut seen = Vec::new();
    while let Some(ended) = playing.join_next().await {
        let (scenario, first_loss, lost) = ended??;
        seen.push(Seen {
            firings: firings.remove(&scenario.namespace()).unwrap_or_default(),
            scenario,
            first_loss,
            lost,
        });
    }
    let position = |seen: &Seen| chosen.iter().position(|one| one.name == seen.scenario.name);
    seen.sort_by_key(position);
    Ok(seen)
}

impl Seen {
    /// Whether the expected alert fired, and no other.
    fn is_expected(&self) -> bool {
        let fired: Vec<_> = self
            .firings
            .iter()
            .map(|firing| firing.alert.as_str())
            .collect();
        fired == self.scenario.alert.as_slice()
    }

    fn row(&self) -> String {
        let minutes = |time: Duration| {
            let seconds = time.as_secs();
            format!("{}:{:02}", seconds / 60, seconds % 60)
        };
        let each = |text: &dyn Fn(&Firing) -> String| {
            let texts: Vec<_> = self.firings.iter().map(text).collect();
            if texts.is_empty() {
                "–".to_owned()
            } else {
                texts.join("<br>")
            }
        };
        let loss = self.first_loss.map(minutes);
        format!(
            "| {}{} | {} | {} | {} | {} | {} |\n",
            if self.is_expected() {
                ""
            } else {
                "**unexpected:** "
            },
            self.scenario.outage,
            each(&|firing| firing.alert.clone()),
            each(&|firing| minutes(firing.after)),
            each(&|firing| firing.until.map_or("still firing".to_owned(), minutes)),
            loss.map_or("–".to_owned(), |first| format!(
                "{} from {first}",
                self.lost
            )),
            each(&|firing| firing.message.clone()),
        )
    }
}

fn table(seen: &[Seen]) -> String {
    let rows: String = seen.iter().map(Seen::row).collect();
    format!(
        "| outage of {} minutes | alert | fired after | until | rows marked as permanently failed | text |\n|---|---|---|---|---|---|\n{rows}",
        OUTAGE.as_secs() / 60
    )
}

/// To standard output.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// To standard error, so that standard output holds the table only.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
