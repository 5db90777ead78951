//! The service and its whole world in one process, with a page to make changes in a mini-Delius and see them become
//! messages. What a subscriber to the topic would receive is printed too. With `--backlog N` it drains N rows instead, and
//! says how long that took.

// An example talks to whoever runs it, in round figures.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use probation_offender_events::application::Application;
use probation_offender_events::config::{LogFormat, Settings};
use probation_offender_events::telemetry;
use sandbox::{Message, Sandbox};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Arguments {
    /// Drain so many rows, and exit
    #[arg(long)]
    backlog: Option<usize>,
    /// Somebody is changed at random, every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    change_every: Option<u64>,
    /// The port of the page; 0 takes any that is free
    #[arg(long, default_value_t = sandbox::PAGE_PORT)]
    page_port: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::start(
        LogFormat::Text,
        &std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()),
    )?;
    let sandbox = Sandbox::start(sandbox::Settings {
        page_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.page_port))),
        ..sandbox::Settings::default()
    })
    .await?;
    if let Some(rows) = arguments.backlog {
        sandbox.delius().seed_people(rows.min(10_000))?;
        sandbox.delius().seed_backlog(rows)?;
    }
    let application = Application::build(settings_for(&sandbox)?).await?;
    let service = format!("http://localhost:{}", application.address()?.port());
    println!("page           {}", sandbox.page_url().unwrap_or_default());
    println!("health         {service}/health");
    println!("metrics        {service}/prometheus");
    sandbox.watch_service(service);
    println!("community-api  {}", sandbox.community_url());
    println!("hmpps-auth     {}", sandbox.auth_url());
    println!("topic          {}/messages", sandbox.sns_url());
    let stop = CancellationToken::new();
    let service = tokio::spawn(application.run_until_stopped(stop.clone()));
    tokio::select! {
        done = async {
            match arguments.backlog {
                Some(rows) => drain(&sandbox, rows).await,
                None => show_messages(&sandbox, arguments.change_every).await,
            }
        } => done?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    finish(service, &stop).await
}

async fn finish(
    service: JoinHandle<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    stop.cancel();
    service.await.context("the service panicked")?
}

fn settings_for(sandbox: &Sandbox) -> anyhow::Result<Settings> {
    let mut variables = sandbox.environment();
    // A fifth of the real interval, so that a change is seen soon.
    variables.insert("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "2000".into());
    Ok(Settings::from_variables(|name| {
        variables.get(name).cloned().map(Ok)
    })?)
}

/// Prints what comes of the changes that are made on the page, or now and then at random. The people are made up.
async fn show_messages(sandbox: &Sandbox, change_every: Option<u64>) -> anyhow::Result<()> {
    println!(
        "\nOpen the page and change somebody; a row is served 2 s after it was written. Ctrl-C ends it."
    );
    let mut changes = interval(Duration::from_secs(change_every.unwrap_or(1)));
    let mut published = sandbox.topic().subscribe();
    let mut printed = 0;
    loop {
        tokio::select! {
            _ = changes.tick(), if change_every.is_some() => println!("\n{} Delius: {}", time(), sandbox.delius().random_change()?),
            more = published.changed() => more?,
        }
        let messages = sandbox.topic().messages();
        messages.iter().skip(printed).for_each(print_message);
        printed = messages.len();
    }
}

fn print_message(message: &Message) {
    let value_of = |name| {
        message
            .attributes
            .get(name)
            .map_or("?", |(_, value)| value.as_str())
    };
    println!("{} {} {}", time(), value_of("eventType"), message.body);
    for (name, (data_type, value)) in &message.attributes {
        println!("               {name} ({data_type}) = {value}");
    }
}

fn time() -> impl std::fmt::Display {
    Timestamp::now().strftime("%H:%M:%S%.3fZ").to_string()
}

async fn drain(sandbox: &Sandbox, rows: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows  {per_sec}  {eta} left")?;
    let bar = ProgressBar::new(rows as u64).with_style(style);
    loop {
        let left = sandbox.delius().count_updates()?;
        bar.set_position(rows.saturating_sub(left) as u64);
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bar.finish();
    let took = started.elapsed();
    println!(
        "\n{rows} rows became {} events in {:.1} s: {:.0} rows a second",
        sandbox.topic().len(),
        took.as_secs_f64(),
        rows as f64 / took.as_secs_f64()
    );
    Ok(())
}
