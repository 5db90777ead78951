//! Readers of foreign bytes neither panic nor invent data: arbitrary bytes, and valid documents with a few changed
//! bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_sns::config::Credentials;
use aws_sdk_sns::config::retry::RetryConfig;
use probation_offender_events::event::{Event, Identifiers};
use probation_offender_events::http::HttpClient;
use probation_offender_events::http::sdk::SdkHttp;
use probation_offender_events::metrics::Metrics;
use probation_offender_events::offender_update::{ClaimedRow, LocalDateTime};
use probation_offender_events::ports::Topic;
use probation_offender_events::token;
use probation_offender_events::topic::SnsTopic;
use proptest::prelude::*;
use sandbox::{Endpoint, Fault, Sandbox};

const ROW: &str = r#"{"offenderId":102,"dateChanged":"2020-07-19T13:56:43.120","action":"UPSERT","offenderDeltaId":5,"sourceTable":"ALIAS","sourceRecordId":345,"status":"INPROGRESS","failedUpdate":false}"#;
const IDENTIFIERS: &str =
    r#"{"offenderId":1,"primaryIdentifiers":{"crn":"X1","nomsNumber":"A1234AA","pncNumber":null}}"#;
const TOKEN: &str =
    r#"{"access_token":"abc","token_type":"bearer","expires_in":3600,"scope":"read"}"#;
const SNS: &str = r#"<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Successful><member><Id>0</Id><MessageId>5f1a</MessageId></member></Successful><Failed><member><Id>1</Id><Code>InternalError</Code><Message>m</Message><SenderFault>false</SenderFault></member></Failed></PublishBatchResult></PublishBatchResponse>"#;

/// A document with up to four of its bytes replaced, inserted or cut away.
fn mutated(document: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    prop::collection::vec(change, 0..4).prop_map(move |changes| {
        let mut bytes = document.as_bytes().to_vec();
        for (index, byte, kind) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

fn bytes_like(document: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        mutated(document)
    ]
}

/// The quick tests try this many inputs. `PROPTEST_CASES`, as CI sets it, asks for more.
fn cases(quick: u32) -> u32 {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => quick,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(1_000), ..ProptestConfig::default() })]

    #[test]
    fn rows_are_read_or_kept_as_unreadable(body in bytes_like(ROW)) {
        match ClaimedRow::from_json(&body) {
            Ok(Some(ClaimedRow::Update(update))) => prop_assert!(!update.source_table.is_empty()),
            Ok(Some(ClaimedRow::Unreadable(row))) => prop_assert!(!row.problem.is_empty()),
            Ok(None) | Err(_) => {}
        }
    }

    #[test]
    fn identifiers_without_a_crn_are_refused(body in bytes_like(IDENTIFIERS)) {
        if let Ok(identifiers) = Identifiers::from_json(&body) {
            prop_assert!(!identifiers.crn.is_empty());
        }
    }

    #[test]
    fn tokens_are_read_or_refused(body in bytes_like(TOKEN)) {
        if let Ok(token) = token::read(&body, tokio::time::Instant::now()) {
            prop_assert!(token.authorization.is_sensitive());
        }
    }

    #[test]
    fn dates_are_read_and_printed_so_that_they_read_the_same_again(
        text in prop_oneof![any::<String>(), "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\\.[0-9]{1,9})?)?Z?"]
    ) {
        if let Ok(date) = text.parse::<LocalDateTime>() {
            prop_assert_eq!(date.to_string().parse::<LocalDateTime>().unwrap(), date);
            prop_assert!(date.age(jiff::Timestamp::MAX) >= date.age(jiff::Timestamp::UNIX_EPOCH));
        }
    }
}

/// Each case uses a socket and the real SDK, so there are fewer of them.
#[test]
fn an_event_counts_as_accepted_only_with_a_message_id() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let sandbox = runtime
        .block_on(Sandbox::start(sandbox::Settings::default()))
        .unwrap();
    let topic = runtime.block_on(topic(&sandbox));
    let events = ["A_CHANGED", "B_CHANGED"].map(|event_type| Event {
        event_type: event_type.into(),
        id: uuid::Uuid::nil(),
        body: "{}".into(),
    });
    let config = ProptestConfig {
        cases: cases(100),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(body in bytes_like(SNS), status in prop_oneof![Just(200), 400..600u16])| {
        sandbox.faults().clear();
        sandbox.faults().once(Endpoint::PublishBatch, Fault::body(status, body.clone()));
        if let Ok(answers) = runtime.block_on(topic.publish(&events)) {
            prop_assert_eq!(answers.len(), events.len());
            let text = String::from_utf8_lossy(&body);
            prop_assert!(answers.iter().all(Result::is_err) || text.contains("MessageId"));
        }
    });
    assert!(sandbox.topic().is_empty());
}

async fn topic(sandbox: &Sandbox) -> SnsTopic {
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-west-2"))
        .http_client(SdkHttp::new(
            HttpClient::new(Duration::from_secs(2)).unwrap(),
        ))
        .endpoint_url(sandbox.sns_url())
        .retry_config(RetryConfig::disabled())
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .load()
        .await;
    SnsTopic::new(
        aws_sdk_sns::config::Builder::from(&config),
        sandbox.topic().arn().into(),
        Duration::from_secs(2),
        Arc::new(Metrics::new().unwrap()),
    )
}
