//! `check` and `config`: what they print and how they end. They claim and publish nothing, and print no secret.

use crate::binary::{command, text};
use crate::ingestion::{Answer, Ingestion, KEY};
use crate::world::{add, free_port, row, sandbox, variables};
use sandbox::{Endpoint, Fault, Rule, Sandbox};

const TOPIC: &str = "arn:aws:sns:eu-west-2:000000000000:probation_offender_events";
const LOCALSTACK: &str = "the keys are LocalStack's dummy keys";
const PUBLISHING: &str = "this check cannot show whether the credentials may publish";

/// What `check` printed, line by line, and its exit code.
struct Checked {
    lines: Vec<String>,
    code: Option<i32>,
}

/// Runs `check` while a row waits.
async fn check(sandbox: &Sandbox, more: &[(&str, &str)]) -> Checked {
    check_with(sandbox, &[], more).await
}

async fn check_with(sandbox: &Sandbox, arguments: &[&str], more: &[(&str, &str)]) -> Checked {
    add(sandbox, row(1, "ALIAS"));
    let before = sandbox.delius().updates().unwrap();
    let mut check = command();
    check.arg("check").args(arguments).envs(variables(sandbox));
    let output = check.envs(more.iter().copied()).output().await.unwrap();
    let printed = text(&output);
    assert_eq!(sandbox.delius().updates().unwrap(), before, "{printed}");
    for call in [
        Endpoint::NextUpdate,
        Endpoint::Publish,
        Endpoint::PublishBatch,
    ] {
        assert_eq!(sandbox.faults().calls(call), 0, "{call:?}");
    }
    for secret in ["clientsecret", "hush", "eyJ", "Bearer", KEY, "panicked"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    Checked {
        lines: printed.lines().map(str::to_owned).collect(),
        code: output.status.code(),
    }
}

impl Checked {
    fn of(&self, what: &str) -> &str {
        let line = |line: &&String| line.split_whitespace().nth(1) == Some(what);
        let line = self.lines.iter().find(line);
        line.unwrap_or_else(|| panic!("no {what} in {:#?}", self.lines))
    }

    /// Asserts that this check has failed with these words, and no other.
    fn assert_failed(&self, what: &str, words: &str) {
        assert_eq!(self.of(what), format!("FAILED  {what:<13}  {words}"));
        let failed = self.lines.iter().filter(|line| line.starts_with("FAILED"));
        assert_eq!(failed.count(), 1, "{:#?}", self.lines);
        assert_eq!(self.code, Some(1));
    }
}

#[tokio::test]
async fn a_healthy_check_has_one_line_per_check_and_exit_code_0() {
    let sandbox = sandbox().await;
    let checked = check(&sandbox, &[]).await;
    let (auth, api) = (sandbox.auth_url(), sandbox.community_url());
    let expected = [
        "ok      configuration  complete; `config` shows it".to_owned(),
        format!("ok      hmpps-auth     {auth} answers the ping"),
        "ok      token          issued, with ROLE_COMMUNITY_EVENTS and ROLE_COMMUNITY".to_owned(),
        format!("ok      community-api  {api} answers the ping"),
        "ok      acceptance     community-api accepts the token".to_owned(),
        format!(
            "ok      topic          {TOPIC}; confirmed subscriptions: 1, pending: 0; {LOCALSTACK}; {PUBLISHING}"
        ),
        "ok      insights       Application Insights is off: APPLICATIONINSIGHTS_CONNECTION_STRING is not set".to_owned(),
    ];
    assert_eq!(checked.lines, expected);
    assert_eq!(checked.code, Some(0));
}

#[tokio::test]
async fn a_wrong_secret_is_a_failed_token() {
    let sandbox = sandbox().await;
    let wrong = [("OAUTH_CLIENT_SECRET", "hush-hush")];
    check(&sandbox, &wrong).await.assert_failed(
        "token",
        "no token from hmpps-auth: answered 401: check OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET",
    );
}

#[tokio::test]
async fn a_missing_role_is_named_with_its_purpose() {
    let sandbox = sandbox().await;
    sandbox.auth().set_roles(vec!["ROLE_COMMUNITY".into()]);
    check(&sandbox, &[]).await.assert_failed(
        "token",
        "issued, but it lacks ROLE_COMMUNITY_EVENTS (to claim and settle rows); add it to the client in hmpps-auth",
    );
    sandbox.auth().set_roles(Vec::new());
    let checked = check(&sandbox, &[]).await;
    assert!(checked.of("token").contains(
        "lacks ROLE_COMMUNITY_EVENTS (to claim and settle rows) and ROLE_COMMUNITY (to look up identifiers);"
    ));
    assert!(
        checked
            .of("acceptance")
            .contains("identifiers: answered 403")
    );
    assert!(checked.lines.contains(&"2 of 7 checks failed".to_owned()));
}

#[tokio::test]
async fn an_opaque_token_is_checked_by_community_api() {
    let sandbox = sandbox().await;
    let token = r#"{"access_token":"hush","token_type":"bearer","expires_in":3600}"#;
    sandbox
        .faults()
        .always(Endpoint::Token, Fault::body(200, token));
    let checked = check(&sandbox, &[]).await;
    assert!(checked.of("token").starts_with("ok"), "{:?}", checked.lines);
    checked.assert_failed(
        "acceptance",
        "identifiers: answered 401: the token is malformed: check that community-api trusts this hmpps-auth",
    );
}

#[tokio::test]
async fn an_offenders_identifiers_are_requested_by_id() {
    let sandbox = sandbox().await;
    let offender_1 = ["--offender-id", "1"];
    let checked = check_with(&sandbox, &offender_1, &[]).await;
    let found = "ok      offender       community-api has identifiers for offender 1";
    assert_eq!(checked.of("offender"), found);
    assert_eq!(checked.code, Some(0));
    let checked = check_with(&sandbox, &["--offender-id", "987654"], &[]).await;
    checked.assert_failed(
        "offender",
        "identifiers answered 404: offender 987654 is not visible to community-api, so its rows will be marked as permanently failed; ask the community-api team why",
    );
    sandbox.faults().inject(Rule {
        offender_id: Some(1),
        ..Rule::new(Endpoint::Identifiers, Fault::status(500))
    });
    let checked = check_with(&sandbox, &offender_1, &[]).await;
    checked.assert_failed(
        "offender",
        "identifiers: answered 500: check community-api, its database and its log",
    );
}

#[tokio::test]
async fn a_failed_ping_of_community_api_is_reported() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::CommunityPing, Fault::status(503));
    let url = sandbox.community_url();
    check(&sandbox, &[]).await.assert_failed(
        "community-api",
        &format!(
            "{url}/health/ping: answered 503; check COMMUNITY_ENDPOINT_URL, whether the service is up, and whether it can be reached from here"
        ),
    );
}

#[tokio::test]
async fn a_missing_topic_is_named() {
    let sandbox = sandbox().await;
    let other = "arn:aws:sns:eu-west-2:000000000000:other";
    let variables = [("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN", other)];
    check(&sandbox, &variables).await.assert_failed(
        "topic",
        &format!(
            "{other}: SNS answered 404 NotFound: Topic does not exist; {LOCALSTACK}; there is no such topic: check HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN"
        ),
    );
}

#[tokio::test]
async fn missing_permissions_are_shown_with_the_role() {
    let sandbox = sandbox().await;
    let url = sandbox.sns_url();
    let aws = [
        ("HMPPS_SQS_PROVIDER", "aws"),
        ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN", TOPIC),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID",
            "AKIAEXAMPLE",
        ),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY",
            "hush-hush",
        ),
        // Like the SDK for AWS itself.
        ("AWS_ENDPOINT_URL", &url),
    ];
    let holder = "the credentials belong to arn:aws:iam::000000000000:user/sandbox";
    let checked = check(&sandbox, &aws).await;
    assert!(checked.of("topic").contains(holder), "{:?}", checked.lines);
    assert_eq!(checked.code, Some(0));
    let error = Fault::sns(403, "AuthorizationError");
    sandbox.faults().always(Endpoint::TopicAttributes, error);
    check(&sandbox, &aws).await.assert_failed(
        "topic",
        &format!(
            "{TOPIC}: SNS answered 403 AuthorizationError: Injected fault; {holder}; \
             grant these credentials sns:GetTopicAttributes and sns:Publish on the topic"
        ),
    );
}

#[tokio::test]
async fn missing_credentials_are_reported_on_one_line() {
    let sandbox = sandbox().await;
    let url = sandbox.sns_url();
    let aws = [
        ("HMPPS_SQS_PROVIDER", "aws"),
        ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN", TOPIC),
        ("AWS_ENDPOINT_URL", &url),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let checked = check(&sandbox, &aws).await;
    let line = checked.of("topic");
    assert!(line.contains("no credentials found"), "{line}");
    let advice = "; set both keys of the topic, or give the pod's service account a role";
    assert!(line.ends_with(advice), "{line}");
    assert_eq!(checked.lines.len(), 8, "{:#?}", checked.lines);
    assert_eq!(checked.code, Some(1));
}

#[tokio::test]
async fn application_insights_is_checked_with_an_empty_batch() {
    let sandbox = sandbox().await;
    let ingestion = Ingestion::start().await;
    let connection = ingestion.connection_string();
    let variables = [("APPLICATIONINSIGHTS_CONNECTION_STRING", connection.as_str())];
    let checked = check(&sandbox, &variables).await;
    assert!(
        checked.of("insights").starts_with("ok "),
        "{:#?}",
        checked.lines
    );
    assert!(
        checked
            .of("insights")
            .contains(" answers; this check cannot show whether it accepts the key")
    );
    assert_eq!(
        (ingestion.batches().len(), ingestion.accepted().len()),
        (1, 0)
    );
    let ingestion = Ingestion::answering(Answer::Refuse(503), 1).await;
    let connection = ingestion.connection_string();
    let variables = [("APPLICATIONINSIGHTS_CONNECTION_STRING", connection.as_str())];
    let checked = check(&sandbox, &variables).await;
    let line = checked.of("insights");
    assert!(
        line.contains(": answered 503; check APPLICATIONINSIGHTS_CONNECTION_STRING,"),
        "{line}"
    );
    assert_eq!(checked.code, Some(1));
}

#[tokio::test]
async fn an_unreachable_localstack_is_shown_with_its_address() {
    let sandbox = sandbox().await;
    let url = format!("http://127.0.0.1:{}", free_port());
    let variables = [("HMPPS_SQS_LOCALSTACKURL", url.as_str())];
    let checked = check(&sandbox, &variables).await;
    let line = checked.of("topic");
    assert!(line.starts_with("FAILED"), "{line}");
    assert!(line.contains("Connection refused"), "{line}");
    let advice = format!("check that LocalStack runs at {url} (HMPPS_SQS_LOCALSTACKURL)");
    assert!(line.ends_with(&advice), "{line}");
    assert_eq!(checked.code, Some(1));
}

#[tokio::test]
async fn check_reports_a_bad_configuration_like_a_start() {
    for argument in ["check", "config"] {
        let output = command().arg(argument).output().await.unwrap();
        assert_eq!(output.status.code(), Some(64), "{argument}");
        let fault = "COMMUNITY_ENDPOINT_URL must be an http(s) address, but is not set";
        assert!(text(&output).contains(fault), "{}", text(&output));
    }
}

#[tokio::test]
async fn config_shows_every_setting_and_its_origin_and_hides_secrets() {
    let output = command()
        .arg("config")
        .env("SPRING_PROFILES_ACTIVE", "dev")
        .env("OAUTH_CLIENT_SECRET", "hush-hush")
        .env("API_CALLTIMEOUT", "3s")
        .env("BUILD_NUMBER", "")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output);
    let of = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {printed}"))
            .trim()
            .to_owned()
    };
    for (name, shown) in [
        ("OAUTH_CLIENT_SECRET", "hidden  (environment)"),
        ("OAUTH_CLIENT_ID", "hidden  (profile dev)"),
        ("API_CALLTIMEOUT", "3s  (environment)"),
        ("SERVER_PORT", "8081  (profile dev)"),
        ("HMPPS_SQS_REGION", "eu-west-2  (default)"),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
            &format!("{TOPIC}  (default)"),
        ),
        ("MANAGEMENT_SERVER_PORT", "not set"),
        (
            "BUILD_NUMBER",
            concat!(env!("CARGO_PKG_VERSION"), "  (default)"),
        ),
    ] {
        assert_eq!(of(name), shown, "{name}");
    }
    for variable in probation_offender_events::config::VARIABLES {
        of(variable.name);
    }
    assert!(!printed.contains("hush") && !printed.contains("clientsecret"));
}

#[tokio::test]
async fn the_version_is_that_of_the_image_if_it_has_one() {
    for (build_number, version) in [
        ("2026-11-24.1.abcdef", "2026-11-24.1.abcdef"),
        ("", env!("CARGO_PKG_VERSION")),
    ] {
        let mut version_of = command();
        version_of
            .arg("--version")
            .env("BUILD_NUMBER", build_number);
        let output = version_of.output().await.unwrap();
        assert_eq!(
            text(&output),
            format!("probation-offender-events {version}\n")
        );
    }
    let help = command().arg("--help").output().await.unwrap();
    for subcommand in ["check", "config", "healthcheck"] {
        assert!(
            text(&help).contains(&format!("\n  {subcommand} ")),
            "{}",
            text(&help)
        );
    }
}
