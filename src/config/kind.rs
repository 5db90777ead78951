//! What a variable may be: how its text is read, and how errors and documentation describe that.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::InsightsSettings;
use super::draft::Draft;

/// Where Application Insights takes telemetry if the connection string does not say: the public cloud.
const ENDPOINT_SUFFIX: &str = "services.visualstudio.com";

/// The first parts of the regions in the partition `aws`, as the SDK lists them. China and the governments' regions are
/// in other partitions.
const AREAS: &str = "af ap ca eu il me mx sa us";
/// The second parts.
const DIRECTIONS: &str = "central east north northeast northwest south southeast southwest west";

/// Stores a value where it belongs.
type Set<T> = fn(&mut Draft, T);

/// What a variable may be, and where its value goes.
#[derive(Debug)]
pub(super) enum Kind {
    /// The address of a service that gets secrets or personal data. It is stored in normal form, not as it was written.
    Address(Set<String>),
    /// The same for a variable that the AWS SDK also reads. Both must understand it, and an empty value is not an
    /// address.
    SdkAddress(Set<String>),
    Port(Set<u16>),
    Flag(Set<bool>),
    /// A duration in this range.
    Time(RangeInclusive<Duration>, Set<Duration>),
    /// A whole number in this range, and what it counts.
    Number(RangeInclusive<usize>, &'static str, Set<usize>),
    /// Any text, and what it means.
    Text(&'static str, Set<String>),
    /// What is allowed, and a function that stores an allowed value.
    Other(&'static str, fn(&mut Draft, &str) -> bool),
}

impl Kind {
    /// The part of a variable's text that is read. An empty value counts as unset: that is how compose files and
    /// optional secrets leave a variable out.
    pub fn content<'text>(&self, text: &'text str) -> Option<&'text str> {
        match self {
            Self::SdkAddress(_) => Some(text),
            _ => Some(text.trim()).filter(|text| !text.is_empty()),
        }
    }

    /// Stores what the text means, if it is allowed.
    pub fn read(&self, text: &str, draft: &mut Draft) -> bool {
        match self {
            // The variable is not UTF-8: `config::environment`.
            _ if text.contains(char::REPLACEMENT_CHARACTER) => false,
            Self::Address(set) => base_address(text).map(|url| set(draft, url)).is_some(),
            Self::SdkAddress(set) => sdk_address(text).map(|url| set(draft, url)).is_some(),
            Self::Port(set) => text.parse().map(|port| set(draft, port)).is_ok(),
            Self::Flag(set) => {
                // As Spring: `true`, `yes`, `on` or `1`, in any case, and their opposites.
                let flag = config::Value::from(text).into_bool();
                flag.map(|flag| set(draft, flag)).is_ok()
            }
            Self::Time(range, set) => {
                let duration = parse_duration(text).filter(|duration| range.contains(duration));
                duration.map(|duration| set(draft, duration)).is_some()
            }
            Self::Number(range, _, set) => {
                let number = text.parse().ok().filter(|number| range.contains(number));
                number.map(|number| set(draft, number)).is_some()
            }
            // A control character in a key makes the AWS SDK panic.
            Self::Text(_, _) if text.contains(char::is_control) => false,
            Self::Text(_, set) => {
                set(draft, text.to_owned());
                true
            }
            Self::Other(_, read) => read(draft, text),
        }
    }

    /// What is allowed: "X must be …".
    pub fn wants(&self) -> String {
        match self {
            Self::Address(_) => "an http(s) address".to_owned(),
            Self::SdkAddress(_) => "a full http(s) address, or unset".to_owned(),
            Self::Port(_) => "a port from 0 to 65535".to_owned(),
            Self::Flag(_) => "true or false".to_owned(),
            Self::Time(range, _) => {
                let (least, most) = (shown(*range.start()), shown(*range.end()));
                format!("a duration from {least} to {most} (without a unit: milliseconds)")
            }
            Self::Number(range, what, _) => {
                let (least, most) = (range.start(), range.end());
                format!("a whole number of {what} from {least} to {most}")
            }
            Self::Text(wants, _) | Self::Other(wants, _) => (*wants).to_owned(),
        }
    }
}

/// A duration as Spring takes it: `2s`, `500ms`, `10m`, ISO 8601's `PT2S`, or plain milliseconds.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => text.parse::<jiff::SignedDuration>().ok()?.try_into().ok(),
    }
}

/// A duration as `parse_duration` takes it.
pub(super) fn shown(duration: Duration) -> String {
    let duration = jiff::SignedDuration::try_from(duration);
    format!("{:#}", duration.unwrap_or_default())
}

/// An address to which paths can be added, so without a slash at its end.
pub(super) fn base_address(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let is_base = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    is_base.then(|| url.as_str().trim_end_matches('/').to_owned())
}

/// Whether an address is http to another machine.
pub(super) fn is_open(address: &str) -> bool {
    let url = reqwest::Url::parse(address).ok();
    url.is_some_and(|url| {
        let host = url.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_loopback = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        url.scheme() == "http" && !is_loopback
    })
}

/// An address that both this service and the AWS SDK understand.
pub(crate) fn sdk_address(text: &str) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    uri.scheme().and(uri.authority())?;
    base_address(text)
}

/// The region of a topic that this service can publish to: a standard one (a FIFO topic wants a message group) of the
/// partition `aws`.
pub(super) fn topic_region(arn: &str) -> Option<&str> {
    let parts: Vec<_> = arn.split(':').collect();
    let ["arn", "aws", "sns", region, account, name] = parts[..] else {
        return None;
    };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_name = (1..=256).contains(&name.len()) && name.bytes().all(is_allowed);
    (is_region(region) && is_account && is_name).then_some(region)
}

/// Whether this is a region of the partition `aws`, by its form: `eu-west-2`.
pub(super) fn is_region(region: &str) -> bool {
    let parts: Vec<_> = region.split('-').collect();
    let [area, direction, number] = parts[..] else {
        return false;
    };
    let is_one_of = |words: &str, part: &str| words.split(' ').any(|word| word == part);
    let is_number = number.len() == 1 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_one_of(AREAS, area) && is_one_of(DIRECTIONS, direction) && is_number
}

/// Reads a connection string. Parts are `name=value`, with names in any case. Parts that are not used here
/// (`LiveEndpoint` and others) may be anything.
pub(super) fn connection(text: &str) -> Option<InsightsSettings> {
    let part = |wanted: &str| {
        text.split(';').find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let is_wanted = name.trim().eq_ignore_ascii_case(wanted);
            is_wanted.then(|| value.trim().to_owned())
        })
    };
    // Usually a UUID. Other characters suggest a placeholder that was not filled in.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let key = part("InstrumentationKey")
        .filter(|key| (1..=40).contains(&key.len()) && key.bytes().all(is_allowed))?;
    let endpoint = part("IngestionEndpoint").unwrap_or_else(|| {
        let suffix = part("EndpointSuffix").unwrap_or_else(|| ENDPOINT_SUFFIX.to_owned());
        let location = part("Location").map_or_else(String::new, |name| name + ".");
        format!("https://{location}dc.{suffix}")
    });
    let is_host = |part: String| part.bytes().all(|byte| is_allowed(byte) || byte == b'.');
    let are_hosts = ["EndpointSuffix", "Location"]
        .into_iter()
        .filter_map(part)
        .all(is_host);
    if !are_hosts {
        return None;
    }
    Some(InsightsSettings {
        instrumentation_key: key.into(),
        endpoint: base_address(&endpoint).filter(|endpoint| !endpoint.ends_with('.'))?,
        instance: None,
    })
}

/// Checks directives of `RUST_LOG`. `EnvFilter` takes a misspelt level for the name of a library, which silences the
/// service. Returns the directives that have no effect, or `None` if one is wrong or none is for the service.
pub(super) fn idle_directives(text: &str) -> Option<Vec<&str>> {
    EnvFilter::try_new(text).ok()?;
    let directives = text.split(',').map(str::trim);
    let (own, idle): (Vec<_>, Vec<_>) = directives
        .filter(|directive| !directive.is_empty())
        .partition(|directive| {
            let is_level = directive.parse::<LevelFilter>().is_ok();
            is_level || directive.starts_with(env!("CARGO_CRATE_NAME"))
        });
    let are_targets = idle.iter().all(|directive| directive.contains('='));
    (are_targets && !own.is_empty()).then_some(idle)
}
