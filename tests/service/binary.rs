//! The service in a separate process.

use std::process::{Output, Stdio};

use crate::world::variables;
use sandbox::Sandbox;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// The service in a separate process. Its output is read all the time, since a full pipe would block it.
pub struct Service {
    id: u32,
    output: JoinHandle<Output>,
}

/// The path of the binary. Tests of e2e have it under another name.
pub const SERVICE: &str = match (
    option_env!("CARGO_BIN_EXE_probation-offender-events"),
    option_env!("CARGO_BIN_EXE_e2e-service"),
) {
    (Some(path), _) | (None, Some(path)) => path,
    (None, None) => panic!("cargo has not built the service for this test"),
};

pub fn command() -> Command {
    command_of(SERVICE)
}

pub fn command_of(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Service {
    pub fn start(sandbox: &Sandbox, more: &[(&str, &str)]) -> Self {
        let mut command = command();
        command.envs(variables(sandbox)).envs(more.iter().copied());
        Self::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Self {
        let child = command.spawn().unwrap();
        Self {
            id: child.id().unwrap(),
            output: tokio::spawn(async { child.wait_with_output().await.unwrap() }),
        }
    }

    /// Its memory, as the system sees it.
    pub fn resident_kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim_end_matches("kB").trim();
        number.parse().unwrap()
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Output {
        self.output.await.unwrap()
    }

    /// Sends SIGTERM, and waits for the end.
    pub async fn terminate(self) -> Output {
        self.signal("TERM").await
    }

    /// Sends any signal, and waits for the end.
    pub async fn signal(self, signal: &str) -> Output {
        self.send(signal).await;
        self.ended().await
    }

    pub async fn send(&self, signal: &str) {
        let id = self.id.to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.await.unwrap().success());
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
