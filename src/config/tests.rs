//! Settings by example.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::kind::parse_duration;
use super::variables::{LOCALSTACK_TOPIC, PROFILES};
use super::*;

const COMPLETE: &[(&str, &str)] = &[
    ("COMMUNITY_ENDPOINT_URL", "https://community-api/"),
    ("OAUTH_ENDPOINT_URL", "https://sign-in/auth"),
    ("OAUTH_CLIENT_ID", "id"),
    ("OAUTH_CLIENT_SECRET", "hush-hush"),
    (
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
        "arn:aws:sns:eu-west-2:754256621582:topic",
    ),
];

fn read(variables: &[(&str, &str)]) -> Result<Settings, Faults> {
    Settings::from_variables(|name| {
        variables
            .iter()
            .rev()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

/// The poller's settings without any variable set, for its tests.
pub(crate) fn poller_settings() -> PollerSettings {
    read(COMPLETE).unwrap().poller
}

fn read_with(more: &[(&str, &str)]) -> Result<Settings, Faults> {
    read(&[COMPLETE, more].concat())
}

#[test]
fn todays_values_files_are_enough() {
    let settings = read_with(&[
        ("JAVA_OPTS", "-Xmx1g"),
        ("SPRING_PROFILES_ACTIVE", "prod,logstash"),
    ])
    .unwrap();
    assert_eq!(settings.community_url, "https://community-api");
    assert_eq!(
        (
            settings.server_port,
            settings.management_port,
            settings.poll_enabled
        ),
        (8080, None, true)
    );
    assert_eq!(settings.poller.fixed_delay, Duration::from_secs(10));
    assert_eq!(
        (settings.poller.held_limit, settings.poller.max_in_flight),
        (288, 32)
    );
    assert_eq!(settings.health_timeout, Duration::from_secs(2));
    assert!(settings.poller.event_options.is_empty());
    assert!(settings.topic.endpoint.is_none() && settings.topic.keys.is_none());
    assert_eq!(settings.topic.region, "eu-west-2");
    // A field that has no row in the table stays zero.
    assert!(!format!("{settings:?}").contains(" 0ns"));
}

#[test]
fn each_required_variable_is_named_if_unset() {
    let faults = read(&[]).unwrap_err();
    let expected = [
        "COMMUNITY_ENDPOINT_URL must be an http(s) address, but is not set",
        "OAUTH_ENDPOINT_URL must be an http(s) address, but is not set",
        "OAUTH_CLIENT_ID must be a client id, but is not set",
        "OAUTH_CLIENT_SECRET must be a client secret, but is not set",
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN must be the ARN of a standard SNS topic, arn:aws:sns:{region}:{12 digits}:{name} (FIFO topics and other partitions are not supported), but is not set",
    ];
    assert_eq!(faults.0, expected);
    let text = faults.to_string();
    assert!(text.starts_with("the configuration is wrong. Errors: 5\n  - COMMUNITY_ENDPOINT_URL"));
    assert!(text.ends_with("command lists every variable and where its value comes from"));
}

#[test]
fn every_bad_value_is_one_fault_that_names_it() {
    for (name, values) in [
        ("SERVER_PORT", &["65536", "-1", "http", "8080.0"][..]),
        ("MANAGEMENT_SERVER_PORT", &["x", "70000"]),
        ("OFFENDERUPDATEPOLL_ENABLED", &["maybe", "2", "t"]),
        ("OFFENDERUPDATEPOLL_CONTACTDELETED", &["maybe"]),
        (
            "OFFENDERUPDATEPOLL_FIXEDDELAY_MS",
            &["0", "10s", "-1", "99999999999999999999"],
        ),
        ("OFFENDERUPDATEPOLL_MAXINFLIGHT", &["0", "10001", "many"]),
        (
            "OFFENDERUPDATEPOLL_LOCKEXPIRY",
            &["999ms", "29s", "34s", "61m", "0s", "soon"],
        ),
        (
            "OFFENDERUPDATEPOLL_PERMANENTFAILURESWINDOW",
            &["1", "25h", "-5s"],
        ),
        (
            "API_CALLTIMEOUT",
            &["0", "1", "99ms", "-5s", "2 fortnights", "6m", "24h"],
        ),
        ("API_CLAIMTIMEOUT", &["1ms", "35", "24h"]),
        ("API_CONNECTTIMEOUT", &["1", "24h"]),
        ("API_HEALTHTIMEOUT", &["2", "31s"]),
        ("HMPPS_SQS_CALLTIMEOUT", &["5", "24h"]),
        ("SHUTDOWN_GRACEPERIOD", &["25", "11m"]),
        (
            "COMMUNITY_ENDPOINT_URL",
            &["community-api", "ftp://x", "https://x?y", "http://"],
        ),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
            &[
                "topic",
                "arn:aws:sqs:eu-west-2:754256621582:queue",
                "arn:aws:sqs:eu-west-2:sns:q",
                "arn:aws:sns:eu-west-2:754256621582:topic.fifo",
                "arn:aws:sns:eu-west-2:754256621582:a/b",
                "arn:aws:sns:eu-west-2:754256621582:",
                "arn:aws:sns:eu-west-2::topic",
                "arn:aws:sns:eu-west-2:1:topic",
                "arn:aws:sns:eu-west-2:75425662158x:topic",
                "arn:aws:sns:eu-west-2:7542566215820:topic",
                "arn:aws:sns::754256621582:topic",
                "arn:aws:sns:eu-west-2:754256621582:topic:subscription",
                "arn:aws:sns:moon:754256621582:topic",
                "arn:aws:sns:uk-west-2:754256621582:topic",
                "arn:aws:sns:eu-wset-2:754256621582:topic",
                "arn:aws:sns:eu-west-2a:754256621582:topic",
                "arn:aws:sns:cn-north-1:754256621582:topic",
                "arn:aws:sns:us-gov-west-1:754256621582:topic",
                "arn:aws-us-gov:sns:us-gov-west-1:754256621582:topic",
                "arn:aws-us-gov:sns:eu-west-2:754256621582:topic",
                "arn:aws-cn:sns:cn-north-1:754256621582:topic",
                "arn:aws-cn:sns:eu-west-2:754256621582:topic",
                "arn:awsx:sns:eu-west-2:754256621582:topic",
            ],
        ),
        ("AWS_ENDPOINT_URL_SNS", &["localhost:4566", "sns", ""]),
        (
            "AWS_ENDPOINT_URL_STS",
            &["localhost:4566", "http:/localhost:1", "https://x?y", " "],
        ),
        (
            "AWS_ENDPOINT_URL",
            &["localhost:4566", "http:/localhost:1", " http://x", ""],
        ),
        ("HMPPS_SQS_REGION", &["eu-west-1", "eu-west", "EU-WEST-2"]),
        ("HMPPS_SQS_PROVIDER", &["azure"]),
        ("HMPPS_SQS_TRACEPARENT", &["maybe"]),
        ("LOG_FORMAT", &["xml"]),
        (
            "RUST_LOG",
            &[
                "a=b=c",
                "inof",
                "loud,probation_offender_events=debug",
                "probation_offender_events=inof",
                "6",
                "hyper=debug",
                ",",
            ],
        ),
    ] {
        for value in values {
            let faults = read_with(&[(name, value)]).unwrap_err().0;
            assert_eq!(faults.len(), 1, "{faults:?}");
            let is_named = faults[0].starts_with(&format!("{name} must be "))
                && (faults[0].ends_with(&format!(", but is {value:?}"))
                    || HIDDEN.iter().any(|hidden| faults[0].ends_with(hidden)));
            assert!(is_named, "{faults:?}");
        }
    }
}

#[test]
fn a_fault_says_what_is_allowed_with_units() {
    for (name, value, fault) in [
        (
            "API_CALLTIMEOUT",
            "1",
            "API_CALLTIMEOUT must be a duration from 100ms to 5m (without a unit: milliseconds), but is \"1\"",
        ),
        (
            "OFFENDERUPDATEPOLL_FIXEDDELAY_MS",
            "10s",
            "OFFENDERUPDATEPOLL_FIXEDDELAY_MS must be a whole number of milliseconds from 1 to 86400000, but is \"10s\"",
        ),
        (
            "API_CALLTIMEOUT",
            "5m",
            "OFFENDERUPDATEPOLL_LOCKEXPIRY must be at least 15m (3 times API_CALLTIMEOUT), but is \"10m\"",
        ),
        (
            "OFFENDERUPDATEPOLL_LOCKEXPIRY",
            "34s",
            "OFFENDERUPDATEPOLL_LOCKEXPIRY must be at least 35s (API_CLAIMTIMEOUT), but is \"34s\"",
        ),
        (
            "HMPPS_SQS_REGION",
            "eu-west-1",
            "HMPPS_SQS_REGION must be eu-west-2, as in HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN, but is \"eu-west-1\"",
        ),
    ] {
        assert_eq!(read_with(&[(name, value)]).unwrap_err().0, [fault]);
    }
}

#[test]
fn an_odd_value_is_a_warning() {
    for (variables, warning) in [
        (
            &[("RUST_LOG", "info,hyper=debug")][..],
            "RUST_LOG: hyper=debug has no effect",
        ),
        (
            &[("API_CLAIMTIMEOUT", "29s")],
            "API_CLAIMTIMEOUT is below 30 s",
        ),
        (
            &[("OFFENDERUPDATEPOLL_LOCKEXPIRY", "20m")],
            "OFFENDERUPDATEPOLL_LOCKEXPIRY is above 10 minutes",
        ),
        (
            &[("OFFENDERUPDATEPOLL_CLAIMERS", "4")],
            "OFFENDERUPDATEPOLL_CLAIMERS is ignored",
        ),
    ] {
        let warnings = read_with(variables).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with(warning), "{warnings:?}");
    }
    for levels in [
        "off",
        "INFO",
        "3",
        "warn,probation_offender_events::poller=trace",
        "probation_offender_events=debug",
    ] {
        let settings = read_with(&[("RUST_LOG", levels)]).unwrap();
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
        assert_eq!(settings.log_levels, levels);
    }
}

#[test]
fn keys_need_both_halves_and_are_never_printed() {
    let key = ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID", "AKIAHUSH");
    let secret = (
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY",
        "hush-hush",
    );
    for one in [key, secret] {
        let settings = read_with(&[one]).unwrap();
        assert!(settings.topic.keys.is_none());
        assert!(settings.warnings[0].starts_with("only one of HMPPS_SQS_TOPICS"));
    }
    let settings = read_with(&[key, secret]).unwrap();
    assert!(settings.topic.keys.is_some() && settings.warnings.is_empty());
    assert!(!format!("{settings:?}").contains("hush-hush"));
    let faults = read_with(&[key, secret, ("SERVER_PORT", "x")]).unwrap_err();
    assert!(!faults.to_string().contains("hush-hush"));
}

#[test]
fn a_traceparent_without_an_operation_to_join_is_a_warning() {
    let on = ("HMPPS_SQS_TRACEPARENT", "true");
    let insights = (
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
        "InstrumentationKey=0",
    );
    for (variables, is_on, warnings) in [
        (&[][..], false, 0),
        (&[insights], false, 0),
        (&[on, insights], true, 0),
        (&[on], true, 1),
    ] {
        let settings = read_with(variables).unwrap();
        assert_eq!(settings.topic.traceparent, is_on, "{variables:?}");
        assert_eq!(settings.warnings.len(), warnings, "{variables:?}");
    }
}

/// The ends of errors that do not quote the value, since it may hold a secret.
const HIDDEN: [&str; 3] = [
    ", but contains ? (the value is hidden, because it may be a token)",
    ", but does not start with arn:",
    ", but has a control character",
];

#[test]
fn a_secret_in_the_wrong_place_is_not_printed() {
    for (name, value) in [
        ("COMMUNITY_ENDPOINT_URL", "https://x?token=hush-hush"),
        ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN", "hush-hush"),
        ("OAUTH_CLIENT_SECRET", "hush-hush\nX"),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID",
            "hush-hush\nX",
        ),
    ] {
        let faults = read_with(&[(name, value)]).unwrap_err().to_string();
        assert!(
            HIDDEN.iter().any(|hidden| faults.contains(hidden)),
            "{faults}"
        );
        assert!(!faults.contains("hush-hush"), "{faults}");
    }
}

#[test]
fn an_address_with_a_user_is_a_fault_and_its_password_is_not_printed() {
    for address in ["https://user:hush-hush@x", "https://:hush-hush@x"] {
        let faults = read_with(&[("COMMUNITY_ENDPOINT_URL", address)]).unwrap_err();
        let faults = faults.to_string();
        assert!(faults.contains("http(s) address, but contains @ (the value is hidden"));
        assert!(!faults.contains("hush-hush"), "{faults}");
    }
}

#[test]
fn a_connection_string_is_a_key_and_perhaps_an_endpoint() {
    let name = "APPLICATIONINSIGHTS_CONNECTION_STRING";
    let global = "https://dc.services.visualstudio.com";
    for (connection, endpoint) in [
        ("InstrumentationKey=0000-hush", global),
        (
            "InstrumentationKey=0000-hush;EndpointSuffix=applicationinsights.azure.cn",
            "https://dc.applicationinsights.azure.cn",
        ),
        (
            "InstrumentationKey=0000-hush;endpointsuffix=example.org;Location=uksouth",
            "https://uksouth.dc.example.org",
        ),
        (
            "InstrumentationKey=0000-hush;EndpointSuffix=example.org;IngestionEndpoint=https://in",
            "https://in",
        ),
        (" instrumentationkey = 0000-hush ; ;Other", global),
        (
            "IngestionEndpoint=https://uksouth-1.in/;LiveEndpoint=x;InstrumentationKey=0000-hush;ApplicationId=a=b",
            "https://uksouth-1.in",
        ),
        (
            "InstrumentationKey=0000-hush;IngestionEndpoint=http://localhost:1",
            "http://localhost:1",
        ),
    ] {
        let settings = read_with(&[(name, connection), ("HOSTNAME", "pod")]).unwrap();
        assert!(!format!("{settings:?}").contains("0000-hush"));
        let insights = settings.insights.unwrap();
        assert_eq!(insights.instrumentation_key.expose_secret(), "0000-hush");
        assert_eq!(insights.endpoint, endpoint);
        assert_eq!(insights.instance.as_deref(), Some("pod"));
    }
    for bad in [
        "0000-hush",
        "InstrumentationKey=",
        "InstrumentationKey=$(APPINSIGHTS_INSTRUMENTATIONKEY)",
        "InstrumentationKey=0000-hush;IngestionEndpoint=ingest",
        "InstrumentationKey=0000-hush;IngestionEndpoint=",
        "InstrumentationKey=0000-hush;EndpointSuffix=",
        "InstrumentationKey=0000-hush;EndpointSuffix=a b",
        "InstrumentationKey=0000-hush0000-hush0000-hush0000-hush00000",
        "IngestionEndpoint=https://uksouth-1.in/",
    ] {
        let faults = read_with(&[(name, bad)]).unwrap_err().0;
        assert_eq!(faults.len(), 1, "{bad}");
        let wants = "InstrumentationKey=…, optionally followed by ;IngestionEndpoint=https://… or ;EndpointSuffix=…";
        assert_eq!(
            faults[0],
            format!("{name} must be {wants}, but is set to something else")
        );
    }
    assert!(read_with(&[]).unwrap().insights.is_none());
}

#[test]
fn a_management_port_equal_to_the_main_port_is_ignored() {
    let ports = |main, management| {
        let ports = [
            ("SERVER_PORT", main),
            ("MANAGEMENT_SERVER_PORT", management),
        ];
        read_with(&ports).unwrap().management_port
    };
    assert_eq!(ports("8080", "8080"), None);
    assert_eq!(ports("8080", "8081"), Some(8081));
    assert_eq!(ports("0", "0"), Some(0));
}

#[test]
fn a_boolean_is_read_as_spring_reads_it() {
    for (text, enabled) in [
        ("true", true),
        ("TRUE", true),
        (" Yes ", true),
        ("on", true),
        ("1", true),
        ("false", false),
        ("False", false),
        ("no", false),
        ("OFF", false),
        ("0", false),
    ] {
        let settings = read_with(&[("OFFENDERUPDATEPOLL_ENABLED", text)]).unwrap();
        assert_eq!(settings.poll_enabled, enabled, "{text}");
    }
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let settings = read_with(&[
        ("MANAGEMENT_SERVER_PORT", ""),
        ("SERVER_PORT", " "),
        ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID", ""),
        ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY", ""),
    ]);
    assert_eq!(settings.unwrap().server_port, 8080);
    assert!(
        read_with(&[("OAUTH_CLIENT_SECRET", "")]).unwrap_err().0[0]
            .contains("OAUTH_CLIENT_SECRET must be a client secret, but is not set")
    );
}

#[test]
fn text_that_is_not_utf8_is_a_fault() {
    for (name, wants) in [
        ("SERVER_PORT", "a port from 0 to 65535"),
        ("COMMUNITY_ENDPOINT_URL", "an http(s) address"),
        ("OAUTH_CLIENT_SECRET", "a client secret"),
    ] {
        let fault = format!("{name} must be {wants}, but is text that is not UTF-8");
        let faults = read_with(&[(name, "http://x/\u{fffd}")]).unwrap_err();
        assert_eq!(faults.0, [fault]);
    }
}

#[test]
fn localstack_and_the_dev_profile_have_defaults() {
    let settings = read(&[("SPRING_PROFILES_ACTIVE", "dev")]).unwrap();
    assert_eq!(settings.topic.arn, LOCALSTACK_TOPIC);
    assert_eq!(
        settings.topic.endpoint.as_deref(),
        Some("http://localhost:4566")
    );
    assert!(settings.topic.keys.is_some());
    assert_eq!(settings.server_port, 8081);
    let settings = read(&[("SPRING_PROFILES_ACTIVE", "dev"), ("SERVER_PORT", "9000")]).unwrap();
    assert_eq!(settings.server_port, 9000);
}

#[test]
fn a_profile_that_is_not_ours_changes_nothing() {
    for profiles in [
        "dev,default",
        "default,dev",
        "profiles,dev",
        "dev,profiles.localstack,[0]",
    ] {
        let settings = read(&[("SPRING_PROFILES_ACTIVE", profiles)]).unwrap();
        assert_eq!(settings.server_port, 8081, "{profiles}");
    }
}

#[test]
fn no_color_and_a_dumb_terminal_switch_colours_off() {
    for (variables, colours) in [
        (&[][..], true),
        (&[("NO_COLOR", ""), ("TERM", "xterm-256color")], true),
        (&[("NO_COLOR", "1")], false),
        (&[("NO_COLOR", "0")], false),
        (&[("TERM", "dumb")], false),
    ] {
        let settings = read_with(variables).unwrap();
        assert_eq!(settings.log_colours, colours, "{variables:?}");
    }
}

#[test]
fn configuration_md_shows_this_table_of_variables() {
    let table: String = VARIABLES.iter().map(Variable::table_row).collect();
    let document = include_str!("../../docs/configuration.md");
    assert!(
        document.contains(&table),
        "the table of docs/configuration.md should be:\n{table}"
    );
}

#[test]
fn every_default_of_a_profile_belongs_to_a_variable() {
    for (_, name, _) in PROFILES {
        let known = |variable: &Variable| variable.name == *name;
        assert!(VARIABLES.iter().any(known), "{name}");
    }
}

#[test]
fn durations_are_read_as_spring_reads_them() {
    for (text, milliseconds) in [
        ("2s", 2000),
        ("500ms", 500),
        ("10m", 600_000),
        ("PT2.5S", 2500),
        ("750", 750),
    ] {
        assert_eq!(
            parse_duration(text),
            Some(Duration::from_millis(milliseconds)),
            "{text}"
        );
    }
}

#[test]
fn addresses_are_normalised() {
    let settings = read_with(&[
        ("COMMUNITY_ENDPOINT_URL", "HTTPS://Community-API//"),
        ("OAUTH_ENDPOINT_URL", "https:/sign-in/auth"),
    ])
    .unwrap();
    assert_eq!(settings.community_url, "https://community-api");
    assert_eq!(settings.auth_url, "https://sign-in/auth");
}

#[test]
fn aws_addresses_apply_to_one_service_or_all() {
    let all = ("AWS_ENDPOINT_URL", "HTTPS://AWS/");
    let sns = ("AWS_ENDPOINT_URL_SNS", "https://sns:443/x/");
    let sts = ("AWS_ENDPOINT_URL_STS", "https://sts");
    for (variables, of_sns, of_sts) in [
        (&[][..], None, None),
        (&[all], Some("https://aws"), Some("https://aws")),
        (&[sns], Some("https://sns/x"), None),
        (&[all, sns], Some("https://sns/x"), Some("https://aws")),
        (&[all, sts], Some("https://aws"), Some("https://sts")),
    ] {
        let topic = read_with(variables).unwrap().topic;
        assert_eq!(topic.endpoint.as_deref(), of_sns, "{variables:?}");
        assert_eq!(topic.sts_endpoint.as_deref(), of_sts, "{variables:?}");
        assert!(!topic.is_localstack);
    }
}

#[test]
fn http_to_another_machine_is_a_warning() {
    let local = ("HMPPS_SQS_PROVIDER", "localstack");
    for name in [
        "COMMUNITY_ENDPOINT_URL",
        "OAUTH_ENDPOINT_URL",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SNS",
        "AWS_ENDPOINT_URL_STS",
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
    ] {
        for (address, more, is_warned) in [
            ("http://away", None, true),
            ("https://away", None, false),
            ("http://localhost:8096", None, false),
            ("http://127.0.0.2:8096", None, false),
            ("http://[::1]:8096", None, false),
            ("http://away", Some(local), false),
        ] {
            let value = match name {
                "APPLICATIONINSIGHTS_CONNECTION_STRING" => {
                    format!("InstrumentationKey=0;IngestionEndpoint={address}")
                }
                _ => address.to_owned(),
            };
            let mut variables = vec![(name, value.as_str())];
            variables.extend(more);
            let warnings = read_with(&variables).unwrap().warnings;
            let named = warnings.iter().filter(|warning| warning.contains(name));
            assert_eq!(named.count(), usize::from(is_warned), "{variables:?}");
            assert_eq!(warnings.len(), usize::from(is_warned), "{warnings:?}");
        }
    }
}

#[test]
fn the_listing_shows_addresses_of_aws_but_no_user_in_them() {
    let variables = [
        ("AWS_ENDPOINT_URL_SNS", "https://sns"),
        ("AWS_ENDPOINT_URL_STS", "https://user:hush-hush@sts"),
    ];
    let listing = listing(|name| {
        let found = variables.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| (*value).to_owned())
    });
    let listing = listing.unwrap();
    for shown in [
        "https://sns  (environment)\n",
        "AWS_ENDPOINT_URL_STS                                hidden  (environment)\n",
    ] {
        assert!(listing.contains(shown), "{listing}");
    }
}
