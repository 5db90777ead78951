//! `sandbox serve` as a process, under difficult conditions.

mod folder;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use self::folder::Folder;

const PATIENCE: Duration = Duration::from_secs(20);
const ANY_PORT: [&str; 8] = [
    "--community-port",
    "0",
    "--auth-port",
    "0",
    "--topic-port",
    "0",
    "--page-port",
    "0",
];

struct Process {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .args(ANY_PORT)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            output: BufReader::new(output).lines(),
        })
    }

    /// Waits for a line with this in it.
    async fn says(&mut self, wanted: &str) -> Result<()> {
        let mut seen = String::new();
        let line = async {
            while let Some(line) = self.output.next_line().await? {
                if line.contains(wanted) {
                    return Ok(());
                }
                seen += &line;
            }
            bail!("the process ended")
        };
        let found = timeout(PATIENCE, line)
            .await
            .context("the process printed nothing more");
        found
            .and_then(|found| found)
            .with_context(|| format!("{wanted:?} is not in {seen:?}"))
    }

    async fn terminate(mut self) -> Result<()> {
        let id = self.child.id().context("it has ended")?.to_string();
        Command::new("kill").arg(id).status().await?;
        let status = timeout(Duration::from_secs(1), self.child.wait()).await??;
        assert!(status.success(), "{status}");
        Ok(())
    }
}

fn serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command.arg("serve");
    command
}

#[tokio::test]
async fn an_empty_variable_counts_as_unset() -> Result<()> {
    let mut command = serve();
    for name in ["PEOPLE", "BACKLOG", "KEPT_MESSAGES", "FAULTS", "DATABASE"] {
        command.env(format!("SANDBOX_{name}"), "");
    }
    let mut process = Process::start(&mut command)?;
    process.says("community-api http").await?;
    process.terminate().await
}

#[tokio::test]
async fn a_locked_file_stops_neither_changes_nor_signals() -> Result<()> {
    let folder = Folder::new("process")?;
    let shell = folder.open()?;
    let mut process = Process::start(
        serve()
            .args(["--changes-per-minute", "6000", "--database"])
            .arg(folder.file()),
    )?;
    process.says("offender ").await?;
    shell.execute("BEGIN IMMEDIATE")?;
    process.says("no change was made: database").await?;
    shell.execute("ROLLBACK")?;
    process.says("offender ").await?;
    shell.execute("BEGIN IMMEDIATE")?;
    process.terminate().await
}

/// A shell in a separate mount namespace, as in a container. `None` if that is not allowed: the test is then skipped.
async fn in_namespace(script: &str) -> Option<Command> {
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-euc"]);
        command
    };
    let works = namespace().arg("mount -t tmpfs none /mnt").output().await;
    if !works.is_ok_and(|output| output.status.success()) {
        // Straight to the terminal: the test harness hides what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no mount namespace can be made here"
        );
        return None;
    }
    let mut command = namespace();
    let program = Path::new(env!("CARGO_BIN_EXE_sandbox"));
    command.arg(script).arg(program);
    Some(command)
}

#[tokio::test]
async fn a_read_only_root_without_tmp_holds_any_number_of_people() -> Result<()> {
    // Everywhere that SQLite could write temporary files, including the current folder.
    let script = "mount -t tmpfs none /mnt
        for folder in /tmp /var/tmp /usr/tmp; do
            if [ -d $folder ]; then mount --bind $folder $folder; mount -o remount,ro,bind $folder; fi
        done
        cd /tmp
        exec \"$0\" serve --database /mnt/delius.sqlite --people 6000 \"$@\"";
    let Some(mut command) = in_namespace(script).await else {
        return Ok(());
    };
    let mut process = Process::start(&mut command)?;
    process.says("community-api http").await?;
    process.terminate().await
}

#[tokio::test]
async fn errors_of_file_and_disk_say_what_to_do() -> Result<()> {
    for (prepare, remedy) in [
        (
            "touch /mnt/delius.sqlite; mount -o remount,ro /mnt",
            "it cannot be written: make the file and its folder writable",
        ),
        (
            "mount -o remount,size=64k /mnt",
            "its disk is full: free some space",
        ),
    ] {
        let script = format!(
            "mount -t tmpfs none /mnt; {prepare}; exec \"$0\" serve --database /mnt/delius.sqlite \"$@\""
        );
        let Some(mut command) = in_namespace(&script).await else {
            return Ok(());
        };
        let ended = timeout(PATIENCE, command.args(ANY_PORT).output()).await??;
        let said = String::from_utf8(ended.stderr)?;
        assert!(!ended.status.success());
        assert!(
            said.contains("/mnt/delius.sqlite") && said.contains(remedy),
            "{remedy}: {said}"
        );
    }
    Ok(())
}
