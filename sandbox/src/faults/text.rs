//! Rules in the form of the command line: `ENDPOINT=FAULT[@PROBABILITY]`, for example `next-update=503@0.05`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use super::{Endpoint, Fault, Rule};

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (endpoint, rest) = text
            .split_once('=')
            .context("a fault must have the form ENDPOINT=FAULT[@PROBABILITY]")?;
        let (fault, probability) = match rest.split_once('@') {
            Some((fault, probability)) => (fault, read_probability(probability)?),
            None => (rest, 1.0),
        };
        let rule = Self {
            probability,
            ..Self::new(read_endpoint(endpoint)?, fault.parse()?)
        };
        ensure!(
            !matches!(rule.fault, Fault::Race)
                || [Endpoint::DeleteUpdate, Endpoint::MarkAsFailed].contains(&rule.endpoint),
            "the fault race is possible only for delete-update and mark-as-failed"
        );
        Ok(rule)
    }
}

fn read_probability(text: &str) -> Result<f64> {
    let number = text.parse().ok();
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .with_context(|| format!("the probability must be a number from 0 to 1, but is {text:?}"))
}

fn read_endpoint(text: &str) -> Result<Endpoint> {
    let name = |endpoint: &Endpoint| Some(endpoint.to_possible_value()?.get_name().to_owned());
    Endpoint::from_str(text, false).map_err(|_| {
        let names: Vec<String> = Endpoint::value_variants().iter().filter_map(name).collect();
        anyhow!(
            "{text:?} is not an endpoint. Use one of: {}",
            names.join(", ")
        )
    })
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
            "throttle" => Self::sns(400, "Throttling"),
            "latency" => {
                Self::Latency(Duration::from_millis(value.parse().with_context(|| {
                    format!("latency must be a whole number of milliseconds, but is {value:?}")
                })?))
            }
            "after" => Self::AnswerAfterEffect(read_status(text, value)?),
            "sns" if !value.is_empty() => Self::sns(400, value),
            "entry" if !value.is_empty() => Self::SnsEntryError {
                entry: None,
                code: value.into(),
                sender_fault: false,
            },
            _ => Self::status(read_status(text, text)?),
        })
    }
}

fn read_status(fault: &str, status: &str) -> Result<u16> {
    match status.parse() {
        Ok(status @ 200..=599) => Ok(status),
        _ => bail!(
            "{fault:?} is not a fault. Use an HTTP status from 200 to 599, hang, drop, lose-answer, race, throttle, \
             latency:MILLISECONDS, after:STATUS, sns:CODE or entry:CODE"
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
