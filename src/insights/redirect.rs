//! Which redirects telemetry follows. It holds CRNs, so it never leaves the site that the connection string names.

use reqwest::Url;
use reqwest::redirect::Policy;

const MOST_HOPS: usize = 3;
/// A parent domain with fewer labels may be shared by strangers.
const FEWEST_LABELS_OF_A_SITE: usize = 3;

/// Follows redirects that keep method and body, within one site.
pub(super) fn within_the_site() -> Policy {
    Policy::custom(|attempt| {
        let keeps_body = matches!(attempt.status().as_u16(), 307 | 308);
        let hops = attempt.previous();
        let is_on_site = hops
            .first()
            .is_some_and(|start| is_same_site(start, attempt.url()));
        if keeps_body && is_on_site && hops.len() <= MOST_HOPS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

/// The same host or a sibling of it, and never from https to http.
fn is_same_site(from: &Url, to: &Url) -> bool {
    let is_as_safe = to.scheme() == "https" || to.scheme() == from.scheme();
    let is_sibling = parent(from).is_some() && parent(from) == parent(to);
    is_as_safe && (from.host() == to.host() || is_sibling)
}

fn parent(url: &Url) -> Option<&str> {
    let (_, parent) = url.domain()?.split_once('.')?;
    (parent.split('.').count() >= FEWEST_LABELS_OF_A_SITE).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_a_host_and_its_siblings() {
        let start = "https://dc.services.visualstudio.com/v2/track";
        let cases = [
            (start, "https://dc.services.visualstudio.com/other", true),
            (start, "https://x.services.visualstudio.com/v2/track", true),
            (start, "https://x.services.visualstudio.com:8443/", true),
            (start, "http://dc.services.visualstudio.com/v2/track", false),
            (start, "http://x.services.visualstudio.com/v2/track", false),
            (start, "https://services.visualstudio.com/", false),
            (start, "https://a.b.services.visualstudio.com/", false),
            (
                start,
                "https://dc.services.visualstudio.com.example.com/",
                false,
            ),
            (start, "https://dcservices.visualstudio.com/", false),
            (
                start,
                "https://dc.services.visualstudio.com@example.com/",
                false,
            ),
            (start, "https://10.0.0.1/", false),
            ("https://a.example.com/", "https://a.example.com/b", true),
            ("https://a.example.com/", "https://b.example.com/", false),
            ("http://localhost:1/", "http://localhost:2/", true),
            ("http://localhost:1/", "https://localhost/", true),
            ("http://localhost/", "http://127.0.0.1/", false),
            ("http://127.0.0.1:1/", "http://127.0.0.1:2/", true),
            ("http://127.0.0.1/", "http://127.0.0.2/", false),
            ("http://10.1.2.3/", "http://9.1.2.3/", false),
            ("http://[::1]:1/", "http://[::1]:2/", true),
            ("http://[::1]/", "http://[::2]/", false),
        ];
        for (from, to, expected) in cases {
            let [start, target] = [from, to].map(|url| Url::parse(url).unwrap());
            assert_eq!(is_same_site(&start, &target), expected, "{from} → {to}");
        }
    }
}
