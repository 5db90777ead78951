//! community-api over real sockets.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, Response};
use sandbox::delius::{NewUpdate, Status};
use sandbox::{Endpoint, Fault, Sandbox, Settings, Timings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const NEXT_UPDATE: &str = "/secure/offenders/nextUpdate";

async fn start() -> Result<Sandbox> {
    let timings = Timings {
        serve_after_seconds: 0,
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
        json!({
            "offenderId": 2,
            "primaryIdentifiers": {"crn": "X000002", "nomsNumber": "A0002AA"},
            "additionalIdentifiers": [],
        })
    );
    let unknown = get(
        &sandbox,
        "/secure/offenders/offenderId/99/identifiers",
        &token,
    )
    .await?;
    assert_eq!(unknown.status(), 404);

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
        assert_eq!(
            answer.headers()["content-type"],
            "application/vnd.spring-boot.actuator.v3+json"
        );
        assert_eq!(answer.json::<Value>().await?, json!({"status": "UP"}));
    }
    Ok(())
}

#[tokio::test]
async fn all_kinds_of_identifiers_are_returned() -> Result<()> {
    let sandbox = start().await?;
    let token = sandbox.auth().issue();
    let path = "/secure/offenders/offenderId/1/identifiers";
    assert_eq!(
        get(&sandbox, path, &token).await?.json::<Value>().await?,
        json!({
            "offenderId": 1,
            "primaryIdentifiers": {
                "crn": "X000001",
                "pncNumber": "2004/0000001A",
                "croNumber": "000001/04A",
                "niNumber": "ZZ000001A",
                "nomsNumber": "A0001AA",
                "immigrationNumber": "Z0000001",
                "mostRecentPrisonerNumber": "Z00001",
            },
            "additionalIdentifiers": [{
                "additionalIdentifierId": 1,
                "value": "A0099AA",
                "type": {"code": "XNOMS", "description": "Former NOMS Number"},
            }],
        })
    );
    Ok(())
}

const IDENTIFIERS: &str = "/secure/offenders/offenderId/1/identifiers";

/// Method, path, and the status and body of the answer to a good token.
const REFUSED: [(&str, &str, u16, &str); 11] = [
    (
        "GET",
        NEXT_UPDATE,
        404,
        r#"{"developerMessage":"No updates found","status":404}"#,
    ),
    (
        "GET",
        "/secure/offenders/offenderId/99/identifiers",
        404,
        r#"{"developerMessage":"No offender found","status":404}"#,
    ),
    (
        "DELETE",
        "/secure/offenders/update/0",
        404,
        r#"{"developerMessage":"Update not found","status":404}"#,
    ),
    (
        "PUT",
        "/secure/offenders/update/0/markAsFailed",
        404,
        r#"{"developerMessage":"Cannot mark as failed for offenderDeltaId 0","status":404}"#,
    ),
    (
        "GET",
        "/secure/offenders/offenderId/x/identifiers",
        400,
        "Bad Request",
    ),
    (
        "DELETE",
        "/secure/offenders/update/99999999999999999999",
        400,
        "Bad Request",
    ),
    ("POST", NEXT_UPDATE, 405, "Method Not Allowed"),
    ("DELETE", IDENTIFIERS, 405, "Method Not Allowed"),
    (
        "GET",
        "/secure/offenders/update/1",
        405,
        "Method Not Allowed",
    ),
    ("GET", "/secure/offenders", 404, "Not Found"),
    ("GET", "/", 404, "Not Found"),
];

#[tokio::test]
async fn each_error_has_the_body_of_its_kind() -> Result<()> {
    let sandbox = start().await?;
    let (client, token) = (Client::new(), sandbox.auth().issue());
    for (method, path, status, body) in REFUSED {
        let answer = client
            .request(method.parse()?, sandbox.community_url() + path)
            .bearer_auth(&token)
            .send()
            .await?;
        assert_eq!(answer.status(), status, "{method} {path}");
        let allow = answer.headers().get("allow").cloned();
        assert_eq!(allow.is_some(), status == 405, "{method} {path}");
        let mut found: Value = answer.json().await?;
        if body.starts_with('{') {
            let wanted: Value = serde_json::from_str(body)?;
            assert_eq!(found, wanted, "{method} {path}");
        } else {
            let fields = found.as_object_mut().context("an object")?;
            let timestamp = fields.remove("timestamp").context("timestamp")?;
            assert!(
                timestamp
                    .as_str()
                    .is_some_and(|text| text.ends_with("+00:00"))
            );
            assert_eq!(
                found,
                json!({"status": status, "error": body, "path": path})
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_change_without_a_token_is_forbidden_and_any_other_call_unauthorised() -> Result<()> {
    let sandbox = start().await?;
    let client = Client::new();
    for (method, path, ..) in REFUSED {
        let url = sandbox.community_url() + path;
        let answer = client.request(method.parse()?, url).send().await?;
        if method == "GET" {
            assert_eq!(answer.status(), 401, "{method} {path}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            assert_eq!(answer.text().await?, "");
        } else {
            assert_eq!(answer.status(), 403, "{method} {path}");
            assert_eq!(
                answer.json::<Value>().await?,
                json!({"status": 403, "developerMessage": "Access is denied"})
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_head_claims_but_a_call_that_accepts_no_json_does_not() -> Result<()> {
    let sandbox = start().await?;
    sandbox.delius().insert_update(&NewUpdate::default(), 0)?;
    let status = || anyhow::Ok(sandbox.delius().updates()?[0].status);
    let call = |method: Method, accept: &'static str| {
        Client::new()
            .request(method, sandbox.community_url() + NEXT_UPDATE)
            .bearer_auth(sandbox.auth().issue())
            .header("accept", accept)
            .send()
    };
    for accept in ["text/html", "application/xml, application/json;q=0"] {
        let refused = call(Method::GET, accept).await?;
        assert_eq!(refused.status(), 406, "{accept}");
        assert_eq!(refused.text().await?, "");
    }
    assert_eq!(status()?, Status::Created);
    let head = call(Method::HEAD, "text/html, APPLICATION/*;q=0.1").await?;
    assert_eq!(
        (head.status().as_u16(), head.text().await?),
        (200, String::new())
    );
    assert_eq!(status()?, Status::InProgress);
    Ok(())
}

#[tokio::test]
async fn settling_a_row_that_another_transaction_changes_is_a_500() -> Result<()> {
    let sandbox = start().await?;
    let (client, token) = (Client::new(), sandbox.auth().issue());
    let id = sandbox.delius().insert_update(&NewUpdate::default(), 0)?;
    let row = format!("{}/secure/offenders/update/{id}", sandbox.community_url());
    for endpoint in [Endpoint::DeleteUpdate, Endpoint::MarkAsFailed] {
        sandbox.faults().once(endpoint, Fault::Race);
    }
    let delete = || client.delete(&row).bearer_auth(&token).send();
    let mark = client
        .put(format!("{row}/markAsFailed"))
        .bearer_auth(&token);
    for raced in [delete().await?, mark.send().await?] {
        assert_eq!(raced.status(), 500);
        assert_eq!(
            raced.json::<Value>().await?["error"],
            "Internal Server Error"
        );
    }
    assert_eq!(sandbox.delius().updates()?[0].status, Status::Created);
    assert_eq!(delete().await?.status(), 200, "the next attempt succeeds");
    Ok(())
}

/// What a connection reads until `end` is in it, or until it is closed.
async fn read_until(stream: &mut TcpStream, end: &str) -> Result<String> {
    let (mut text, mut buffer) = (String::new(), [0; 1024]);
    while !text.contains(end) {
        match stream.read(&mut buffer).await? {
            0 => break,
            bytes => text += std::str::from_utf8(&buffer[..bytes])?,
        }
    }
    Ok(text)
}

#[tokio::test]
async fn answers_are_chunked_and_each_hundredth_closes_its_connection() -> Result<()> {
    let sandbox = start().await?;
    let address = sandbox.community_url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await?;
    for count in 1..=100 {
        stream
            .write_all(b"GET /health/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            .await?;
        let answer = read_until(&mut stream, "\r\n0\r\n\r\n").await?;
        assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
        assert_eq!(
            answer.contains("connection: close"),
            count == 100,
            "{count}"
        );
    }
    assert_eq!(read_until(&mut stream, "never").await?, "", "it is closed");
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_an_answer() -> Result<()> {
    let settings = Settings {
        idle_time: Duration::from_millis(50),
        ..Settings::default()
    };
    let sandbox = Sandbox::start(settings).await?;
    let address = sandbox.community_url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await?;
    for request in ["", "GET /health/ping HTTP/1.1\r\nHost: x\r\n\r\n"] {
        stream.write_all(request.as_bytes()).await?;
        let answer = read_until(&mut stream, "\r\n0\r\n\r\n").await?;
        assert_eq!(answer.is_empty(), request.is_empty(), "{answer}");
        assert_eq!(read_until(&mut stream, "never").await?, "");
        stream = TcpStream::connect(&address).await?;
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
    assert!(sandbox.delius().lost_races() > 0, "no two callers met");
    Ok(())
}

#[tokio::test]
async fn more_callers_claim_no_faster_and_lose_races_instead() -> Result<()> {
    const ROWS: u32 = 100;
    let lock_time = Duration::from_millis(3);
    let sandbox = start().await?;
    sandbox.delius().seed_backlog(ROWS as usize)?;
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let url = sandbox.community_url() + NEXT_UPDATE;
        let (client, token) = (Client::new(), sandbox.auth().issue());
        callers.spawn(async move {
            while client.get(&url).bearer_auth(&token).send().await?.status() != 404 {}
            anyhow::Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    // A row can be read only after the row before it was locked.
    assert!(started.elapsed() >= lock_time * ROWS);
    let lost = sandbox.delius().lost_races();
    assert!(lost >= u64::from(ROWS), "{lost} lost races for {ROWS} rows");
    Ok(())
}

#[tokio::test]
async fn ten_lost_attempts_are_a_conflict() -> Result<()> {
    const CALLERS: u64 = 30;
    let sandbox = start().await?;
    sandbox.delius().seed_backlog(100)?;
    let token = sandbox.auth().issue();
    let client = Client::new();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let call = client
            .get(sandbox.community_url() + NEXT_UPDATE)
            .bearer_auth(&token)
            .send();
        callers.spawn(async move {
            let answer = call.await?;
            anyhow::Ok((answer.status().as_u16(), answer.json::<Value>().await?))
        });
    }
    let (mut rows, mut conflicts) = (0, 0);
    while let Some(answer) = callers.join_next().await {
        match answer?? {
            (200, _) => rows += 1,
            (409, body) => {
                assert_eq!(body, json!({"status": 409}));
                conflicts += 1;
            }
            (status, _) => bail!("{status} instead of a row or a conflict"),
        }
    }
    // While one locks a row, the others have read the same one.
    assert!(
        conflicts > 0 && rows >= 10,
        "{rows} rows, {conflicts} × 409"
    );
    assert!(sandbox.delius().lost_races() >= 10 * conflicts);
    Ok(())
}
