//! Real subscribers: events through LocalStack's SNS into SQS queues, with a filter policy on eventType, raw and not
//! raw.
//!
//! `SNS_PROVIDER=localstack` (or `AWS_PROVIDER=localstack`) uses a LocalStack that is already running at
//! `LOCALSTACK_URL` or localhost:4566. Otherwise testcontainers starts one. If neither is possible, the tests print
//! `SKIPPED`. With `CI` set, they fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking"
)]

#[path = "../../tests/service/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the service, which use all of it"
)]
mod world;

use std::collections::BTreeMap;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_sns::config::Credentials;
use aws_sdk_sqs::types::QueueAttributeName;
use probation_offender_events::http::HttpClient;
use probation_offender_events::http::sdk::SdkHttp;
use serde_json::{Value, json};
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::time::Instant;

use self::world::{PATIENCE, World, eventually};

/// A LocalStack, and clients for it.
struct LocalStack {
    url: String,
    sns: aws_sdk_sns::Client,
    sqs: aws_sdk_sqs::Client,
    _container: Option<ContainerAsync<GenericImage>>,
}

impl LocalStack {
    /// `None` if there is none, after reporting that the test is skipped.
    async fn get() -> Option<Self> {
        let is_localstack = |name| std::env::var(name).is_ok_and(|value| value == "localstack");
        if is_localstack("SNS_PROVIDER") || is_localstack("AWS_PROVIDER") {
            let url =
                std::env::var("LOCALSTACK_URL").unwrap_or_else(|_| "http://localhost:4566".into());
            return Some(Self::at(url, None).await);
        }
        match Self::container().await {
            Ok((url, container)) => Some(Self::at(url, Some(container)).await),
            Err(error) => {
                e2e::skip(&format!(
                    "no LocalStack runs, and none can be started: {error}"
                ));
                None
            }
        }
    }

    async fn container() -> Result<(String, ContainerAsync<GenericImage>), String> {
        let image = GenericImage::new("localstack/localstack", "4.13.1")
            .with_exposed_port(4566.tcp())
            .with_wait_for(WaitFor::message_on_stdout("Ready."))
            .with_env_var("SERVICES", "sns,sqs");
        let container = image.start().await.map_err(|error| error.to_string())?;
        let host = container
            .get_host()
            .await
            .map_err(|error| error.to_string())?;
        let port = container
            .get_host_port_ipv4(4566)
            .await
            .map_err(|error| error.to_string())?;
        Ok((format!("http://{host}:{port}"), container))
    }

    async fn at(url: String, container: Option<ContainerAsync<GenericImage>>) -> Self {
        let http = HttpClient::new(PATIENCE).unwrap();
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(SdkHttp::new(http))
            .region(Region::new("eu-west-2"))
            .endpoint_url(&url)
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .load()
            .await;
        let sns = aws_sdk_sns::Client::new(&config);
        // LocalStack loads a service at the first call, which takes longer than a health check waits.
        sns.list_topics().send().await.unwrap();
        Self {
            sns,
            sqs: aws_sdk_sqs::Client::new(&config),
            url,
            _container: container,
        }
    }

    /// A queue subscribed to the topic.
    async fn queue(&self, topic: &str, filter: Option<Value>, raw: bool) -> String {
        let created = self
            .sqs
            .create_queue()
            .queue_name(unique_name("queue"))
            .send()
            .await
            .unwrap();
        let url = created.queue_url.unwrap();
        let attributes = self
            .sqs
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await;
        let arn = attributes.unwrap().attributes.unwrap()[&QueueAttributeName::QueueArn].clone();
        let mut subscription = self
            .sns
            .subscribe()
            .topic_arn(topic)
            .protocol("sqs")
            .endpoint(arn);
        subscription = subscription.attributes("RawMessageDelivery", raw.to_string());
        if let Some(filter) = filter {
            subscription = subscription.attributes("FilterPolicy", filter.to_string());
        }
        subscription.send().await.unwrap();
        url
    }

    async fn receive(&self, queue: &str, count: usize) -> Vec<aws_sdk_sqs::types::Message> {
        let started = Instant::now();
        let mut messages = Vec::new();
        while messages.len() < count {
            assert!(
                started.elapsed() < PATIENCE,
                "{} of {count} messages",
                messages.len()
            );
            let received = self
                .sqs
                .receive_message()
                .queue_url(queue)
                .max_number_of_messages(10)
                .wait_time_seconds(1)
                .message_attribute_names("All")
                .send()
                .await
                .unwrap();
            messages.extend(received.messages.unwrap_or_default());
        }
        messages
    }

    /// The service, with the sandbox's community-api and this topic.
    async fn world(&self, topic: &str) -> World {
        let variables = [
            ("HMPPS_SQS_LOCALSTACKURL", self.url.as_str()),
            ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN", topic),
        ];
        World::start_with(&variables).await
    }
}

fn unique_name(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::new_v4())
}

#[tokio::test]
async fn subscribers_receive_what_their_filter_policy_on_event_type_asks_for() {
    let Some(localstack) = LocalStack::get().await else {
        return;
    };
    let topic = localstack
        .sns
        .create_topic()
        .name(unique_name("topic"))
        .send()
        .await
        .unwrap()
        .topic_arn
        .unwrap();
    let wanted = json!({"eventType": ["OFFENDER_DETAILS_CHANGED", "OFFENDER_ADDRESS_CHANGED"]});
    let filtered = localstack.queue(&topic, Some(wanted), false).await;
    let raw = localstack.queue(&topic, None, true).await;
    let world = localstack.world(&topic).await;
    world
        .sandbox
        .delius()
        .execute(
            "UPDATE offender SET date_of_birth = '1980-02-29' WHERE offender_id = 1;
             INSERT INTO alias (offender_id, first_name, surname) VALUES (1, 'Also', 'Known')",
        )
        .unwrap();

    // Not raw: SNS' envelope around the message, attributes inside.
    let envelope: Value =
        serde_json::from_str(localstack.receive(&filtered, 1).await[0].body().unwrap()).unwrap();
    assert_eq!(envelope["Type"], "Notification");
    assert_eq!(
        envelope["MessageAttributes"]["eventType"],
        json!({"Type": "String", "Value": "OFFENDER_DETAILS_CHANGED"})
    );
    let message = envelope["Message"].as_str().unwrap();
    let start =
        r#"{"offenderId":1,"crn":"X000001","nomsNumber":"A0001AA","sourceId":1,"eventDatetime":""#;
    assert!(message.starts_with(start), "{message}");

    // Raw: the message itself, with SQS attributes; nothing is filtered out here.
    let mut types = BTreeMap::new();
    for message in localstack.receive(&raw, 4).await {
        let attributes = message.message_attributes.unwrap();
        let names: Vec<_> = attributes
            .keys()
            .map(String::as_str)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        assert_eq!(
            names,
            ["contentType", "eventType", "id", "source", "timestamp"]
        );
        assert_eq!(attributes["timestamp"].data_type(), "Number.java.lang.Long");
        assert!(
            message
                .body
                .unwrap()
                .starts_with(r#"{"offenderId":1,"crn":"X000001""#)
        );
        *types
            .entry(attributes["eventType"].string_value().unwrap().to_owned())
            .or_insert(0) += 1;
    }
    let expected = [
        ("OFFENDER_ALIAS_CHANGED", 1),
        ("OFFENDER_CHANGED", 2),
        ("OFFENDER_DETAILS_CHANGED", 1),
    ];
    assert_eq!(
        types,
        expected
            .map(|(name, count)| (name.to_owned(), count))
            .into()
    );
    let nothing_else = localstack
        .sqs
        .receive_message()
        .queue_url(&filtered)
        .wait_time_seconds(1)
        .send()
        .await
        .unwrap();
    assert_eq!(nothing_else.messages.unwrap_or_default().len(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_missing_topic_is_down_and_rows_wait_until_it_exists() {
    let Some(localstack) = LocalStack::get().await else {
        return;
    };
    let name = unique_name("topic");
    let topic = format!("arn:aws:sns:eu-west-2:000000000000:{name}");
    let world = localstack.world(&topic).await;
    world
        .sandbox
        .delius()
        .execute("UPDATE offender SET surname = 'Changed' WHERE offender_id = 2")
        .unwrap();
    let health = async || {
        let health = world.http.get(format!("{}/health", world.address)).send();
        health.await.unwrap().json::<Value>().await.unwrap()
    };
    let component = health().await["components"]["probationevents-health"].clone();
    assert_eq!(component["status"], "DOWN");
    assert!(
        component["details"]["error"]
            .as_str()
            .unwrap()
            .contains("NotFound"),
        "{component}"
    );

    assert_eq!(world.sandbox.delius().count_updates().unwrap(), 1);
    localstack
        .sns
        .create_topic()
        .name(name)
        .send()
        .await
        .unwrap();
    // A queue that subscribes now may miss the events. That the row is gone shows that SNS accepted them.
    world.drained().await;
    eventually("the topic is up", async || {
        health().await["components"]["probationevents-health"]["status"] == "UP"
    })
    .await;
    world.stop().await;
}
