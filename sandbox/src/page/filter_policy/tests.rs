//! What SNS delivers, what it does not, and which policies it refuses, as tables.

use super::*;

fn attributes(list: &[(&str, &str, &str)]) -> Attributes {
    let one = |(name, data_type, value): &(&str, &str, &str)| {
        (
            (*name).to_owned(),
            ((*data_type).to_owned(), (*value).to_owned()),
        )
    };
    list.iter().map(one).collect()
}

#[test]
fn a_policy_accepts_what_sns_would_deliver() {
    let message = attributes(&[
        ("eventType", "String", "OFFENDER_DETAILS_CHANGED"),
        ("source", "String", "delius"),
        ("timestamp", "Number.java.lang.Long", "1595166000000"),
        ("price", "Number", "3.015e2"),
        ("tags", "String.Array", r#"["rugby", "tennis", 7, true]"#),
        ("address", "String", "10.0.0.255"),
        ("picture", "Binary", "AAAA"),
    ]);
    for (policy, accepted) in [
        ("{}", true),
        (
            r#"{"eventType": ["OFFENDER_DETAILS_CHANGED", "OFFENDER_MERGED"]}"#,
            true,
        ),
        (r#"{"eventType": ["offender_details_changed"]}"#, false),
        (
            r#"{"eventType": ["OFFENDER_DETAILS_CHANGED"], "source": ["elite2"]}"#,
            false,
        ),
        (r#"{"eventType": [{"prefix": "OFFENDER_"}]}"#, true),
        (r#"{"eventType": [{"prefix": "SENTENCE_"}]}"#, false),
        (r#"{"eventType": [{"suffix": "_CHANGED"}]}"#, true),
        (r#"{"eventType": [{"suffix": "_MERGED"}]}"#, false),
        (
            r#"{"eventType": [{"equals-ignore-case": "offender_Details_changed"}]}"#,
            true,
        ),
        (
            r#"{"eventType": [{"anything-but": ["OFFENDER_CHANGED"]}]}"#,
            true,
        ),
        (
            r#"{"eventType": [{"anything-but": "OFFENDER_DETAILS_CHANGED"}]}"#,
            false,
        ),
        (
            r#"{"eventType": [{"anything-but": {"prefix": "OFFENDER_"}}]}"#,
            false,
        ),
        (r#"{"nothing": [{"anything-but": ["x"]}]}"#, false),
        (
            r#"{"nothing": [{"anything-but": ["x"]}, {"exists": false}]}"#,
            true,
        ),
        (r#"{"nothing": [{"exists": true}]}"#, false),
        (r#"{"source": [{"exists": true}]}"#, true),
        (r#"{"source": [{"exists": false}]}"#, false),
        (r#"{"price": [301.5]}"#, true),
        (r#"{"price": [301.500001]}"#, true),
        (r#"{"price": ["301.5"]}"#, false),
        (r#"{"price": [{"numeric": ["=", 301.5]}]}"#, true),
        (r#"{"price": [{"numeric": [">", 300, "<=", 301.5]}]}"#, true),
        (r#"{"price": [{"numeric": [">", 301.5]}]}"#, false),
        (r#"{"price": [{"anything-but": [301.5]}]}"#, false),
        (r#"{"timestamp": [{"numeric": [">=", 1000000000]}]}"#, true),
        (r#"{"source": [{"numeric": [">", 0]}]}"#, false),
        (r#"{"tags": ["tennis"]}"#, true),
        (r#"{"tags": [true]}"#, true),
        (r#"{"tags": [{"numeric": ["<", 8]}]}"#, true),
        (r#"{"tags": [{"anything-but": ["rugby"]}]}"#, true),
        (r#"{"picture": ["AAAA"]}"#, false),
        (r#"{"address": [{"cidr": "10.0.0.0/24"}]}"#, true),
        (r#"{"address": [{"cidr": "10.0.1.0/24"}]}"#, false),
        (r#"{"address": [{"cidr": "0.0.0.0/0"}]}"#, true),
        (
            r#"{"$or": [{"source": ["elite2"]}, {"price": [301.5]}]}"#,
            true,
        ),
        (
            r#"{"$or": [{"source": ["elite2"]}, {"price": [1]}]}"#,
            false,
        ),
        (
            r#"{"source": ["delius"], "$or": [{"tags": ["x"]}, {"tags": ["rugby"]}]}"#,
            true,
        ),
    ] {
        assert_eq!(
            FilterPolicy::read(policy).unwrap().accepts(&message),
            accepted,
            "{policy}"
        );
    }
    let absent = FilterPolicy::read(r#"{"a": [{"exists": false}]}"#).unwrap();
    assert!(!absent.accepts(&Attributes::new()), "no attributes at all");
}

#[test]
fn terraform_is_read_as_it_is_pasted() {
    let for_subscribers = include_str!("../../../../docs/subscribing.md");
    let block = for_subscribers
        .split("```terraform")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let line = block
        .lines()
        .find(|line| line.contains("filter_policy"))
        .unwrap();
    let string = line.split_once("= ").unwrap().1;
    for pasted in [
        block,
        line,
        string,
        r#"{"eventType":["OFFENDER_DETAILS_CHANGED","OFFENDER_ADDRESS_CHANGED"]}"#,
    ] {
        let policy = FilterPolicy::read(pasted).unwrap();
        let accepts = |event| policy.accepts(&attributes(&[("eventType", "String", event)]));
        assert!(
            accepts("OFFENDER_DETAILS_CHANGED") && accepts("OFFENDER_ADDRESS_CHANGED"),
            "{pasted}"
        );
        assert!(!accepts("OFFENDER_CHANGED"), "{pasted}");
    }
}

#[test]
fn jsonencode_is_read_as_terraform_does() {
    for pasted in [
        r#"jsonencode({ eventType = ["OFFENDER_MERGED"] })"#,
        r#"jsonencode({"eventType":["OFFENDER_MERGED"]})"#,
        r#"
resource "aws_sns_topic_subscription" "events" {
  filter_policy_scope = "MessageAttributes"
  filter_policy = jsonencode({
    # The events for this subscriber.
    eventType = [
      "OFFENDER_MERGED", // and no more
      { prefix = "NOTHING" }, /* yet */
    ]
    timestamp = [{ numeric = [">", 1e2] }]
  })
  raw_message_delivery = true
}"#,
    ] {
        let policy = FilterPolicy::read(pasted).unwrap();
        let accepts = |event| {
            policy.accepts(&attributes(&[
                ("eventType", "String", event),
                ("timestamp", "Number", "1000"),
            ]))
        };
        assert!(accepts("OFFENDER_MERGED"), "{pasted}");
        assert!(!accepts("OFFENDER_CHANGED"), "{pasted}");
    }
}

#[test]
fn a_policy_that_sns_would_refuse_is_refused_with_the_reason() {
    let complex = format!(r#"{{"a": [{0}], "b": [{0}]}}"#, vec!["1"; 13].join(","));
    let deep = format!("jsonencode({{ a = {}", "[".repeat(100_000));
    let huge = format!(r#"{{"a": ["{}"]}}"#, "x".repeat(MOST_BYTES));
    for (policy, reason) in [
        ("", "failed to parse JSON"),
        (&deep, "nested too deeply"),
        ("{", "failed to parse JSON"),
        ("[]", "must be a JSON object"),
        (
            "filter_policy = var.policy",
            "a string in quotation marks or jsonencode",
        ),
        ("filter_policy", "a string in quotation marks or jsonencode"),
        ("jsonencode {}", "jsonencode needs brackets"),
        ("jsonencode({}", "no closing bracket"),
        ("jsonencode({ eventType = [\"A\" })", "a list has no"),
        ("jsonencode({ eventType = [\"A\"]", "an object has no"),
        ("jsonencode({ eventType [\"A\"] })", "must follow"),
        (
            "jsonencode({ eventType = var.types })",
            "not a literal value",
        ),
        (
            "jsonencode({ eventType = [\"${var.type}\"] })",
            "is a template",
        ),
        ("jsonencode([])", "must be a JSON object"),
        (r#"filter_policy = "{}"#, "no closing"),
        (
            r#"{"eventType": "A"}"#,
            r#""eventType" must be an object or an array"#,
        ),
        (r#"{"eventType": {"a": ["b"]}}"#, "does not support nested"),
        (r#"{"eventType": []}"#, "Empty arrays"),
        (r#"{"eventType": [["A"]]}"#, "Match value must be"),
        (
            r#"{"eventType": [{"startswith": "A"}]}"#,
            "Unrecognized match type startswith",
        ),
        (
            r#"{"eventType": [{"prefix": "A", "suffix": "B"}]}"#,
            "Only one key",
        ),
        (
            r#"{"eventType": [{"prefix": 1}]}"#,
            "prefix match pattern must be a string",
        ),
        (
            r#"{"eventType": [{"exists": "yes"}]}"#,
            "exists match pattern",
        ),
        (
            r#"{"eventType": [{"anything-but": [{"suffix": "A"}]}]}"#,
            "Unsupported anything-but pattern",
        ),
        (r#"{"eventType": [{"anything-but": []}]}"#, "Empty arrays"),
        (r#"{"n": [1000000001]}"#, "from -10^9 to 10^9"),
        (
            r#"{"n": [{"numeric": []}]}"#,
            "Invalid member in numeric match",
        ),
        (r#"{"n": [{"numeric": 5}]}"#, "must be an array"),
        (
            r#"{"n": [{"numeric": ["<"]}]}"#,
            "Value of < must be numeric",
        ),
        (
            r#"{"n": [{"numeric": ["!", 1]}]}"#,
            "Unrecognized numeric range operator",
        ),
        (
            r#"{"n": [{"numeric": ["<", 1, ">", 0]}]}"#,
            "Too many elements",
        ),
        (
            r#"{"n": [{"numeric": [">", 1, "<", 1]}]}"#,
            "Bottom must be less than top",
        ),
        (r#"{"ip": [{"cidr": "10.0.0.0"}]}"#, "Malformed CIDR"),
        (
            r#"{"a":[1],"b":[1],"c":[1],"d":[1],"e":[1],"f":[1]}"#,
            "more than 5 keys",
        ),
        (
            r#"{"a":[1],"b":[1],"c":[1],"d":[1],"$or":[{"e":[1]},{"f":[1]}]}"#,
            "more than 5 keys",
        ),
        (&complex, "too complex"),
        (&huge, "larger than 256 KB"),
    ] {
        let error = format!("{:#}", FilterPolicy::read(policy).unwrap_err());
        assert!(error.contains(reason), "{policy:.80}: {error}");
    }
}
