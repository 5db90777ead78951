//! The topic's answers: the XML of the AWS query protocol.

use std::borrow::Cow;
use std::fmt::Write;

use uuid::Uuid;

use super::request::Refusal;
use crate::http::Reply;

const NAMESPACE: &str = "http://sns.amazonaws.com/doc/2010-03-31/";

pub(super) fn publish_reply(message_id: &str) -> Reply {
    reply("Publish", &format!("<MessageId>{message_id}</MessageId>"))
}

/// One result per entry: the id of the message, or why there is none.
pub(super) fn batch_reply(
    results: impl Iterator<Item = (String, Result<String, Refusal>)>,
) -> Reply {
    let (mut successful, mut failed) = (String::new(), String::new());
    for (id, result) in results {
        let id = escape(&id);
        // Writing to a string cannot fail.
        let _ = match result {
            Ok(message_id) => {
                write!(
                    successful,
                    "<member><Id>{id}</Id><MessageId>{message_id}</MessageId></member>"
                )
            }
            Err(refusal) => write!(
                failed,
                "<member><Id>{id}</Id><Code>{}</Code><Message>{}</Message><SenderFault>{}</SenderFault></member>",
                escape(&refusal.code),
                escape(&refusal.message),
                refusal.sender_fault
            ),
        };
    }
    reply(
        "PublishBatch",
        &format!("<Successful>{successful}</Successful><Failed>{failed}</Failed>"),
    )
}

pub(super) fn attributes_reply(attributes: &[(&str, &str)]) -> Reply {
    let mut entries = String::new();
    for (name, value) in attributes {
        let value = escape(value);
        let _ = write!(
            entries,
            "<entry><key>{name}</key><value>{value}</value></entry>"
        );
    }
    reply(
        "GetTopicAttributes",
        &format!("<Attributes>{entries}</Attributes>"),
    )
}

pub(super) fn identity_reply() -> Reply {
    let account = "000000000000";
    reply(
        "GetCallerIdentity",
        &format!(
            "<Arn>arn:aws:iam::{account}:user/sandbox</Arn><UserId>sandbox</UserId><Account>{account}</Account>"
        ),
    )
}

/// An error of the whole request.
pub(crate) fn error_reply(status: u16, code: &str, message: &str) -> Reply {
    let side = if status < 500 { "Sender" } else { "Receiver" };
    let (code, message) = (escape(code), escape(message));
    let body = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{side}</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        Uuid::new_v4()
    );
    Reply::new(status, "text/xml", body)
}

fn reply(action: &str, result: &str) -> Reply {
    let body = format!(
        "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{action}Response>",
        Uuid::new_v4()
    );
    Reply::new(200, "text/xml", body)
}

fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>']) {
        return text.into();
    }
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .into()
}
