//! A process under measurement, the service or the sequential baseline: its start, its log, and what Linux says of its
//! CPU time and memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::world::World;

pub const SERVICE: &str = env!("CARGO_BIN_EXE_probation-offender-events");
/// Linux counts CPU time in hundredths of a second (`USER_HZ`), on every architecture that matters here.
const TICKS_PER_SECOND: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Process {
    child: Child,
    port: u16,
    settled: Arc<Mutex<Vec<u32>>>,
}

/// Resident memory in megabytes (of 1,000,000 bytes).
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub now: f64,
    pub peak: f64,
}

/// Builds the service as it is shipped. Cargo has built it for this bench with features for tests, which make it larger
/// and its clock slower.
pub fn build_service() -> Result<()> {
    let target = Path::new(SERVICE).ancestors().nth(2);
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--bin",
            "probation-offender-events",
        ])
        .arg("--target-dir")
        .arg(target.context("no target directory")?)
        .status()?;
    ensure!(status.success(), "the service cannot be built");
    Ok(())
}

impl Process {
    /// The service, with some of its settings changed.
    pub fn service(world: &World, settings: &[(&str, &str)]) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(SERVICE);
        command
            .env_clear()
            .envs(&world.environment)
            .env("LOG_FORMAT", "json")
            .env("SERVER_PORT", port.to_string())
            .envs(settings.iter().copied());
        for (name, value) in std::env::vars() {
            if let Some(name) = name.strip_prefix("SERVICE_") {
                command.env(name, value);
            }
        }
        Self::spawn(command, port)
    }

    /// The sequential baseline.
    pub fn sequential(world: &World) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env_clear()
            .envs(&world.environment)
            .arg("sequential");
        Self::spawn(command, 0)
    }

    fn spawn(mut command: Command, port: u16) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let settled = Arc::<Mutex<Vec<u32>>>::default();
        let log = child.stdout.take().context("no standard output")?;
        // It reads the log, as the node does for every pod.
        std::thread::spawn({
            let settled = settled.clone();
            move || read_log(log, &settled)
        });
        Ok(Self {
            child,
            port,
            settled,
        })
    }

    /// Waits until the service is ready, with requests in a loop.
    pub fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self
            .get("/health/readiness")
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            ensure!(Instant::now() < deadline, "not ready after {PATIENCE:?}");
        }
        Ok(())
    }

    /// How many `nextUpdate` calls of the service were answered with 409.
    pub fn contended_claims(&self) -> Result<u64> {
        let metrics = self.get("/prometheus")?;
        let mut lines = metrics.lines().filter(|line| {
            line.starts_with("offender_call_seconds_count")
                && line.contains(r#"call="nextUpdate""#)
                && line.contains(r#"outcome="contended""#)
        });
        match lines.next().and_then(|line| line.rsplit_once(' ')) {
            Some((_, count)) => Ok(count.parse()?),
            None => Ok(0),
        }
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Milliseconds from claim to settled, sorted, once `rows` rows have been logged.
    pub fn settled(&self, rows: usize) -> Result<Vec<u32>> {
        let deadline = Instant::now() + PATIENCE;
        while self.settled.lock().len() < rows {
            ensure!(Instant::now() < deadline, "rows are missing in the log");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut milliseconds = std::mem::take(&mut *self.settled.lock());
        milliseconds.sort_unstable();
        Ok(milliseconds)
    }

    /// CPU time used so far, in user and kernel.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which is in brackets, the 14th and 15th fields of proc(5).
        let (_, fields) = stat.rsplit_once(')').context("no stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.map(|field| field.parse().unwrap_or(f64::NAN)).sum();
        Ok(ticks / TICKS_PER_SECOND)
    }

    pub fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let megabytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kilobytes =
                line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kilobytes
                .map(|kilobytes| kilobytes * 1024.0 / 1e6)
                .context("no status")
        };
        Ok(Memory {
            now: megabytes("VmRSS:")?,
            peak: megabytes("VmHWM:")?,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Keeps the milliseconds of settled rows, and prints other lines of note.
fn read_log(log: ChildStdout, settled: &Mutex<Vec<u32>>) {
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        let milliseconds = line.split_once(r#""milliseconds":"#).and_then(|(_, rest)| {
            let digits = rest
                .split(|character: char| !character.is_ascii_digit())
                .next()?;
            digits.parse().ok()
        });
        if let Some(milliseconds) = milliseconds {
            settled.lock().push(milliseconds);
        }
        if line.contains(r#""level":"WARN""#) || line.contains(r#""level":"ERROR""#) {
            eprintln!("{line}");
        }
    }
}
