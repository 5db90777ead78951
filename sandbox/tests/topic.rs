//! The topic, asked by hand-made forms as the AWS SDK sends them.

use std::time::Duration;

use anyhow::Result;
use reqwest::Client;
use sandbox::{Endpoint, Fault, Rule, Sandbox, Settings};
use serde_json::Value;

type Form = Vec<(String, String)>;

async fn start() -> Result<Sandbox> {
    Sandbox::start(Settings::default()).await
}

fn form(action: &str, fields: &[(&str, &str)]) -> Form {
    let always = [
        ("Action", action),
        ("Version", "2010-03-31"),
        ("TopicArn", &*Settings::default().topic_arn),
    ];
    always
        .iter()
        .chain(fields)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn batch(entries: &[(&str, &str)]) -> Form {
    let mut form = form("PublishBatch", &[]);
    for (number, (id, message)) in (1..).zip(entries) {
        for (field, value) in [("Id", id), ("Message", message)] {
            form.push((
                format!("PublishBatchRequestEntries.member.{number}.{field}"),
                (*value).to_owned(),
            ));
        }
    }
    form
}

async fn send(sandbox: &Sandbox, form: &Form) -> Result<(u16, String)> {
    let answer = Client::new()
        .post(sandbox.sns_url())
        .form(form)
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn assert_refused(sandbox: &Sandbox, form: &Form, status: u16, code: &str) -> Result<()> {
    let (answered, body) = send(sandbox, form).await?;
    assert_eq!(answered, status, "{body}");
    let start = r#"<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>"#;
    assert!(
        body.starts_with(start) && body.contains(&format!("<Code>{code}</Code>")),
        "{body}"
    );
    Ok(())
}

#[tokio::test]
async fn publish_keeps_the_message_with_its_attributes() -> Result<()> {
    let sandbox = start().await?;
    let request = form(
        "Publish",
        &[
            ("Message", r#"{"offenderId":1,"crn":"X1 & <Y>"}"#),
            ("MessageAttributes.entry.1.Name", "eventType"),
            ("MessageAttributes.entry.1.Value.DataType", "String"),
            (
                "MessageAttributes.entry.1.Value.StringValue",
                "OFFENDER_CHANGED",
            ),
            ("MessageAttributes.entry.2.Name", "timestamp"),
            (
                "MessageAttributes.entry.2.Value.DataType",
                "Number.java.lang.Long",
            ),
            (
                "MessageAttributes.entry.2.Value.StringValue",
                "1595163403000",
            ),
        ],
    );
    let (status, body) = send(&sandbox, &request).await?;
    let messages = sandbox.topic().wait_for(1, Duration::from_secs(5)).await?;
    let [message] = &messages[..] else {
        anyhow::bail!("{messages:?}")
    };
    assert_eq!(
        (status, message.sequence, &message.subject),
        (200, 1, &None)
    );
    assert!(
        body.contains(&format!("<MessageId>{}</MessageId>", message.message_id)),
        "{body}"
    );
    assert_eq!(message.body, r#"{"offenderId":1,"crn":"X1 & <Y>"}"#);
    assert_eq!(
        message.attributes["eventType"],
        ("String".into(), "OFFENDER_CHANGED".into())
    );
    assert_eq!(
        message.attributes["timestamp"],
        ("Number.java.lang.Long".into(), "1595163403000".into())
    );
    Ok(())
}

#[tokio::test]
async fn a_batch_reports_each_entry_by_its_id() -> Result<()> {
    let sandbox = start().await?;
    let (status, body) = send(&sandbox, &batch(&[("a", "one"), ("b", ""), ("c", "three")])).await?;
    assert_eq!(status, 200);
    for part in [
        "<Successful><member><Id>a</Id><MessageId>",
        "<member><Id>c</Id><MessageId>",
    ] {
        assert!(body.contains(part), "{body}");
    }
    let failed = "<Failed><member><Id>b</Id><Code>InvalidParameter</Code><Message>Invalid parameter: Empty message</Message><SenderFault>true</SenderFault></member></Failed>";
    assert!(body.contains(failed), "{body}");
    let bodies: Vec<_> = sandbox
        .topic()
        .messages()
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(bodies, ["one", "three"]);
    Ok(())
}

#[tokio::test]
async fn requests_are_checked_as_sns_does() -> Result<()> {
    let sandbox = start().await?;
    let mut elsewhere = form("Publish", &[("Message", "x")]);
    elsewhere[2].1.push('x');
    assert_refused(&sandbox, &elsewhere, 404, "NotFound").await?;
    assert_refused(&sandbox, &form("Subscribe", &[]), 400, "InvalidAction").await?;
    assert_refused(&sandbox, &form("Publish", &[]), 400, "InvalidParameter").await?;
    let long = "x".repeat(262_145);
    assert_refused(
        &sandbox,
        &form("Publish", &[("Message", &long)]),
        400,
        "InvalidParameter",
    )
    .await?;

    let attribute = |name, kind, value| {
        let [first, second, third] = [
            ("MessageAttributes.entry.1.Name", name),
            ("MessageAttributes.entry.1.Value.DataType", kind),
            ("MessageAttributes.entry.1.Value.StringValue", value),
        ];
        form("Publish", &[("Message", "x"), first, second, third])
    };
    let mut twice = attribute("a", "String", "b");
    let again: Form = twice[4..]
        .iter()
        .map(|(key, value)| (key.replace("y.1", "y.2"), value.clone()))
        .collect();
    twice.extend(again);
    for wrong in [
        attribute("", "String", "x"),
        attribute("a", "Text", "x"),
        attribute("a", "String", ""),
        twice,
    ] {
        assert_refused(&sandbox, &wrong, 400, "ParameterValueInvalid").await?;
    }

    let eleven: Vec<String> = (0..11).map(|id| id.to_string()).collect();
    let eleven: Vec<(&str, &str)> = eleven.iter().map(|id| (&**id, "x")).collect();
    assert_refused(
        &sandbox,
        &batch(&eleven),
        400,
        "TooManyEntriesInBatchRequest",
    )
    .await?;
    assert_refused(&sandbox, &batch(&[]), 400, "EmptyBatchRequest").await?;
    assert_refused(
        &sandbox,
        &batch(&[("a", "x"), ("a", "y")]),
        400,
        "BatchEntryIdsNotDistinct",
    )
    .await?;
    let half = "x".repeat(131_073);
    assert_refused(
        &sandbox,
        &batch(&[("a", &half), ("b", &half)]),
        400,
        "BatchRequestTooLong",
    )
    .await?;
    assert!(sandbox.topic().is_empty());
    Ok(())
}

#[tokio::test]
async fn topic_attributes_are_strings() -> Result<()> {
    let sandbox = start().await?;
    let (status, body) = send(&sandbox, &form("GetTopicAttributes", &[])).await?;
    assert_eq!(status, 200);
    for (key, value) in [
        ("SubscriptionsConfirmed", "1"),
        ("SubscriptionsPending", "0"),
        ("Owner", "000000000000"),
    ] {
        assert!(
            body.contains(&format!(
                "<entry><key>{key}</key><value>{value}</value></entry>"
            )),
            "{body}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn all_messages_are_counted_and_the_latest_are_kept() -> Result<()> {
    let sandbox = Sandbox::start(Settings {
        kept_messages: Some(2),
        ..Settings::default()
    })
    .await?;
    send(
        &sandbox,
        &batch(&[("a", "one"), ("b", "two"), ("c", "three")]),
    )
    .await?;
    assert_eq!(
        (sandbox.topic().len(), sandbox.topic().messages().len()),
        (3, 2)
    );
    let url = sandbox.sns_url() + "/messages";
    let all: Vec<Value> = reqwest::get(&url).await?.json().await?;
    assert_eq!((all.len(), &all[0]["body"]), (2, &"two".into()));
    let later: Vec<Value> = reqwest::get(url + "?after=2").await?.json().await?;
    assert_eq!((later.len(), &later[0]["sequence"]), (1, &3.into()));
    assert!(
        sandbox
            .topic()
            .wait_for(4, Duration::from_millis(1))
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn faults_affect_the_topic_or_single_entries() -> Result<()> {
    let sandbox = start().await?;
    let entries = batch(&[("a", r#"{"offenderId":1}"#), ("b", r#"{"offenderId":2}"#)]);
    let throttled = Fault::sns(400, "Throttling");
    sandbox.faults().once(Endpoint::PublishBatch, throttled);
    assert_refused(&sandbox, &entries, 400, "Throttling").await?;

    let fault = |entry| Fault::SnsEntryError {
        entry,
        code: "InternalError".into(),
        sender_fault: false,
    };
    let of_one = Rule {
        offender_id: Some(2),
        ..Rule::new(Endpoint::PublishBatch, fault(None))
    };
    for (rule, failed) in [
        (Rule::new(Endpoint::PublishBatch, fault(Some(0))), vec!["a"]),
        (
            Rule::new(Endpoint::PublishBatch, fault(None)),
            vec!["a", "b"],
        ),
        (of_one, vec!["b"]),
    ] {
        sandbox.faults().clear();
        sandbox.faults().inject(rule);
        let before = sandbox.topic().len();
        let (status, body) = send(&sandbox, &entries).await?;
        assert_eq!(
            (status, sandbox.topic().len() - before),
            (200, 2 - failed.len())
        );
        for id in failed {
            assert!(
                body.contains(&format!("<Id>{id}</Id><Code>InternalError</Code>")),
                "{body}"
            );
        }
    }
    Ok(())
}
