//! A filter policy in Terraform: a JSON string, or `jsonencode({…})` of literal values.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// Deeper than any policy, but not deep enough to exhaust the stack.
const MOST_DEPTH: usize = 20;

/// The policy in `filter_policy = …`, within a block of Terraform or alone. `None` if the text is JSON.
pub(super) fn read(text: &str) -> Result<Option<Value>> {
    ensure!(
        !(text.contains("filter_policy_scope") && text.contains("MessageBody")),
        "FilterPolicy: the sandbox filters by message attributes only, as the service's subscribers do. Remove filter_policy_scope"
    );
    let expression = match argument(text) {
        Some(expression) if !text.starts_with('{') => expression,
        _ if text.starts_with(['"', 'j']) => text,
        _ => return Ok(None),
    };
    let mut reader = Reader { rest: expression };
    if reader.take("jsonencode") {
        ensure!(
            reader.take("("),
            "FilterPolicy: jsonencode needs brackets around its value"
        );
        let policy = reader.value(0)?;
        ensure!(
            reader.take(")"),
            "FilterPolicy: jsonencode has no closing bracket"
        );
        return Ok(Some(policy));
    }
    ensure!(
        reader.rest.starts_with('"'),
        "FilterPolicy: an equals sign must follow filter_policy, and then a string in quotation marks or jsonencode"
    );
    let json = reader.string()?;
    let policy = serde_json::from_str(&json).context("FilterPolicy: failed to parse JSON")?;
    Ok(Some(policy))
}

/// What follows `filter_policy =`, but not `filter_policy_scope =`.
fn argument(text: &str) -> Option<&str> {
    text.match_indices("filter_policy")
        .find_map(|(start, name)| {
            let line = text[..start].rsplit('\n').next().unwrap_or_default();
            let is_comment = line.contains('#') || line.contains("//");
            if is_comment {
                return None;
            }
            let after = text[start + name.len()..].trim_start();
            Some(after.strip_prefix('=')?.trim_start())
        })
        .or_else(|| text.contains("filter_policy").then_some(""))
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Skips white space and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let end = if self.rest.starts_with('#') || self.rest.starts_with("//") {
                "\n"
            } else if self.rest.starts_with("/*") {
                "*/"
            } else {
                return;
            };
            self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        ensure!(
            depth < MOST_DEPTH,
            "FilterPolicy: the policy is nested too deeply"
        );
        if self.take("{") {
            return self.object(depth);
        }
        if self.take("[") {
            let mut values = Vec::new();
            while !self.take("]") {
                values.push(self.value(depth + 1)?);
                if !self.take(",") {
                    ensure!(
                        self.take("]"),
                        "FilterPolicy: a list has no closing bracket"
                    );
                    break;
                }
            }
            return Ok(values.into());
        }
        if self.rest.starts_with('"') {
            return Ok(self.string()?.into());
        }
        let word = self.word();
        serde_json::from_str(word).with_context(|| {
            format!("FilterPolicy: {word:?} is not a literal value: this page does not evaluate variables and functions")
        })
    }

    /// Its members end with commas or line ends.
    fn object(&mut self, depth: usize) -> Result<Value> {
        let mut members = Map::new();
        while !self.take("}") {
            let name = if self.rest.starts_with('"') {
                self.string()?
            } else {
                self.word().to_owned()
            };
            ensure!(
                !name.is_empty(),
                "FilterPolicy: an object has no closing brace"
            );
            ensure!(
                self.take("=") || self.take(":"),
                "FilterPolicy: an equals sign must follow {name}"
            );
            members.insert(name, self.value(depth + 1)?);
            self.take(",");
        }
        Ok(members.into())
    }

    fn word(&mut self) -> &str {
        let ends = |character: char| !(character.is_alphanumeric() || "_-+.$".contains(character));
        let (word, rest) = self
            .rest
            .split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    /// It has the escapes of JSON.
    fn string(&mut self) -> Result<String> {
        let mut strings = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let string = strings
            .next()
            .context("FilterPolicy: a string is missing")?
            .context(
                "FilterPolicy: a string has no closing quotation mark, or an invalid escape",
            )?;
        self.rest = &self.rest[strings.byte_offset()..];
        if string.contains("${") || string.contains("%{") {
            bail!(
                "FilterPolicy: {string:?} is a template: this page does not evaluate variables and functions"
            );
        }
        Ok(string)
    }
}
