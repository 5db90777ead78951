//! `sandbox serve`: the world around the service in a separate process, for docker-compose and for trying things out.

use std::ffi::OsStr;
use std::io::{Write, stdout};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use sandbox::{Delius, Rule, Sandbox, Settings, Timings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// The longest that a time in seconds may be.
const YEAR_SECONDS: i64 = 31_536_000;

#[derive(Parser)]
#[command(
    version,
    about = "A mini-Delius with community-api, hmpps-auth, an SNS topic, and a page that shows all of them"
)]
enum Command {
    /// Serve until SIGINT or SIGTERM.
    Serve(Box<Arguments>),
}

#[derive(Args)]
struct Arguments {
    /// Address that all servers listen on
    #[arg(long, env = "SANDBOX_BIND", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Port of community-api. 0 chooses a free port
    #[arg(long, env = "SANDBOX_COMMUNITY_PORT", default_value_t = 8096)]
    community_port: u16,
    /// Port of hmpps-auth
    #[arg(long, env = "SANDBOX_AUTH_PORT", default_value_t = 8090)]
    auth_port: u16,
    /// Port of the topic
    #[arg(long, env = "SANDBOX_TOPIC_PORT", default_value_t = 4575)]
    topic_port: u16,
    /// Port of the page
    #[arg(long, env = "SANDBOX_PAGE_PORT", default_value_t = sandbox::PAGE_PORT)]
    page_port: u16,
    /// Address at which the page requests the service's health and metrics
    #[arg(
        long,
        env = "SANDBOX_SERVICE_URL",
        default_value = "http://localhost:8081"
    )]
    service_url: String,
    /// Address at which a browser reaches the service, if it is another one
    #[arg(long, env = "SANDBOX_SERVICE_LINK")]
    service_link: Option<String>,
    /// SQS queue of LocalStack whose messages the page receives and shows. Without it, the page shows
    /// the messages of the sandbox's topic
    #[arg(long, env = "SANDBOX_QUEUE_URL")]
    queue_url: Option<String>,
    /// File that holds the data. The sqlite3 command can change it at the same time. Without it, the
    /// data is in memory
    #[arg(long, env = "SANDBOX_DATABASE")]
    database: Option<PathBuf>,
    /// Average number of random changes per minute
    #[arg(long, env = "SANDBOX_CHANGES_PER_MINUTE", default_value_t = 0.0)]
    changes_per_minute: f64,
    /// Number of changes that wait to be published at the start
    #[arg(long, env = "SANDBOX_BACKLOG", default_value_t = 0)]
    backlog: usize,
    /// Number of additional fictional offenders at the start
    #[arg(long, env = "SANDBOX_PEOPLE", default_value_t = 0)]
    people: usize,
    /// Age in seconds from which a row is served
    #[arg(long, env = "SANDBOX_SERVE_AFTER_SECONDS", default_value_t = Timings::default().serve_after_seconds, value_parser = clap::value_parser!(i64).range(0..=YEAR_SECONDS))]
    serve_after_seconds: i64,
    /// Time for which a row stays locked
    #[arg(long, env = "SANDBOX_LOCK_EXPIRY_SECONDS", default_value_t = Timings::default().lock_expiry_seconds, value_parser = clap::value_parser!(i64).range(1..=YEAR_SECONDS))]
    lock_expiry_seconds: i64,
    /// Time that nextUpdate takes from reading a row to locking it
    #[arg(long, env = "SANDBOX_LOCK_MILLISECONDS", default_value_t = 3)]
    lock_milliseconds: u64,
    /// Lifetime of a token
    #[arg(long, env = "SANDBOX_TOKEN_LIFETIME_SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i64).range(0..=YEAR_SECONDS))]
    token_lifetime_seconds: i64,
    /// Id of the client that hmpps-auth accepts
    #[arg(long, env = "SANDBOX_CLIENT_ID", default_value_t = Settings::default().client_id)]
    client_id: String,
    /// Secret of the client
    #[arg(
        long,
        env = "SANDBOX_CLIENT_SECRET",
        hide_env_values = true,
        default_value_t = Settings::default().client_secret
    )]
    client_secret: String,
    /// ARN of the topic
    #[arg(long, env = "SANDBOX_TOPIC_ARN", default_value_t = Settings::default().topic_arn)]
    topic_arn: String,
    /// Number of latest messages to keep. Without it, all are kept
    #[arg(long, env = "SANDBOX_KEPT_MESSAGES")]
    kept_messages: Option<usize>,
    /// A fault as `ENDPOINT=FAULT[@PROBABILITY]`, for example `publish-batch=throttle@0.1`. In the
    /// variable, separate faults with commas
    #[arg(long = "fault", env = "SANDBOX_FAULTS", value_delimiter = ',')]
    faults: Vec<Rule>,
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            timings: Timings {
                serve_after_seconds: self.serve_after_seconds,
                lock_expiry_seconds: self.lock_expiry_seconds,
            },
            lock_time: Duration::from_millis(self.lock_milliseconds),
            database: self.database.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            token_lifetime: Duration::from_secs(self.token_lifetime_seconds.unsigned_abs()),
            community_address: SocketAddr::new(self.bind, self.community_port),
            auth_address: SocketAddr::new(self.bind, self.auth_port),
            topic_address: SocketAddr::new(self.bind, self.topic_port),
            page_address: Some(SocketAddr::new(self.bind, self.page_port)),
            queue_url: self.queue_url.clone(),
            topic_arn: self.topic_arn.clone(),
            kept_messages: self.kept_messages,
            ..Settings::default()
        }
    }

    /// Serves until a signal comes. The signal ends every wait.
    async fn run(self) -> Result<()> {
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        tokio::select! {
            result = self.serve() => result,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    }

    async fn serve(self) -> Result<()> {
        ensure!(
            self.changes_per_minute >= 0.0,
            "--changes-per-minute must be 0 or more, but is {}",
            self.changes_per_minute
        );
        let sandbox = Sandbox::start(self.settings()).await?;
        let (people, backlog) = (self.people, self.backlog);
        let delius = sandbox.delius();
        delius
            .patiently(move |delius| delius.seed_people(people))
            .await?;
        delius
            .patiently(move |delius| delius.seed_backlog(backlog))
            .await?;
        for rule in self.faults {
            sandbox.faults().inject(rule);
        }
        let link = self.service_link.unwrap_or(self.service_url.clone());
        sandbox.link_service(self.service_url, link);
        say(&format!(
            "page {}\ncommunity-api {}\nhmpps-auth {}\ntopic {}",
            sandbox.page_url().unwrap_or_default(),
            sandbox.community_url(),
            sandbox.auth_url(),
            sandbox.sns_url()
        ))?;
        make_changes(&sandbox, self.changes_per_minute).await
    }
}

async fn make_changes(sandbox: &Sandbox, per_minute: f64) -> Result<()> {
    // A period that is too long for a `Duration` means no changes.
    let Ok(period) = Duration::try_from_secs_f64(60.0 / per_minute) else {
        return std::future::pending().await;
    };
    let mut ticks = interval(period.max(Duration::from_micros(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match sandbox.delius().patiently(Delius::random_change).await {
            Ok(change) => say(&change)?,
            // The next change may succeed.
            Err(error) => say(&format!("no change was made: {error:#}"))?,
        }
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(stdout(), "{line}")?)
}

/// An empty variable counts as one that is not set, as it does for the service.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command.mut_subcommand("serve", |serve| {
        serve.mut_args(|argument| match argument.get_env() {
            Some(name) if is_empty(name) => argument.env(None),
            _ => argument,
        })
    })
}

fn main() -> Result<()> {
    let arguments = without_empty_variables(Command::command()).get_matches();
    let Command::Serve(serve) = Command::from_arg_matches(&arguments)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(serve.run());
    // Waits for nothing, not even for a call that waits for the file.
    runtime.shutdown_background();
    result
}
