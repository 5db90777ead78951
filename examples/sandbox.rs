//! The service and its whole world in one process: a page for changes in a mini-Delius, and the events that a
//! subscriber receives. With `--backlog N` it drains N rows and reports how long that took.

// The output is for a person at a terminal, with rounded figures.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use jiff::Timestamp;
use probation_offender_events::application::Application;
use probation_offender_events::config::{LogFormat, Settings};
use probation_offender_events::metrics::Metrics;
use probation_offender_events::offender_update::LocalDateTime;
use probation_offender_events::telemetry;
use sandbox::{Message, PAGE_PORT, Sandbox};
use serde_json::Value;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

/// The service and its whole world in one process
#[derive(Parser)]
struct Arguments {
    /// Drain this many rows, report the speed, and exit
    #[arg(long, value_name = "ROWS")]
    backlog: Option<usize>,
    /// Change a person at random, at this interval
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    change_every: Option<u64>,
    /// Port of the page. 0 chooses a free one [default: 8095, or a free one if 8095 is in use]
    #[arg(long)]
    page_port: Option<u16>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let metrics = Arc::new(Metrics::new()?);
    let _log = telemetry::start(
        LogFormat::Text,
        std::env::var_os("NO_COLOR").is_none(),
        &std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()),
        metrics.log_lines_lost.clone(),
    )?;
    let sandbox = Sandbox::start(sandbox::Settings {
        page_address: Some(page_address(arguments.page_port)),
        ..sandbox::Settings::default()
    })
    .await?;
    if let Some(rows) = arguments.backlog {
        println!("Writing {rows} rows to the mini-Delius …");
        sandbox.delius().seed_people(rows.min(10_000))?;
        sandbox.delius().seed_backlog(rows)?;
    }
    let application = Application::build(settings_for(&sandbox)?, metrics).await?;
    let port = application.address()?.port();
    print_addresses(&sandbox, &format!("http://127.0.0.1:{port}"));
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
    stop.cancel();
    service.await.context("the service panicked")?
}

/// The usual port of the page, unless another program has it.
fn page_address(port: Option<u16>) -> SocketAddr {
    let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match port {
        Some(port) => on(port),
        None if std::net::TcpListener::bind(on(PAGE_PORT)).is_ok() => on(PAGE_PORT),
        None => {
            println!("Port {PAGE_PORT} is in use, so the page uses a free one.");
            on(0)
        }
    }
}

fn settings_for(sandbox: &Sandbox) -> anyhow::Result<Settings> {
    let mut variables = sandbox.environment();
    // A fifth of the real interval, so that a change is visible soon.
    variables.insert("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "2000".into());
    Ok(Settings::from_variables(|name| {
        variables.get(name).cloned()
    })?)
}

fn print_addresses(sandbox: &Sandbox, service: &str) {
    println!("page           {}", sandbox.page_url().unwrap_or_default());
    println!("health         {service}/health");
    println!("metrics        {service}/prometheus");
    println!("community-api  {}", sandbox.community_url());
    println!("hmpps-auth     {}", sandbox.auth_url());
    println!("topic          {}/messages", sandbox.sns_url());
    sandbox.watch_service(service.to_owned());
}

/// Prints the events for changes on the page, or for random changes. All people are fictional.
async fn show_messages(sandbox: &Sandbox, change_every: Option<u64>) -> anyhow::Result<()> {
    let page = sandbox.page_url().unwrap_or_default();
    println!(
        "\nOpen {page} and change a person. About 3 seconds later, the events appear there and here. Press Ctrl-C to stop."
    );
    let mut changes = interval(Duration::from_secs(change_every.unwrap_or(1)));
    let mut published = sandbox.topic().subscribe();
    let mut printed = 0;
    loop {
        tokio::select! {
            _ = changes.tick(), if change_every.is_some() => {
                println!("\nchange in Delius: {}", sandbox.delius().random_change()?);
            }
            more = published.changed() => more?,
        }
        let messages = sandbox.topic().messages();
        for (index, message) in messages.iter().enumerate().skip(printed) {
            // The generic event does not contain the time of the change, so it is taken from the specific event after it.
            let change = date_changed(message).or_else(|| date_changed(messages.get(index + 1)?));
            print_message(message, change);
        }
        printed = messages.len();
    }
}

fn date_changed(message: &Message) -> Option<LocalDateTime> {
    let body: Value = serde_json::from_str(&message.body).ok()?;
    body["eventDatetime"].as_str()?.parse().ok()
}

fn print_message(message: &Message, date_changed: Option<LocalDateTime>) {
    let now = Timestamp::now();
    let event_type = message.attributes.get("eventType");
    let event_type = event_type.map_or("?", |(_, value)| value.as_str());
    let time = now.strftime("%H:%M:%SZ");
    match date_changed.map(|changed| changed.age(now).as_secs_f64()) {
        Some(age) => println!("\n{time}  {event_type}  {age:.1} s after the change"),
        None => println!("\n{time}  {event_type}"),
    }
    println!("  body         {}", message.body);
    for (name, (data_type, value)) in &message.attributes {
        println!("  {name:<11}  {value}  ({data_type})");
    }
}

/// Waits until the backlog is drained, and prints a line every second.
async fn drain(sandbox: &Sandbox, rows: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut every_second = interval(Duration::from_secs(1));
    every_second.tick().await;
    let mut done_before = 0;
    loop {
        tokio::select! {
            () = nothing_left(sandbox) => break,
            _ = every_second.tick() => {
                let done = rows.saturating_sub(sandbox.delius().count_updates()?);
                println!("{done} of {rows} rows, {} rows per second", done - done_before);
                done_before = done;
            }
        }
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "\n{rows} rows became {} events in {took:.1} s: {:.0} rows per second",
        sandbox.topic().len(),
        rows as f64 / took
    );
    Ok(())
}

async fn nothing_left(sandbox: &Sandbox) {
    let mut looks = interval(Duration::from_millis(50));
    while sandbox.delius().count_updates().is_ok_and(|left| left > 0) {
        looks.tick().await;
    }
}
