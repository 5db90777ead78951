//! A bare client of community-api. It shows what the sandbox itself can do: back-to-back claims, and a drain that only
//! claims and deletes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Client;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::world::World;

/// The number of concurrent DELETEs: the rows that the service has in flight.
const DELETES_UNDER_WAY: usize = 32;

#[derive(Clone)]
struct Bare {
    http: Client,
    url: String,
    token: String,
}

/// The mean round trip of `claims` back-to-back claims, without the connection and the first answer.
pub fn round_trip(world: &mut World, claims: usize) -> Result<Duration> {
    world.fill(claims + 1)?;
    Runtime::new()?.block_on(async {
        let bare = Bare::new(world).await?;
        bare.claim().await?;
        let started = Instant::now();
        for _ in 0..claims {
            bare.claim().await?.context("the backlog is too small")?;
        }
        Ok(started.elapsed().div_f64(claims as f64))
    })
}

/// Rows per second of a client that only claims rows and deletes them.
pub fn claims_and_deletes(world: &mut World, rows: usize) -> Result<f64> {
    world.fill(rows)?;
    Runtime::new()?.block_on(async {
        let bare = Bare::new(world).await?;
        let places = Arc::new(Semaphore::new(DELETES_UNDER_WAY));
        let started = Instant::now();
        bare.drain(places).await?;
        Ok(rows as f64 / started.elapsed().as_secs_f64())
    })
}

impl Bare {
    async fn new(world: &World) -> Result<Self> {
        let http = Client::new();
        let answer = http
            .post(format!(
                "{}/oauth/token",
                world.environment["OAUTH_ENDPOINT_URL"]
            ))
            .basic_auth(
                &world.environment["OAUTH_CLIENT_ID"],
                Some(&world.environment["OAUTH_CLIENT_SECRET"]),
            )
            .form(&[("grant_type", "client_credentials")])
            .send()
            .await?;
        let token: Value = answer.error_for_status()?.json().await?;
        Ok(Self {
            http,
            url: format!(
                "{}/secure/offenders",
                world.environment["COMMUNITY_ENDPOINT_URL"]
            ),
            token: token["access_token"]
                .as_str()
                .context("no token")?
                .to_owned(),
        })
    }

    async fn claim(&self) -> Result<Option<i64>> {
        loop {
            let request = self.http.get(format!("{}/nextUpdate", self.url));
            let answer = request.bearer_auth(&self.token).send().await?;
            match answer.status().as_u16() {
                200 => {
                    let row: Value = answer.json().await?;
                    return Ok(Some(row["offenderDeltaId"].as_i64().context("no id")?));
                }
                404 => return Ok(None),
                409 => {}
                status => bail!("nextUpdate answered {status}"),
            }
        }
    }

    async fn drain(self, places: Arc<Semaphore>) -> Result<()> {
        let mut deletes = JoinSet::new();
        while let Some(row) = self.claim().await? {
            let place = places.clone().acquire_owned().await?;
            let request = self.http.delete(format!("{}/update/{row}", self.url));
            let delete = request.bearer_auth(&self.token).send();
            deletes.spawn(async move {
                let answer = delete.await?.error_for_status()?;
                answer.bytes().await?;
                drop(place);
                anyhow::Ok(())
            });
            while let Some(ended) = deletes.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = deletes.join_next().await {
            ended??;
        }
        Ok(())
    }
}
