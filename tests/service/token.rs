//! The token: one fetch for all, renewed, replaced when refused.

use std::time::Duration;

use crate::world::{World, add, row, sandbox};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault};

fn add_rows(sandbox: &sandbox::Sandbox, rows: i64) {
    for record in 1..=rows {
        add(
            sandbox,
            NewUpdate {
                source_record_id: Some(record),
                ..row(1 + record % 5, "CONTACT")
            },
        );
    }
}

#[tokio::test]
async fn one_fetch_serves_however_many_tasks_need_a_token() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 50);
    sandbox
        .faults()
        .once(Endpoint::Token, Fault::Latency(Duration::from_millis(200)));
    let world = World::around(sandbox, &[("OFFENDERUPDATEPOLL_CLAIMERS", "8")]).await;
    world.messages(50).await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::Token), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_token_that_community_api_refuses_is_dropped_and_the_call_tried_once_more() {
    let world = World::start().await;
    world.add(row(1, "CONTACT"));
    world.messages(1).await;
    world.sandbox.auth().revoke_all();
    add_rows(&world.sandbox, 20);
    world.messages(21).await;
    world.drained().await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::Token), 2);
    assert_eq!(world.metric("offender_claims_suspended").await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn a_token_is_kept_also_if_it_does_not_tell_its_life() {
    let sandbox = sandbox().await;
    let http = reqwest::Client::new();
    let token: serde_json::Value = http
        .post(format!("{}/oauth/token", sandbox.auth_url()))
        .basic_auth("probation-offender-events", Some("clientsecret"))
        .form(&[("grant_type", "client_credentials")])
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let body = serde_json::json!({"access_token": token["access_token"], "token_type": "BEARER"})
        .to_string();
    sandbox
        .faults()
        .always(Endpoint::Token, Fault::body(200, body));
    add_rows(&sandbox, 20);
    let world = World::around(sandbox, &[]).await;
    world.messages(20).await;
    assert_eq!(
        world.sandbox.faults().calls(Endpoint::Token),
        2,
        "the test's own and the service's"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_short_lived_token_is_renewed_in_time() {
    let settings = sandbox::Settings {
        timings: sandbox::Timings {
            settle_seconds: 0,
            ..sandbox::Timings::default()
        },
        token_lifetime: Duration::from_secs(2),
        ..sandbox::Settings::default()
    };
    let world = World::around(sandbox::Sandbox::start(settings).await.unwrap(), &[]).await;
    let mut published = 0;
    while world.sandbox.auth().tokens_issued() < 4 {
        add_rows(&world.sandbox, 5);
        published += 5;
        world.messages(published).await;
        world.drained().await;
    }
    assert_eq!(world.metric("offender_claims_suspended").await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn credentials_with_every_kind_of_character_reach_auth_unharmed() {
    let secret = "p:a+s%s &=/?ü\"'";
    let settings = sandbox::Settings {
        timings: sandbox::Timings {
            settle_seconds: 0,
            ..sandbox::Timings::default()
        },
        client_secret: secret.to_owned(),
        ..sandbox::Settings::default()
    };
    let sandbox = sandbox::Sandbox::start(settings).await.unwrap();
    add_rows(&sandbox, 1);
    let world = World::around(sandbox, &[("OAUTH_CLIENT_SECRET", secret)]).await;
    world.messages(1).await;
    world.stop().await;
}

#[tokio::test]
async fn wrong_credentials_claim_nothing_and_leave_the_pod_alive() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1);
    let world = World::around(sandbox, &[("OAUTH_CLIENT_SECRET", "wrong")]).await;
    crate::world::eventually("several polls", async || {
        world.metric("offender_poll_total").await > 3.0
    })
    .await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::NextUpdate), 0);
    assert!(world.is_live().await);
    world.stop().await;
}
