//! One scenario's world: a sandbox with a change every two seconds, and two pods of the service.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use sandbox::delius::Status;
use sandbox::{Faults, Sandbox};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::prometheus::{Target, free_port};
use crate::scenarios::{Cause, Scenario};

const PODS: [&str; 2] = ["a", "b"];
/// More than a pod has places.
const PEOPLE: usize = 100;
const BACKLOG: usize = 300;
const BETWEEN_CHANGES: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_mins(4);
const LIFE: Duration = Duration::from_secs(25);
/// Kubernetes doubles the wait before each restart, up to five minutes.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_BACK_OFF: Duration = Duration::from_mins(5);

pub struct World {
    scenario: &'static Scenario,
    sandbox: Sandbox,
    /// The topic of one pod, if it has a separate one.
    other: Option<Sandbox>,
    pods: Vec<Pod>,
}

/// When the first row was marked as permanently failed, and how many were.
pub type Losses = (&'static Scenario, Option<Duration>, usize);

struct Pod {
    name: &'static str,
    port: u16,
    log: PathBuf,
    variables: BTreeMap<&'static str, String>,
    /// Ends with this value.
    process: Option<Child>,
}

impl World {
    pub async fn start(scenario: &'static Scenario, folder: &Path) -> anyhow::Result<Self> {
        let sandbox = Sandbox::start(sandbox::Settings::default()).await?;
        sandbox.delius().seed_people(PEOPLE)?;
        let other = match scenario.cause {
            Cause::OnePod(..) => Some(Sandbox::start(sandbox::Settings::default()).await?),
            _ => None,
        };
        let mut pods = Vec::new();
        for name in PODS {
            let mut variables = sandbox.environment();
            if let (Some(other), "a") = (&other, name) {
                variables.insert("HMPPS_SQS_LOCALSTACKURL", other.sns_url());
            }
            let mut pod = Pod {
                name,
                port: 0,
                log: folder.join(format!("{}-{name}.log", scenario.name)),
                variables,
                process: None,
            };
            pod.start_on_a_free_port().await?;
            pods.push(pod);
        }
        Ok(Self {
            scenario,
            sandbox,
            other,
            pods,
        })
    }

    pub fn targets(&self) -> Vec<Target> {
        let target = |pod: &Pod| Target {
            namespace: self.scenario.namespace(),
            pod: pod.name,
            port: pod.port,
        };
        self.pods.iter().map(target).collect()
    }

    /// Makes the outage, ends it, and continues until `end`, with a change every two seconds.
    pub async fn play(mut self, outage: Range<Instant>, end: Instant) -> anyhow::Result<Losses> {
        let scenario = self.scenario;
        let watching = watch(self.sandbox.delius().clone(), outage.start, end);
        let playing = async {
            sleep_until(outage.start).await;
            self.begin().await?;
            match scenario.cause {
                Cause::CrashLoop => self.crash_until(outage.end).await?,
                Cause::Short(..) => sleep(SHORT).await,
                _ => sleep_until(outage.end).await,
            }
            self.end().await
        };
        let (watched, played) = tokio::join!(watching, playing);
        played?;
        let (first, lost) = watched?;
        Ok((scenario, first, lost))
    }

    fn faults(&self) -> &Faults {
        self.other.as_ref().unwrap_or(&self.sandbox).faults()
    }

    async fn begin(&mut self) -> anyhow::Result<()> {
        for rule in self.scenario.cause.rules() {
            self.faults().inject(rule);
        }
        match self.scenario.cause {
            Cause::Auth(..) => self.sandbox.auth().revoke_all(),
            Cause::Backlog(_) => self.sandbox.delius().seed_backlog(BACKLOG)?,
            Cause::OneKill => self.pods[0].start().await?,
            Cause::NoPods => self.pods.iter_mut().for_each(|pod| pod.process = None),
            Cause::PollingOff => {
                for pod in &mut self.pods {
                    pod.variables
                        .insert("OFFENDERUPDATEPOLL_ENABLED", "false".into());
                    pod.start().await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn crash_until(&mut self, end: Instant) -> anyhow::Result<()> {
        let mut back_off = FIRST_BACK_OFF;
        while Instant::now() < end {
            for pod in &mut self.pods {
                pod.process = None;
            }
            sleep(back_off).await;
            back_off = (back_off * 2).min(LONGEST_BACK_OFF);
            for pod in &mut self.pods {
                pod.start().await?;
            }
            sleep(LIFE).await;
        }
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        self.faults().clear();
        for pod in &mut self.pods {
            let was_off = pod.variables.remove("OFFENDERUPDATEPOLL_ENABLED").is_some();
            if was_off || pod.process.is_none() {
                pod.start().await?;
            }
        }
        Ok(())
    }
}

impl Pod {
    /// Another process may take a port before the service does.
    async fn start_on_a_free_port(&mut self) -> anyhow::Result<()> {
        for _ in 0..5 {
            self.port = free_port()?;
            self.variables
                .insert("MANAGEMENT_SERVER_PORT", self.port.to_string());
            self.start().await?;
            if self.listens().await? {
                return Ok(());
            }
        }
        anyhow::bail!(
            "pod {} cannot be started: see {}",
            self.name,
            self.log.display()
        )
    }

    /// Waits until the service listens; `false` if it has ended.
    async fn listens(&mut self) -> anyhow::Result<bool> {
        while let Some(process) = &mut self.process {
            if process.try_wait()?.is_some() {
                return Ok(false);
            }
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(true);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }

    /// Starts the service. One that runs is killed.
    async fn start(&mut self) -> anyhow::Result<()> {
        if let Some(mut old) = self.process.take() {
            old.kill().await?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let here = std::env::current_exe()?;
        // Beside the folder of the examples.
        let binaries = here.parent().and_then(Path::parent);
        let service = binaries
            .context("no folder of binaries")?
            .join("e2e-service");
        let process = Command::new(service)
            .env_clear()
            .envs(&self.variables)
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        self.process = Some(process.context("the service cannot be started")?);
        Ok(())
    }
}

/// Makes a change every two seconds, and counts the rows that are marked as permanently failed.
async fn watch(
    delius: sandbox::Delius,
    outage: Instant,
    end: Instant,
) -> anyhow::Result<(Option<Duration>, usize)> {
    let mut ticks = interval(BETWEEN_CHANGES);
    let (mut first, mut lost) = (None, 0);
    while Instant::now() < end {
        ticks.tick().await;
        delius.random_change()?;
        let rows = delius.updates()?;
        lost = rows
            .iter()
            .filter(|row| row.status == Status::Failed)
            .count();
        if lost > 0 {
            first.get_or_insert(outage.elapsed());
        }
    }
    Ok((first, lost))
}
