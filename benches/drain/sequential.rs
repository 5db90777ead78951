//! The baseline: what the service's predecessor does with a row, over this service's own adapters. One row in flight,
//! its events published one by one, and only then the next row: five round trips one after the other for a row with two
//! events.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_config::{BehaviorVersion, Region};
use aws_sdk_sns::config::Credentials;
use probation_offender_events::community_api::CommunityApi;
use probation_offender_events::config::Settings;
use probation_offender_events::event::events_of;
use probation_offender_events::http::HttpClient;
use probation_offender_events::http::sdk::SdkHttp;
use probation_offender_events::metrics::Metrics;
use probation_offender_events::offender_update::{ClaimedRow, OffenderUpdate};
use probation_offender_events::ports::{Topic, Updates};
use probation_offender_events::token::TokenSource;
use probation_offender_events::topic::SnsTopic;
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep};

/// The wait after a poll without rows. It decides how soon a drain starts.
const BETWEEN_POLLS: Duration = Duration::from_millis(200);

/// Drains until the process is killed.
pub async fn run() -> Result<()> {
    let settings = Settings::from_environment().map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let metrics = Arc::new(Metrics::new()?);
    let http = HttpClient::new(settings.connect_timeout)?;
    let tokens = TokenSource::new(
        http.clone(),
        &settings.auth_url,
        settings.client_id,
        settings.client_secret,
        settings.poller.call_timeout,
        metrics.clone(),
    );
    let updates = CommunityApi::new(
        http.clone(),
        settings.community_url,
        tokens,
        metrics.clone(),
    );
    let (id, secret) = settings.topic.keys.context("no keys")?;
    let sns = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(SdkHttp::new(http))
        .region(Region::new(settings.topic.region))
        .credentials_provider(Credentials::new(
            id,
            secret.expose_secret(),
            None,
            None,
            "bench",
        ))
        .endpoint_url(settings.topic.endpoint.context("no address")?)
        .load()
        .await;
    let topic = SnsTopic::new(
        aws_sdk_sns::config::Builder::from(&sns),
        settings.topic.arn,
        settings.poller.publish_timeout,
        metrics,
    );
    loop {
        match updates.next().await? {
            Some(ClaimedRow::Update(row)) => {
                let claimed = Instant::now();
                settle(&updates, &topic, &row).await?;
                let milliseconds = claimed.elapsed().as_millis();
                writeln!(
                    stdout(),
                    r#"{{"outcome":"published","milliseconds":{milliseconds}}}"#
                )?;
            }
            Some(ClaimedRow::Unreadable(row)) => bail!("an unreadable row: {}", row.problem),
            None => sleep(BETWEEN_POLLS).await,
        }
    }
}

async fn settle(updates: &CommunityApi, topic: &SnsTopic, row: &OffenderUpdate) -> Result<()> {
    let identifiers = updates.identifiers(row.offender_id).await?;
    let identifiers = identifiers.context("an offender who is not visible")?;
    for event in &events_of(row, &identifiers, &[]) {
        let answers = topic.publish(std::slice::from_ref(event)).await?;
        answers.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(updates.delete(row.offender_delta_id).await?)
}
