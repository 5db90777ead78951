//! What happens to telemetry that Application Insights does not accept: what is sent again, followed, dropped and counted.

use std::time::Duration;

use crate::binary::Service;
use crate::ingestion::{Answer, Ingestion, KEY, SAMPLED_OUT};
use crate::insights::reporting_to;
use crate::world::{PATIENCE, World, add, eventually, row, sandbox};
use sandbox::Sandbox;
use sandbox::delius::NewUpdate;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

async fn dropped(world: &World, reason: &str) -> f64 {
    let series = format!("telemetry_dropped_total{{reason=\"{reason}\"}}");
    world.metric(&series).await
}

#[tokio::test]
async fn a_batch_that_is_refused_for_now_is_sent_again() {
    let is_sent_again = async |status| {
        let ingestion = Ingestion::answering(Answer::Refuse(status), 1).await;
        let world = reporting_to(sandbox().await, &ingestion, &[]).await;
        world.add(row(1, "ALIAS"));
        world.drained().await;
        world.stop().await;
        assert!(ingestion.times_received().contains(&2), "{status}");
        assert_eq!(ingestion.of_kind("Request").len(), 1, "{status}");
    };
    tokio::join!(
        is_sent_again(408),
        is_sent_again(429),
        is_sent_again(439),
        is_sent_again(500),
        is_sent_again(503),
    );
}

#[tokio::test]
async fn a_batch_that_is_refused_for_good_is_dropped_and_counted() {
    let is_counted = async |status| {
        let ingestion = Ingestion::answering(Answer::Refuse(status), 1).await;
        let world = reporting_to(sandbox().await, &ingestion, &[]).await;
        world.add(row(1, "ALIAS"));
        world.drained().await;
        eventually("it is counted", async || {
            dropped(&world, "refused").await > 1.0
        })
        .await;
        let sent = ingestion.batches()[0].len();
        assert_eq!(dropped(&world, "refused").await, sent as f64);
        // From now on, everything is accepted.
        world.add(row(2, "ALIAS"));
        world.drained().await;
        world.stop().await;
        assert_eq!(ingestion.of_kind("Event").len(), 1);
    };
    tokio::join!(is_counted(400), is_counted(403));
}

#[tokio::test]
async fn sampled_out_items_are_not_sent_again() {
    let half = Answer::Items(&[(200, ""), (206, SAMPLED_OUT)]);
    let ingestion = Ingestion::answering(half, usize::MAX).await;
    let world = reporting_to(sandbox().await, &ingestion, &[]).await;
    world.add(row(1, "ALIAS"));
    world.drained().await;
    world.stop().await;
    assert!(!ingestion.accepted().is_empty());
    let times = ingestion.times_received();
    assert!(times.iter().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn each_item_is_sent_again_or_dropped_by_its_own_status() {
    const EACH: &[(u16, &str)] = &[
        (429, ""),
        (400, ""),
        (500, SAMPLED_OUT),
        (503, ""),
        (200, ""),
        (402, ""),
    ];
    let ingestion = Ingestion::answering(Answer::Items(EACH), 1).await;
    let world = reporting_to(sandbox().await, &ingestion, &[]).await;
    world.add(row(1, "ALIAS"));
    world.drained().await;
    eventually("some are sent again", async || {
        ingestion.batches().len() > 1
    })
    .await;
    let refused = dropped(&world, "refused").await;
    assert_eq!(dropped(&world, "not_accepted").await, 0.0);
    world.stop().await;
    let batches = ingestion.batches();
    let of = |statuses: &[u16]| {
        let mut each = EACH.iter().cycle();
        let mut items = batches[0].clone();
        items.retain(|_| statuses.contains(&each.next().unwrap().0));
        items
    };
    assert_eq!(batches[1], of(&[429, 503]));
    assert_eq!(of(&[400, 402]).len() as f64, refused);
    let accepted = [of(&[200]), of(&[429, 503])].concat();
    assert_eq!(ingestion.accepted()[..accepted.len()], accepted);
}

#[tokio::test]
async fn a_redirect_within_the_site_is_followed_with_the_batch() {
    let follows = async |status| {
        let target = Ingestion::start().await;
        let to = format!("{}/moved/v2/track", target.address());
        let ingestion = Ingestion::answering(Answer::Redirect(status, to), 1).await;
        let world = reporting_to(sandbox().await, &ingestion, &[]).await;
        world.add(row(1, "ALIAS"));
        world.drained().await;
        world.stop().await;
        assert_eq!(target.of_kind("Event").len(), 1, "{status}");
    };
    tokio::join!(follows(307), follows(308));
}

#[tokio::test]
async fn a_redirect_elsewhere_is_counted_and_not_followed() {
    let is_refused = async |status, host: &str| {
        let target = Ingestion::start().await;
        let to = format!("{}/v2/track", target.address()).replace("127.0.0.1", host);
        let ingestion = Ingestion::answering(Answer::Redirect(status, to), 1).await;
        let world = reporting_to(sandbox().await, &ingestion, &[]).await;
        world.add(row(1, "ALIAS"));
        world.drained().await;
        eventually("it is counted", async || {
            dropped(&world, "refused").await > 1.0
        })
        .await;
        world.stop().await;
        assert!(target.batches().is_empty(), "{status}");
    };
    tokio::join!(
        is_refused(308, "localhost"),
        // These would turn the batch into a GET without a body.
        is_refused(301, "127.0.0.1"),
        is_refused(302, "127.0.0.1"),
        is_refused(303, "127.0.0.1"),
    );
}

#[tokio::test]
async fn a_fourth_redirect_is_not_followed() {
    let ingestion = Ingestion::start().await;
    ingestion.redirect_to_itself();
    let world = reporting_to(sandbox().await, &ingestion, &[]).await;
    world.add(row(1, "ALIAS"));
    world.drained().await;
    world.stop().await;
    let times = ingestion.times_received();
    assert!(times.iter().all(|times| *times == 4), "{times:?}");
}

/// A connection string whose port is closed.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    format!("InstrumentationKey={KEY};IngestionEndpoint=http://{address}")
}

#[tokio::test]
async fn a_dead_endpoint_delays_no_row_and_drops_are_counted() {
    let hanging = Ingestion::answering(Answer::Hang, usize::MAX).await;
    for connection in [hanging.connection_string(), closed_port().await] {
        let sandbox = sandbox().await;
        for record in 0..800 {
            let update = NewUpdate {
                source_record_id: Some(record),
                ..row(1 + record % 5, "DISPOSAL")
            };
            add(&sandbox, update);
        }
        let variables = [
            ("APPLICATIONINSIGHTS_CONNECTION_STRING", &*connection),
            ("SHUTDOWN_GRACEPERIOD", "1s"),
        ];
        let world = World::around(sandbox, &variables).await;
        world.drained().await;
        eventually("drops are counted", async || {
            dropped(&world, "queue_full").await > 0.0
        })
        .await;
        timeout(PATIENCE, world.stop()).await.unwrap();
    }
    assert!(hanging.accepted().is_empty());
}

/// `cargo test --release -p e2e --test slow -- --ignored --nocapture` shows the figures.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute with --release, and much longer without"]
async fn memory_stays_flat_while_the_endpoint_is_down_for_100_000_rows() {
    let sandbox = Sandbox::start(sandbox::Settings {
        kept_messages: Some(10),
        ..sandbox::Settings::default()
    })
    .await
    .unwrap();
    sandbox.delius().seed_people(10_000).unwrap();
    let connection = closed_port().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let variables = [
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", &*connection),
        ("SERVER_PORT", &port),
        ("RUST_LOG", "warn"),
    ];
    let service = Service::start(&sandbox, &variables);
    let metrics = format!("http://127.0.0.1:{port}/prometheus");
    let dropped = async || -> f64 {
        let text = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        let series = text
            .lines()
            .filter(|line| line.starts_with("telemetry_dropped_total{"));
        series
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    };
    let is_up = async || reqwest::get(&metrics).await.is_ok();
    eventually("started", is_up).await;
    println!("at the start: {} kB", service.resident_kilobytes());
    let mut memory = Vec::new();
    for rows in [10_000, 90_000] {
        sandbox.delius().seed_backlog(rows).unwrap();
        while sandbox.delius().count_updates().unwrap() > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        memory.push(service.resident_kilobytes());
        println!(
            "{rows} rows later: {} kB, {} items dropped",
            memory[memory.len() - 1],
            dropped().await
        );
    }
    assert!(memory[1] < memory[0] + 2_048, "{memory:?}");
    // Six items per row: four calls, the row and its event. At most two per entry of queue and batch are not dropped yet.
    assert!(dropped().await >= f64::from(600_000 - 2 * (2_048 + 512)));
    service.terminate().await;
}
