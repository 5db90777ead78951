//! Faults over real sockets: what takes effect, and what the caller sees of it.

use std::time::Duration;

use anyhow::Result;
use reqwest::{Client, Response};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault, Rule, Sandbox, Settings};
use tokio::net::TcpStream;

async fn start() -> Result<(Sandbox, Client)> {
    Ok((Sandbox::start(Settings::default()).await?, Client::new()))
}

/// Deletes a new row, so that the table shows whether the call took effect.
async fn delete(sandbox: &Sandbox, client: &Client) -> Result<reqwest::Result<Response>> {
    let id = sandbox.delius().insert_update(&NewUpdate::default(), 0)?;
    let url = format!("{}/secure/offenders/update/{id}", sandbox.community_url());
    Ok(client
        .delete(url)
        .bearer_auth(sandbox.auth().issue())
        .send()
        .await)
}

async fn ping(sandbox: &Sandbox, client: &Client) -> reqwest::Result<u16> {
    let answer = client
        .get(sandbox.community_url() + "/health/ping")
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

async fn received(sandbox: &Sandbox, endpoint: Endpoint, calls: u64) {
    while sandbox.faults().calls(endpoint) < calls {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_is_dropped_before_or_after_the_effect() -> Result<()> {
    let (sandbox, client) = start().await?;
    sandbox
        .faults()
        .once(Endpoint::DeleteUpdate, Fault::DropConnection);
    assert!(delete(&sandbox, &client).await?.is_err());
    assert_eq!(sandbox.delius().count_updates()?, 1);
    sandbox
        .faults()
        .once(Endpoint::DeleteUpdate, Fault::LoseAnswer);
    assert!(delete(&sandbox, &client).await?.is_err());
    assert_eq!(sandbox.delius().count_updates()?, 1);
    assert_eq!(delete(&sandbox, &client).await??.status(), 200);
    assert_eq!(sandbox.faults().calls(Endpoint::DeleteUpdate), 3);
    Ok(())
}

#[tokio::test]
async fn an_answer_replaces_the_effect_or_follows_it() -> Result<()> {
    let (sandbox, client) = start().await?;
    sandbox.faults().once(
        Endpoint::DeleteUpdate,
        Fault::status(503).header("Retry-After", "1"),
    );
    let answer = delete(&sandbox, &client).await??;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"1".parse()?)
    );
    assert_eq!(sandbox.delius().count_updates()?, 1);
    sandbox
        .faults()
        .once(Endpoint::DeleteUpdate, Fault::AnswerAfterEffect(502));
    assert_eq!(delete(&sandbox, &client).await??.status(), 502);
    assert_eq!(sandbox.delius().count_updates()?, 1);
    sandbox
        .faults()
        .once(Endpoint::DeleteUpdate, Fault::body(200, "<html>"));
    assert_eq!(delete(&sandbox, &client).await??.text().await?, "<html>");
    Ok(())
}

#[tokio::test]
async fn a_hanging_call_ends_with_its_caller_or_with_the_sandbox() -> Result<()> {
    let (sandbox, client) = start().await?;
    sandbox
        .faults()
        .always(Endpoint::CommunityPing, Fault::Hang);
    let url = sandbox.community_url() + "/health/ping";
    let abandoned = tokio::spawn(client.get(&url).send());
    received(&sandbox, Endpoint::CommunityPing, 1).await;
    abandoned.abort();
    let hanging = tokio::spawn(client.get(&url).send());
    received(&sandbox, Endpoint::CommunityPing, 2).await;
    let address = sandbox.community_url().replace("http://", "");
    sandbox.stop().await;
    assert!(hanging.await?.is_err());
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_late_call_takes_effect_although_its_caller_has_gone() -> Result<()> {
    let (sandbox, client) = start().await?;
    let latency = Duration::from_millis(200);
    sandbox
        .faults()
        .once(Endpoint::Publish, Fault::Latency(latency));
    let arn = sandbox.topic().arn().to_owned();
    let form = [
        ("Action", "Publish"),
        ("TopicArn", &arn),
        ("Message", "late"),
    ];
    let impatient = tokio::spawn(client.post(sandbox.sns_url()).form(&form).send());
    received(&sandbox, Endpoint::Publish, 1).await;
    impatient.abort();
    assert_eq!(
        sandbox.topic().wait_for(1, Duration::from_secs(10)).await?[0].body,
        "late"
    );
    Ok(())
}

#[tokio::test]
async fn latency_adds_to_the_next_rule_and_rules_run_out() -> Result<()> {
    let (sandbox, client) = start().await?;
    let faults = sandbox.faults();
    faults.always(
        Endpoint::CommunityPing,
        Fault::Latency(Duration::from_millis(1)),
    );
    faults.inject(Rule {
        times: Some(2),
        ..Rule::new(Endpoint::CommunityPing, Fault::status(500))
    });
    faults.inject(Rule {
        probability: 0.0,
        ..Rule::new(Endpoint::CommunityPing, Fault::status(501))
    });
    faults.once(Endpoint::CommunityPing, Fault::status(502));
    for expected in [500, 500, 502, 200] {
        assert_eq!(ping(&sandbox, &client).await?, expected);
    }
    faults.always(Endpoint::CommunityPing, Fault::status(503));
    assert_eq!(ping(&sandbox, &client).await?, 503);
    faults.clear();
    assert_eq!(ping(&sandbox, &client).await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_body_over_one_megabyte_is_refused() -> Result<()> {
    let (sandbox, client) = start().await?;
    for url in [
        sandbox.auth_url(),
        sandbox.sns_url(),
        sandbox.community_url(),
    ] {
        let large = client.post(url + "/").body(vec![b' '; 1024 * 1024 + 1]);
        // It may be answered before all of it is sent, which the client may take for an error.
        let refused = large
            .send()
            .await
            .map_or(413, |answer| answer.status().as_u16());
        assert_eq!(refused, 413);
    }
    Ok(())
}

#[tokio::test]
async fn a_rule_for_one_offender_spares_the_others() -> Result<()> {
    let (sandbox, client) = start().await?;
    let rule = Rule {
        offender_id: Some(2),
        ..Rule::new(Endpoint::Identifiers, Fault::status(500))
    };
    sandbox.faults().inject(rule);
    for (offender, expected) in [(1, 200), (2, 500), (3, 200)] {
        let url = format!(
            "{}/secure/offenders/offenderId/{offender}/identifiers",
            sandbox.community_url()
        );
        assert_eq!(
            client
                .get(url)
                .bearer_auth(sandbox.auth().issue())
                .send()
                .await?
                .status(),
            expected
        );
    }
    Ok(())
}
