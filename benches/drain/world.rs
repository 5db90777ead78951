//! The world in a separate process: the sandbox with a round trip. Lines on its standard input make it fill and watch a
//! backlog.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write, stdin, stdout};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sandbox::{Endpoint, Fault, Sandbox, Settings};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// More people than rows in flight, so that rows rarely wait for another row of their offender.
const PEOPLE: usize = 2_000;
/// The interval between two reads of the counters.
const LOOK: Duration = Duration::from_millis(1);
/// If a backlog does not shrink for this long, it never will.
const PATIENCE: Duration = Duration::from_secs(30);

const CALLS: [(&str, Endpoint); 6] = [
    ("nextUpdate", Endpoint::NextUpdate),
    ("identifiers", Endpoint::Identifiers),
    ("publish", Endpoint::PublishBatch),
    ("delete", Endpoint::DeleteUpdate),
    ("markAsFailed", Endpoint::MarkAsFailed),
    ("token", Endpoint::Token),
];

#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// Minimum time of each call to community-api and SNS, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub round_trip_ms: u64,
    /// Time that nextUpdate takes from reading a row to locking it, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub lock_ms: u64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Drained {
    /// From the first claim to the last DELETE.
    pub seconds: f64,
    /// Calls by kind, including claims without a row.
    pub calls: BTreeMap<String, u64>,
    /// How often a caller of nextUpdate was too late to lock the row it had found.
    pub lost_races: u64,
}

pub struct World {
    process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The environment variables for a service in this world.
    pub environment: BTreeMap<String, String>,
}

impl World {
    pub fn start(conditions: Conditions) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("world")
            .args(["--round-trip-ms", &conditions.round_trip_ms.to_string()])
            .args(["--lock-ms", &conditions.lock_ms.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().context("no standard input")?;
        let answers = process.stdout.take().context("no standard output")?;
        let mut world = Self {
            process,
            commands,
            answers: BufReader::new(answers).lines(),
            environment: BTreeMap::new(),
        };
        world.environment = world.answer()?;
        Ok(world)
    }

    /// Adds a backlog.
    pub fn fill(&mut self, rows: usize) -> Result<()> {
        writeln!(self.commands, "fill {rows}")?;
        self.answer()
    }

    /// Adds a backlog and waits until it is gone.
    pub fn drain(&mut self, rows: usize) -> Result<Drained> {
        writeln!(self.commands, "drain {rows}")?;
        self.answer()
    }

    /// The calls so far.
    pub fn calls(&mut self) -> Result<BTreeMap<String, u64>> {
        writeln!(self.commands, "calls")?;
        self.answer()
    }

    fn answer<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T> {
        let line = self.answers.next().context("the world has ended")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The child process: it serves until its standard input ends.
pub fn serve(conditions: Conditions) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let sandbox = runtime.block_on(Sandbox::start(Settings {
        lock_time: Duration::from_millis(conditions.lock_ms),
        kept_messages: Some(100),
        ..Settings::default()
    }))?;
    sandbox.delius().seed_people(PEOPLE)?;
    if conditions.round_trip_ms > 0 {
        let round_trip = Duration::from_millis(conditions.round_trip_ms);
        for (_, endpoint) in &CALLS[..CALLS.len() - 1] {
            sandbox
                .faults()
                .always(*endpoint, Fault::Latency(round_trip));
        }
    }
    say(&sandbox.environment())?;
    for command in stdin().lines() {
        let command = command?;
        match command.split_once(' ') {
            Some(("fill", rows)) => say(&fill(&sandbox, rows.parse()?)?)?,
            Some(("drain", rows)) => say(&drain(&sandbox, rows.parse()?)?)?,
            _ => say(&calls(&sandbox))?,
        }
    }
    Ok(())
}

fn say(answer: &impl Serialize) -> Result<()> {
    Ok(writeln!(stdout(), "{}", serde_json::to_string(answer)?)?)
}

/// Rows with two events each, old enough to be claimed at once.
fn fill(sandbox: &Sandbox, rows: usize) -> Result<()> {
    let added = sandbox.delius().execute(&format!(
        "INSERT INTO OFFENDER_DELTA (OFFENDER_ID, DATE_CHANGED, ACTION, SOURCE_TABLE, SOURCE_RECORD_ID,
                                     CREATED_DATETIME, LAST_UPDATED_DATETIME)
         WITH RECURSIVE NUMBERS(N) AS (SELECT 1 UNION ALL SELECT N + 1 FROM NUMBERS WHERE N < {rows})
         SELECT (SELECT max(OFFENDER_ID) FROM OFFENDER) - N % {PEOPLE},
                (SELECT strftime('%Y-%m-%dT%H:%M:%f', LOCAL_TIME) FROM LONDON_NOW),
                'UPSERT', 'OFFENDER', N, unixepoch() - 60, unixepoch() - 60
         FROM NUMBERS"
    ))?;
    ensure!(added == rows, "{added} rows were added instead of {rows}");
    Ok(())
}

fn calls(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let count = |(name, endpoint): (&str, _)| (name.to_owned(), sandbox.faults().calls(endpoint));
    CALLS.into_iter().map(count).collect()
}

fn drain(sandbox: &Sandbox, rows: usize) -> Result<Drained> {
    // Read first, since the first row may be gone before anything else is read.
    let before = calls(sandbox);
    let lost_races = sandbox.delius().lost_races();
    fill(sandbox, rows)?;
    let calls_since = |name: &str, endpoint| sandbox.faults().calls(endpoint) - before[name];
    let polls = calls_since("nextUpdate", Endpoint::NextUpdate);
    wait_until(
        || calls_since("nextUpdate", Endpoint::NextUpdate),
        polls + 1,
    )?;
    let first_claim = Instant::now();
    wait_until(
        || calls_since("delete", Endpoint::DeleteUpdate),
        rows as u64,
    )?;
    let seconds = first_claim.elapsed().as_secs_f64();
    wait_until(
        || u64::from(sandbox.delius().count_updates().is_ok_and(|left| left == 0)),
        1,
    )?;
    Ok(Drained {
        seconds,
        calls: calls(sandbox)
            .into_iter()
            .map(|(name, count)| {
                let since = count - before[&name];
                (name, since)
            })
            .collect(),
        lost_races: sandbox.delius().lost_races() - lost_races,
    })
}

/// Waits while the count grows, until it is reached.
fn wait_until(count: impl Fn() -> u64, wanted: u64) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = count();
        if now >= wanted {
            return Ok(());
        }
        if now > last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            bail!("stopped at {now} of {wanted}: nothing changed for {PATIENCE:?}");
        }
        std::thread::sleep(LOOK);
    }
}
