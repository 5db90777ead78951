//! An SNS filter policy over message attributes: read and refused as SNS does it, then applied to messages.
//!
//! Source of limits and matching: the SNS developer guide, "Filter policy constraints", "String value matching" and
//! related pages. Texts of refusals are those of SNS, if they are known.

mod terraform;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

const MOST_BYTES: usize = 256 * 1024;
const MOST_NAMES: usize = 5;
const MOST_COMBINATIONS: usize = 150;
/// The largest absolute value of a number in a policy.
const HIGHEST_NUMBER: f64 = 1e9;
/// Numbers are compared with five digits after the decimal point.
const NUMBER_SCALE: f64 = 1e5;

/// Name to data type and value.
type Attributes = BTreeMap<String, (String, String)>;

/// A policy that SNS would accept.
#[derive(Debug)]
pub(super) struct FilterPolicy(Vec<Condition>);

/// A message must meet all conditions of a policy.
#[derive(Debug)]
enum Condition {
    /// The attribute. One of the patterns must match.
    Attribute(String, Vec<Pattern>),
    /// One of these sets must be met.
    Or(Vec<Vec<Condition>>),
}

#[derive(Debug)]
enum Pattern {
    Exact(Value),
    Prefix(String),
    Suffix(String),
    IgnoringCase(String),
    AnythingBut(Vec<Pattern>),
    Exists(bool),
    Numeric(Vec<(Comparison, f64)>),
    /// Network and prefix length.
    Cidr(u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl FilterPolicy {
    /// Reads JSON, or Terraform with `filter_policy = …` in it.
    pub(super) fn read(text: &str) -> Result<Self> {
        let text = text.trim();
        ensure!(
            text.len() <= MOST_BYTES,
            "FilterPolicy: the policy is larger than 256 KB"
        );
        let policy = match terraform::read(text)? {
            Some(policy) => policy,
            None => serde_json::from_str(text).context("FilterPolicy: failed to parse JSON")?,
        };
        let Value::Object(policy) = policy else {
            bail!("FilterPolicy: the policy must be a JSON object");
        };
        ensure!(
            names(&policy) <= MOST_NAMES,
            "FilterPolicy: Filter policy can not have more than {MOST_NAMES} keys"
        );
        let conditions = read_conditions(&policy)?;
        ensure!(
            combinations(&conditions) <= MOST_COMBINATIONS,
            "FilterPolicy: Filter policy is too complex: {} combinations of values, where {MOST_COMBINATIONS} are allowed",
            combinations(&conditions)
        );
        Ok(Self(conditions))
    }

    /// Whether a subscription with this policy receives a message with these attributes.
    pub(super) fn accepts(&self, attributes: &Attributes) -> bool {
        all_met(&self.0, attributes)
    }
}

fn names(policy: &Map<String, Value>) -> usize {
    let of = |(key, value): (&String, &Value)| match value.as_array() {
        Some(sets) if key == "$or" => sets.iter().filter_map(Value::as_object).map(names).sum(),
        _ => 1,
    };
    policy.iter().map(of).sum()
}

/// The number of values per name, multiplied. Those of alternatives are added.
fn combinations(conditions: &[Condition]) -> usize {
    let of = |condition: &Condition| match condition {
        Condition::Attribute(_, patterns) => patterns.len(),
        Condition::Or(sets) => sets.iter().map(|set| combinations(set)).sum(),
    };
    conditions.iter().map(of).fold(1, usize::saturating_mul)
}

fn read_conditions(policy: &Map<String, Value>) -> Result<Vec<Condition>> {
    policy
        .iter()
        .map(|(name, value)| read_condition(name, value))
        .collect()
}

fn read_condition(name: &str, value: &Value) -> Result<Condition> {
    let values = match value {
        Value::Array(values) => values,
        Value::Object(_) => {
            bail!("Filter policy scope MessageAttributes does not support nested filter policy")
        }
        _ => bail!("FilterPolicy: \"{name}\" must be an object or an array"),
    };
    ensure!(
        !values.is_empty(),
        "FilterPolicy: Empty arrays are not allowed"
    );
    // With fewer than two sets, or anything else in it, `$or` is an ordinary name.
    if name == "$or" && values.len() > 1 && values.iter().all(Value::is_object) {
        let sets = values
            .iter()
            .filter_map(Value::as_object)
            .map(read_conditions);
        return Ok(Condition::Or(sets.collect::<Result<_>>()?));
    }
    let patterns = values.iter().map(read_pattern);
    Ok(Condition::Attribute(
        name.to_owned(),
        patterns.collect::<Result<_>>()?,
    ))
}

fn read_pattern(value: &Value) -> Result<Pattern> {
    let operator = match value {
        Value::Array(_) => {
            bail!("FilterPolicy: Match value must be String, number, true, false, or null")
        }
        Value::Object(operator) => operator,
        Value::Number(number) => {
            in_range(number.as_f64())?;
            return Ok(Pattern::Exact(value.clone()));
        }
        _ => return Ok(Pattern::Exact(value.clone())),
    };
    let mut members = operator.iter();
    let (Some((name, operand)), None) = (members.next(), members.next()) else {
        bail!("FilterPolicy: Only one key allowed in match expression");
    };
    let text = || {
        operand
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("FilterPolicy: {name} match pattern must be a string"))
    };
    Ok(match name.as_str() {
        "prefix" => Pattern::Prefix(text()?),
        "suffix" => Pattern::Suffix(text()?),
        "equals-ignore-case" => Pattern::IgnoringCase(text()?),
        "exists" => Pattern::Exists(
            operand
                .as_bool()
                .context("FilterPolicy: exists match pattern must be either true or false.")?,
        ),
        "anything-but" => Pattern::AnythingBut(read_anything_but(operand)?),
        "numeric" => Pattern::Numeric(read_numeric(operand)?),
        "cidr" => read_cidr(&text()?)?,
        _ => bail!("FilterPolicy: Unrecognized match type {name}"),
    })
}

fn read_anything_but(operand: &Value) -> Result<Vec<Pattern>> {
    let values = match operand {
        Value::Array(values) if values.is_empty() => {
            bail!("FilterPolicy: Empty arrays are not allowed")
        }
        Value::Array(values) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    let patterns = values
        .iter()
        .map(read_pattern)
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        patterns.iter().all(|pattern| matches!(
            pattern,
            Pattern::Exact(Value::String(_) | Value::Number(_)) | Pattern::Prefix(_)
        )),
        "FilterPolicy: Unsupported anything-but pattern: strings, numbers and prefix are allowed"
    );
    Ok(patterns)
}

fn read_numeric(operand: &Value) -> Result<Vec<(Comparison, f64)>> {
    let members = operand
        .as_array()
        .context("FilterPolicy: Value of numeric must be an array.")?;
    let comparison = |pair: &[Value]| {
        let symbol = pair[0].as_str().with_context(|| {
            format!("FilterPolicy: Invalid member in numeric match: {}", pair[0])
        })?;
        let comparison = match symbol {
            "=" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => bail!("FilterPolicy: Unrecognized numeric range operator: {symbol}"),
        };
        let number = pair.get(1).and_then(Value::as_f64);
        ensure!(
            number.is_some(),
            "FilterPolicy: Value of {symbol} must be numeric"
        );
        Ok((comparison, in_range(number)?))
    };
    let comparisons = members
        .chunks(2)
        .map(comparison)
        .collect::<Result<Vec<_>>>()?;
    match *comparisons {
        [_] => {}
        [
            (Comparison::Greater | Comparison::GreaterOrEqual, bottom),
            (Comparison::Less | Comparison::LessOrEqual, top),
        ] => {
            ensure!(bottom < top, "FilterPolicy: Bottom must be less than top");
        }
        [] => bail!("FilterPolicy: Invalid member in numeric match: ]"),
        _ => bail!("FilterPolicy: Too many elements in numeric expression"),
    }
    Ok(comparisons)
}

fn in_range(number: Option<f64>) -> Result<f64> {
    number
        .filter(|number| number.abs() <= HIGHEST_NUMBER)
        .context("FilterPolicy: numbers must be from -10^9 to 10^9")
}

fn read_cidr(text: &str) -> Result<Pattern> {
    let (address, bits) = text
        .split_once('/')
        .context("FilterPolicy: Malformed CIDR, one '/' required")?;
    let address: Ipv4Addr = address
        .parse()
        .context("FilterPolicy: this sandbox supports cidr with IPv4 addresses only")?;
    let bits = bits
        .parse()
        .ok()
        .filter(|bits| *bits <= 32)
        .context("FilterPolicy: Malformed CIDR, mask bits must be an integer from 0 to 32")?;
    Ok(Pattern::Cidr(address.to_bits(), bits))
}

fn all_met(conditions: &[Condition], attributes: &Attributes) -> bool {
    conditions.iter().all(|condition| match condition {
        Condition::Or(sets) => sets.iter().any(|set| all_met(set, attributes)),
        Condition::Attribute(name, patterns) => {
            let values = attributes
                .get(name)
                .map(|(data_type, value)| values(data_type, value))
                .unwrap_or_default();
            patterns.iter().any(|pattern| match pattern {
                // A message without attributes meets nothing, not even this.
                Pattern::Exists(exists) => !attributes.is_empty() && *exists != values.is_empty(),
                _ => values.iter().any(|value| pattern.matches(value)),
            })
        }
    })
}

/// What an attribute is compared with: each element of an array, and nothing if it is binary.
fn values(data_type: &str, value: &str) -> Vec<Value> {
    // A custom type such as Number.java.lang.Long counts as its first part.
    match data_type.split('.').next() {
        _ if data_type == "String.Array" => serde_json::from_str(value).unwrap_or_default(),
        Some("String") => vec![value.into()],
        Some("Number") => value.parse::<f64>().map(Value::from).into_iter().collect(),
        _ => Vec::new(),
    }
}

impl Pattern {
    fn matches(&self, value: &Value) -> bool {
        let text = value.as_str();
        match self {
            Self::Exact(wanted) => match (wanted.as_f64(), value.as_f64()) {
                (Some(wanted), Some(number)) => Comparison::Equal.holds(number, wanted),
                _ => wanted == value,
            },
            Self::Prefix(prefix) => text.is_some_and(|text| text.starts_with(prefix)),
            Self::Suffix(suffix) => text.is_some_and(|text| text.ends_with(suffix)),
            Self::IgnoringCase(wanted) => {
                text.is_some_and(|text| text.to_lowercase() == wanted.to_lowercase())
            }
            Self::AnythingBut(patterns) => !patterns.iter().any(|pattern| pattern.matches(value)),
            Self::Numeric(comparisons) => value.as_f64().is_some_and(|number| {
                comparisons
                    .iter()
                    .all(|(comparison, wanted)| comparison.holds(number, *wanted))
            }),
            Self::Cidr(network, bits) => text
                .and_then(|text| text.parse::<Ipv4Addr>().ok())
                .is_some_and(|address| {
                    (address.to_bits() ^ network)
                        .checked_shr(32 - bits)
                        .unwrap_or(0)
                        == 0
                }),
            // The caller knows whether the attribute exists, and decides.
            Self::Exists(exists) => *exists,
        }
    }
}

impl Comparison {
    fn holds(self, number: f64, wanted: f64) -> bool {
        let order = (number * NUMBER_SCALE)
            .round()
            .total_cmp(&(wanted * NUMBER_SCALE).round());
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}
