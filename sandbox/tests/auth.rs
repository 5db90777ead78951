//! hmpps-auth and its tokens over real sockets.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Response};
use sandbox::{Sandbox, Settings};
use serde_json::{Value, json};

const NEXT_UPDATE: &str = "/secure/offenders/nextUpdate";

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
async fn the_answer_says_what_is_wrong_with_a_token() -> Result<()> {
    let sandbox = Sandbox::start(Settings::default()).await?;
    let revoked = sandbox.auth().issue();
    assert_eq!(get(&sandbox, NEXT_UPDATE, &revoked).await?.status(), 404);
    sandbox.auth().revoke_all();
    let impatient = Sandbox::start(Settings {
        token_lifetime: Duration::ZERO,
        ..Settings::default()
    })
    .await?;
    let expired = impatient.auth().issue();
    for (sandbox, token, why) in [
        (&sandbox, &*revoked, "signed by another key"),
        (&impatient, &*expired, "Jwt expired at 20"),
        (&sandbox, "unknown", "malformed"),
        (&sandbox, "a.b.c", "malformed"),
    ] {
        let refused = get(sandbox, NEXT_UPDATE, token).await?;
        assert_eq!(refused.status(), 401);
        let challenge = refused.headers()["www-authenticate"].to_str()?.to_owned();
        assert!(
            challenge.starts_with(r#"Bearer error="invalid_token", error_description=""#)
                && challenge.contains(why),
            "{challenge}"
        );
        assert_eq!(refused.text().await?, "");
    }
    Ok(())
}

#[tokio::test]
async fn each_call_needs_its_role() -> Result<()> {
    let sandbox = Sandbox::start(Settings::default()).await?;
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
        json!({"status": 403, "developerMessage": "Access is denied"})
    );
    Ok(())
}
