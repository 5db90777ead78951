//! The page over HTTP, for a browser without scripts, and for attackers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault, Sandbox, Settings};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    sandbox: Sandbox,
    client: Client,
    page: String,
}

impl World {
    async fn start() -> Self {
        let sandbox = Sandbox::start(Settings {
            page_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            ..Settings::default()
        })
        .await
        .unwrap();
        let page = sandbox.page_url().unwrap();
        Self {
            sandbox,
            client: Client::new(),
            page,
        }
    }

    async fn get(&self, path: &str) -> String {
        self.client
            .get(format!("{}{path}", self.page))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// Sends a form, and returns what the browser gets after the redirect.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let answer = self
            .client
            .post(format!("{}{path}", self.page))
            .form(form)
            .send()
            .await
            .unwrap();
        (answer.status(), answer.text().await.unwrap())
    }
}

const DETAILS: &[(&str, &str)] = &[
    ("first_name", "Alder"),
    ("surname", "Sample"),
    ("date_of_birth", "1980-02-29"),
    ("noms_number", ""),
];

#[tokio::test]
async fn without_its_script_the_page_changes_a_person() {
    let world = World::start().await;
    let (status, html) = world.post("/people/1/details", DETAILS).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        html.contains("The trigger has written a row") && html.contains("1980-02-29"),
        "{html}"
    );
    let rows = world.sandbox.delius().updates().unwrap();
    assert_eq!(
        (rows.len(), rows[0].source_table.as_deref()),
        (1, Some("OFFENDER"))
    );
    assert_eq!(
        world
            .sandbox
            .delius()
            .identifiers(1)
            .unwrap()
            .unwrap()
            .noms_number,
        None,
        "left empty"
    );
}

#[tokio::test]
async fn invalid_values_are_refused_beside_their_field() {
    let world = World::start().await;
    let long = "x".repeat(101);
    for (path, form, fault) in [
        (
            "/people/1/details",
            vec![
                ("first_name", "A"),
                ("surname", "B"),
                ("date_of_birth", "1981-02-29"),
            ],
            "Date of birth must be a real date",
        ),
        (
            "/people/1/details",
            vec![
                ("first_name", " "),
                ("surname", "B"),
                ("date_of_birth", "1980-02-29"),
            ],
            "Enter first name",
        ),
        (
            "/people/1/alias",
            vec![("first_name", &*long), ("surname", "B")],
            "First name must have 100 characters or fewer",
        ),
        (
            "/people/1/ogrs",
            vec![("one_year", "101"), ("two_years", "1")],
            "must be a whole number from 0 to 100",
        ),
        (
            "/people/1/sentence",
            vec![("conviction", "x"), ("type", "a"), ("date", "2020-01-01")],
            "Conviction must be in the list",
        ),
        (
            "/people/1/registration-deletion",
            vec![("registration", "2")],
            "the record no longer exists",
        ),
        (
            "/people/99/details",
            DETAILS.to_vec(),
            "the record no longer exists",
        ),
        (
            "/lock",
            vec![("seconds", "0")],
            "Lock must be a whole number",
        ),
        (
            "/subscription",
            vec![("policy", "{")],
            "SNS would refuse this policy",
        ),
    ] {
        let (status, html) = world.post(path, &form).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(
            html.contains("There is a problem") && html.contains(fault),
            "{path}: {fault}\n{html}"
        );
    }
    assert_eq!(world.sandbox.delius().count_updates().unwrap(), 0);
    for unknown in ["/people/1/nothing", "/outages/nothing"] {
        assert_eq!(world.post(unknown, &[]).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_form_that_is_sent_twice_changes_once() {
    let world = World::start().await;
    let with = |token: &'static str| [DETAILS, &[("token", token)]].concat();
    let same = with("a");
    let twice = || world.post("/people/1/details", &same);
    let (first, second) = tokio::join!(twice(), twice());
    for (status, html) in [first, second, twice().await] {
        assert_eq!(status, StatusCode::OK);
        assert!(html.contains("The trigger has written a row"), "{html}");
    }
    assert_eq!(world.sandbox.delius().count_updates().unwrap(), 1);
    let mut other = with("a");
    other[0].1 = "Another";
    for (form, rows) in [
        (other, 2),
        (with("b"), 3),
        (DETAILS.to_vec(), 4),
        (DETAILS.to_vec(), 5),
    ] {
        world.post("/people/1/details", &form).await;
        assert_eq!(
            world.sandbox.delius().count_updates().unwrap(),
            rows,
            "{form:?}"
        );
    }
    let refused = [("seconds", "0"), ("token", "a")];
    for _ in 0..2 {
        let (status, _) = world.post("/lock", &refused).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "nothing was done");
    }
}

#[tokio::test]
async fn each_page_has_a_separate_form_token() {
    let world = World::start().await;
    let token = |html: &str| -> String {
        let (_, rest) = html.split_once(r#"name="token" value=""#).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let (one, other) = (world.get("/").await, world.get("/").await);
    assert_ne!(token(&one), token(&other));
    let forms = one.matches(r#"method="post""#).count();
    assert_eq!(one.matches(&token(&one)).count(), forms);
}

#[tokio::test]
async fn the_page_shows_each_call_for_a_row() {
    let world = World::start().await;
    let sandbox = &world.sandbox;
    let row = NewUpdate {
        source_table: Some("ALIAS".into()),
        source_record_id: Some(7),
        ..NewUpdate::default()
    };
    let id = sandbox.delius().insert_update(&row, 0).unwrap();
    let call = async |method: &str, path: &str| {
        let url = format!("{}/secure/offenders/{path}", sandbox.community_url());
        let call = world.client.request(method.parse().unwrap(), url);
        let answer = call.bearer_auth(sandbox.auth().issue()).send().await;
        assert_eq!(answer.unwrap().status(), 200, "{path}");
    };
    let claimed = async || {
        let html = world.get("/").await;
        let (_, rest) = html.split_once(r#"<div id="claimed-rows">"#).unwrap();
        rest.split("</div>").next().unwrap().to_owned()
    };
    assert!(claimed().await.contains("No row has been claimed yet"));
    call("GET", "nextUpdate").await;
    assert!(claimed().await.contains("ALIAS") && !claimed().await.contains("after"));
    call("GET", "offenderId/1/identifiers").await;
    assert_eq!(claimed().await.matches("after ").count(), 1);
    let form = [
        ("Action", "Publish"),
        ("TopicArn", sandbox.topic().arn()),
        ("Message", r#"{"offenderId":1,"sourceId":7}"#),
    ];
    let publish = world.client.post(sandbox.sns_url()).form(&form).send();
    assert_eq!(publish.await.unwrap().status(), 200);
    let started = Instant::now();
    while claimed().await.matches("after ").count() < 2 {
        assert!(started.elapsed() < PATIENCE, "it is not seen as published");
        sleep(Duration::from_millis(10)).await;
    }
    call("DELETE", &format!("update/{id}")).await;
    assert!(
        claimed().await.contains("deleted after "),
        "{}",
        claimed().await
    );
}

#[tokio::test]
async fn an_outage_is_switched_on_and_off_without_touching_other_faults() {
    let world = World::start().await;
    let ping = async || {
        world
            .client
            .get(format!("{}/health/ping", world.sandbox.community_url()))
            .send()
            .await
    };
    world
        .sandbox
        .faults()
        .always(Endpoint::AuthPing, Fault::status(503));
    assert!(ping().await.is_ok());
    for _ in 0..2 {
        let (_, html) = world
            .post("/outages/community-down", &[("on", "true")])
            .await;
        assert!(html.contains(r#"aria-checked="true""#), "{html}");
    }
    assert!(ping().await.is_err(), "the connection is closed");
    world
        .post("/outages/community-down", &[("on", "false")])
        .await;
    assert!(
        ping().await.is_ok(),
        "off at once, although it was switched on twice"
    );
    let auth = world
        .client
        .get(format!("{}/health/ping", world.sandbox.auth_url()))
        .send()
        .await;
    assert_eq!(auth.unwrap().status(), 503);
}

#[tokio::test]
async fn the_earliest_time_that_a_row_can_have_is_shown() {
    let world = World::start().await;
    let delius = world.sandbox.delius();
    delius.insert_update(&NewUpdate::default(), 0).unwrap();
    delius
        .execute("UPDATE OFFENDER_DELTA SET LAST_UPDATED_DATETIME = -9223372036854775808")
        .unwrap();
    assert!(world.get("/").await.contains("waits to be claimed"));
}

#[tokio::test]
async fn the_lock_can_be_made_shorter() {
    let world = World::start().await;
    let (_, html) = world.post("/lock", &[("seconds", "30")]).await;
    assert!(html.contains("Locks now last 30 seconds"), "{html}");
    assert_eq!(world.sandbox.delius().timings().lock_expiry_seconds, 30);
}

#[tokio::test]
async fn other_sites_and_other_names_of_this_machine_are_refused() {
    let world = World::start().await;
    let change = || {
        world
            .client
            .post(format!("{}/people/1/details", world.page))
            .form(DETAILS)
    };
    let rebound = world
        .client
        .get(&world.page)
        .header("host", "rebound.example")
        .send()
        .await
        .unwrap();
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
    let foreign = change()
        .header("origin", "http://elsewhere.example")
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let foreign = change()
        .header("sec-fetch-site", "cross-site")
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert_eq!(world.sandbox.delius().count_updates().unwrap(), 0);
    let huge = "x".repeat(2 * 1024 * 1024);
    assert_eq!(
        world.post("/subscription", &[("policy", &huge)]).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let policy = change().send().await.unwrap().headers()["content-security-policy"].clone();
    assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
}

#[tokio::test]
async fn without_the_service_the_page_works_and_says_so() {
    let world = World::start().await;
    assert!(
        world
            .get("/")
            .await
            .contains("The sandbox does not know where the service is")
    );
    // No one listens on the discard port.
    world.sandbox.watch_service("http://127.0.0.1:9".into());
    let started = Instant::now();
    while !world
        .get("/")
        .await
        .contains("http://127.0.0.1:9 does not answer")
    {
        assert!(started.elapsed() < PATIENCE, "it does not say so");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_person_outside_the_list_is_found_by_crn() {
    let world = World::start().await;
    world.sandbox.delius().seed_people(20).unwrap();
    assert!(
        world
            .get("/?crn=x000020")
            .await
            .contains("<h3>Synthetic Person20</h3>")
    );
    assert!(
        world
            .get("/?crn=X9")
            .await
            .contains("There is no person with the CRN X9")
    );
    assert!(
        world
            .get("/?person=999")
            .await
            .contains("There is no person with this number")
    );
}
