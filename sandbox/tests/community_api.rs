//! community-api and hmpps-auth over real sockets.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Response};
use sandbox::delius::{NewUpdate, Status};
use sandbox::{Endpoint, Sandbox, Settings, Timings};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const NEXT_UPDATE: &str = "/secure/offenders/nextUpdate";

async fn start() -> Result<Sandbox> {
    let timings = Timings {
        settle_seconds: 0,
        ..Timings::default()
    };
    Sandbox::start(Settings {
        timings,
        ..Settings::default()
    })
    .await
}

async fn get(sandbox: &Sandbox, path: &str, token: &str) -> Result<Response> {
    let url = sandbox.community_url() + path;
    Ok(Client::new().get(url).bearer_auth(token).send().await?)
}

async fn fetch_token(
    sandbox: &Sandbox,
    id: &str,
    secret: &str,
    grant: &str,
) -> Result<(u16, Value)> {
    let encode = |part: &str| form_urlencoded::byte_serialize(part.as_bytes()).collect::<String>();
    let response = Client::new()
        .post(sandbox.auth_url() + "/oauth/token")
        .basic_auth(encode(id), Some(encode(secret)))
        .form(&[("grant_type", grant), ("scope", "read")])
        .send()
        .await?;
    Ok((response.status().as_u16(), response.json().await?))
}

#[tokio::test]
async fn a_row_is_claimed_looked_up_and_settled() -> Result<()> {
    let sandbox = start().await?;
    let token = sandbox.auth().issue();
    let update = NewUpdate {
        source_table: Some("ALIAS".into()),
        source_record_id: Some(7),
        ..NewUpdate::default()
    };
    let id = sandbox.delius().insert_update(&update, 0)?;
    let answer = get(&sandbox, NEXT_UPDATE, &token).await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.text().await?,
        format!(
            r#"{{"offenderId":1,"dateChanged":"2020-07-19T13:56:43","action":"UPSERT","offenderDeltaId":{id},"sourceTable":"ALIAS","sourceRecordId":7,"status":"INPROGRESS","failedUpdate":false}}"#
        )
    );
    let nothing = get(&sandbox, NEXT_UPDATE, &token).await?;
    assert_eq!(nothing.status(), 404);
    assert_eq!(nothing.json::<Value>().await?["status"], 404);

    let identifiers = get(
        &sandbox,
        "/secure/offenders/offenderId/2/identifiers",
        &token,
    )
    .await?;
    assert_eq!(
        identifiers.json::<Value>().await?,
        json!({"offenderId": 2, "primaryIdentifiers": {"crn": "X000002", "nomsNumber": "A0002AA"}})
    );
    let invisible = get(
        &sandbox,
        "/secure/offenders/offenderId/99/identifiers",
        &token,
    )
    .await?;
    assert_eq!(invisible.status(), 404);

    let update = format!("{}/secure/offenders/update/{id}", sandbox.community_url());
    let client = Client::new();
    let failed = client
        .put(format!("{update}/markAsFailed"))
        .bearer_auth(&token)
        .send()
        .await?;
    assert_eq!(failed.status(), 200);
    assert_eq!(sandbox.delius().updates()?[0].status, Status::Failed);
    for expected in [200, 404] {
        assert_eq!(
            client
                .delete(&update)
                .bearer_auth(&token)
                .send()
                .await?
                .status(),
            expected
        );
    }
    let gone = client
        .put(format!("{update}/markAsFailed"))
        .bearer_auth(&token)
        .send()
        .await?;
    assert_eq!(gone.status(), 404);
    assert_eq!(sandbox.faults().calls(Endpoint::MarkAsFailed), 2);
    Ok(())
}

#[tokio::test]
async fn both_pings_need_no_token() -> Result<()> {
    let sandbox = start().await?;
    for base in [sandbox.community_url(), sandbox.auth_url()] {
        let answer = reqwest::get(base + "/health/ping").await?;
        assert_eq!(answer.json::<Value>().await?, json!({"status": "UP"}));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_callers_never_get_the_same_row() -> Result<()> {
    const ROWS: usize = 300;
    let sandbox = start().await?;
    sandbox.delius().seed_backlog(ROWS)?;
    let token = sandbox.auth().issue();
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let (url, token) = (sandbox.community_url() + NEXT_UPDATE, token.clone());
        callers.spawn(async move {
            let (client, mut rows) = (Client::new(), Vec::new());
            loop {
                let answer = client.get(&url).bearer_auth(&token).send().await?;
                match answer.status().as_u16() {
                    200 => rows.push(answer.json::<Value>().await?["offenderDeltaId"].as_i64()),
                    409 => {}
                    status => return anyhow::Ok((status, rows)),
                }
            }
        });
    }
    let mut seen = HashSet::new();
    while let Some(caller) = callers.join_next().await {
        let (status, rows) = caller??;
        assert_eq!(status, 404);
        for row in rows {
            assert!(
                seen.insert(row.context("a row without id")?),
                "{row:?} was served twice"
            );
        }
    }
    assert_eq!(seen.len(), ROWS);
    assert!(sandbox.faults().peak_concurrency(Endpoint::NextUpdate) > 1);
    Ok(())
}

#[tokio::test]
async fn ten_lost_attempts_are_a_conflict() -> Result<()> {
    let sandbox = Sandbox::start(Settings {
        lock_time: Duration::from_millis(20),
        ..Settings::default()
    })
    .await?;
    sandbox.delius().seed_backlog(100)?;
    let token = sandbox.auth().issue();
    let client = Client::new();
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let call = client
            .get(sandbox.community_url() + NEXT_UPDATE)
            .bearer_auth(&token)
            .send();
        callers.spawn(async move { anyhow::Ok(call.await?.status().as_u16()) });
    }
    let mut conflicts = 0;
    while let Some(status) = callers.join_next().await {
        match status?? {
            200 => {}
            409 => conflicts += 1,
            status => anyhow::bail!("{status} instead of a row or a conflict"),
        }
    }
    // While one locks a row, the others find the same one.
    assert!(conflicts > 0);
    assert!(sandbox.delius().lost_races() >= 10 * conflicts);
    Ok(())
}

#[tokio::test]
async fn a_token_is_issued_for_the_right_credentials_only() -> Result<()> {
    let secret = "a:b+c%d &=é";
    let settings = Settings {
        client_secret: secret.into(),
        ..Settings::default()
    };
    let sandbox = Sandbox::start(settings).await?;
    let id = "probation-offender-events";
    let (status, token) = fetch_token(&sandbox, id, secret, "client_credentials").await?;
    assert_eq!(
        (status, &token["token_type"], &token["expires_in"]),
        (200, &json!("bearer"), &json!(3600))
    );
    let access_token = token["access_token"].as_str().context("access_token")?;
    assert_eq!(access_token.split('.').count(), 3);
    assert_eq!(
        get(&sandbox, NEXT_UPDATE, access_token).await?.status(),
        404
    );
    assert_eq!(sandbox.auth().tokens_issued(), 1);

    let (status, error) = fetch_token(&sandbox, id, "wrong", "client_credentials").await?;
    assert_eq!(status, 401);
    assert_eq!(
        error,
        json!({"error": "invalid_client", "error_description": "Bad client credentials"})
    );
    let (status, error) = fetch_token(&sandbox, id, secret, "password").await?;
    assert_eq!(
        (status, &error["error"]),
        (400, &json!("unsupported_grant_type"))
    );
    Ok(())
}

#[tokio::test]
async fn expired_revoked_and_unknown_tokens_are_refused() -> Result<()> {
    let sandbox = start().await?;
    let revoked = sandbox.auth().issue();
    assert_eq!(get(&sandbox, NEXT_UPDATE, &revoked).await?.status(), 404);
    sandbox.auth().revoke_all();
    sandbox.auth().set_token_lifetime(Duration::ZERO);
    let expired = sandbox.auth().issue();
    for token in [&*revoked, &*expired, "unknown"] {
        let refused = get(&sandbox, NEXT_UPDATE, token).await?;
        assert_eq!(refused.status(), 401);
        let challenge = refused.headers()["www-authenticate"].to_str()?.to_owned();
        assert!(
            challenge.starts_with("Bearer ") && challenge.contains(r#"error="invalid_token""#),
            "{challenge}"
        );
        assert_eq!(refused.json::<Value>().await?["error"], "invalid_token");
    }
    let without = reqwest::get(sandbox.community_url() + NEXT_UPDATE).await?;
    assert_eq!(without.status(), 401);
    Ok(())
}

#[tokio::test]
async fn each_call_asks_for_its_role() -> Result<()> {
    let sandbox = start().await?;
    sandbox.auth().set_roles(vec!["ROLE_COMMUNITY".into()]);
    let reader = sandbox.auth().issue();
    sandbox
        .auth()
        .set_roles(vec!["ROLE_COMMUNITY_EVENTS".into()]);
    let poller = sandbox.auth().issue();
    let identifiers = "/secure/offenders/offenderId/1/identifiers";
    assert_eq!(get(&sandbox, identifiers, &reader).await?.status(), 200);
    assert_eq!(get(&sandbox, NEXT_UPDATE, &poller).await?.status(), 404);
    assert_eq!(get(&sandbox, identifiers, &poller).await?.status(), 403);
    let refused = get(&sandbox, NEXT_UPDATE, &reader).await?;
    assert_eq!(refused.status(), 403);
    assert_eq!(
        refused.json::<Value>().await?,
        json!({"error": "access_denied", "error_description": "Access is denied"})
    );
    Ok(())
}
