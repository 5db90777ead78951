//! Rules in the form of the command line: `ENDPOINT=FAULT[@PROBABILITY]`, for example `next-update=503@0.05`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};

use super::{Endpoint, Fault, Rule};

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (endpoint, rest) = text
            .split_once('=')
            .context("a fault must have the form ENDPOINT=FAULT[@PROBABILITY]")?;
        let (fault, probability) = match rest.split_once('@') {
            Some((fault, probability)) => (
                fault,
                probability
                    .parse()
                    .context("the probability is not a number")?,
            ),
            None => (rest, 1.0),
        };
        ensure!(
            (0.0..=1.0).contains(&probability),
            "the probability must be from 0 to 1, but is {probability}"
        );
        let rule = Self {
            probability,
            ..Self::new(endpoint.parse()?, fault.parse()?)
        };
        ensure!(
            !matches!(rule.fault, Fault::Race)
                || [Endpoint::DeleteUpdate, Endpoint::MarkAsFailed].contains(&rule.endpoint),
            "the fault race is possible only for delete-update and mark-as-failed"
        );
        Ok(rule)
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "next-update" => Self::NextUpdate,
            "identifiers" => Self::Identifiers,
            "delete-update" => Self::DeleteUpdate,
            "mark-as-failed" => Self::MarkAsFailed,
            "community-ping" => Self::CommunityPing,
            "token" => Self::Token,
            "auth-ping" => Self::AuthPing,
            "publish" => Self::Publish,
            "publish-batch" => Self::PublishBatch,
            "topic-attributes" => Self::TopicAttributes,
            _ => bail!(
                "no endpoint {text:?}; there are next-update, identifiers, delete-update, mark-as-failed, \
                 community-ping, token, auth-ping, publish, publish-batch, topic-attributes"
            ),
        })
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        Ok(match name {
            "hang" => Self::Hang,
            "drop" => Self::DropConnection,
            "lose-answer" => Self::LoseAnswer,
            "race" => Self::Race,
            "throttle" => Self::SnsError {
                status: 400,
                code: "Throttling".into(),
            },
            "latency" => Self::Latency(Duration::from_millis(
                value
                    .parse()
                    .context("latency:MILLISECONDS needs a number")?,
            )),
            "after" => Self::AnswerAfterEffect(status(value)?),
            "sns" if !value.is_empty() => Self::SnsError {
                status: 400,
                code: value.into(),
            },
            "entry" if !value.is_empty() => Self::SnsEntryError {
                entry: None,
                code: value.into(),
                sender_fault: false,
            },
            _ => Self::status(status(text)?),
        })
    }
}

fn status(text: &str) -> Result<u16> {
    match text.parse() {
        Ok(status @ 200..=599) => Ok(status),
        _ => bail!(
            "no fault {text:?}; there are an HTTP status, hang, drop, lose-answer, race, throttle, latency:MILLISECONDS, \
             after:STATUS, sns:CODE, entry:CODE"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_from_the_command_line() -> Result<()> {
        let throttle: Rule = "publish-batch=throttle@0.1".parse()?;
        assert_eq!(throttle.endpoint, Endpoint::PublishBatch);
        assert!((throttle.probability - 0.1).abs() < f64::EPSILON);
        assert!(matches!(throttle.fault, Fault::SnsError { code, .. } if code == "Throttling"));
        let unavailable: Rule = "next-update=503".parse()?;
        assert!(matches!(
            unavailable.fault,
            Fault::Answer { status: 503, .. }
        ));
        let slow: Rule = "identifiers=latency:250".parse()?;
        assert!(
            matches!(slow.fault, Fault::Latency(latency) if latency == Duration::from_millis(250))
        );
        let race: Rule = "delete-update=race@0.5".parse()?;
        assert!(matches!(race.fault, Fault::Race));
        for nonsense in [
            "503",
            "nowhere=503",
            "token=sometimes",
            "token=99",
            "token=503@2",
            "token=after:",
            "token=race",
        ] {
            assert!(nonsense.parse::<Rule>().is_err(), "{nonsense}");
        }
        Ok(())
    }
}
