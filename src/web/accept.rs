//! Which content type a request prefers: the Accept header of RFC 9110, section 12.5.1.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// Whether a request prefers `other` to `usual`, which is for callers without a preference.
pub fn prefers(headers: &HeaderMap, other: &str, usual: &str) -> bool {
    weight(headers, other) > weight(headers, usual)
}

/// The quality of a content type, then how exactly the request names it. The most exact range decides.
fn weight(headers: &HeaderMap, content_type: &str) -> (f32, usize) {
    let kind = content_type.split('/').next().unwrap_or_default();
    let ranges = ["*/*", &format!("{kind}/*"), content_type];
    let named = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| {
            let (range, parameters) = range.split_once(';').unwrap_or((range, ""));
            let is_this = |known: &&str| known.eq_ignore_ascii_case(range.trim());
            let exactness = ranges.iter().position(is_this)?;
            Some((exactness, quality(parameters)))
        })
        .max_by_key(|(exactness, _)| *exactness);
    match named {
        Some((exactness, quality)) if quality > 0.0 => (quality, exactness),
        _ => (0.0, 0),
    }
}

/// 1 if it is missing, 0 if it is unreadable.
fn quality(parameters: &str) -> f32 {
    let mut parameters = parameters
        .split(';')
        .filter_map(|text| text.split_once('='));
    let given = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    let value = given.map_or(Ok(1.0), |(_, value)| value.trim().parse());
    value
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_decides_first_and_then_the_more_exact_range() {
        for (accept, is_preferred) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["text/html, */*;q=0.8"], false),
            (&["a/other"], true),
            (&["A/Other ; version=1 ; Q=0.5"], true),
            (&["a/other;q=0"], false),
            (&["a/other;q=0.0", "a/usual;q=0"], false),
            (&["a/other;q=0.5, a/usual;q=0.3, */*;q=0.1"], true),
            (&["a/other;q=0.3, a/usual;q=0.5"], false),
            (&["a/other", "a/usual;q=0.5"], true),
            (&["a/other, a/usual"], false),
            (&["a/other, */*"], true),
            (&["a/other, a/*"], true),
            (&["a/*, a/usual;q=0.1"], true),
            (&["b/*, a/usual"], false),
            (&["*/*, a/other;q=0"], false),
            (&["a/other;q=high", "a/other;q=2", "a/other;q=NaN"], false),
            (&["other", "", ";;", "*"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            let preferred = prefers(&headers, "a/other", "a/usual");
            assert_eq!(preferred, is_preferred, "{accept:?}");
        }
    }
}
