//! Accepts requests only under names that no one else can own, and a browser's forms only from this page.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const HEADERS: [(HeaderName, &str); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
];

/// Refuses requests that may come from another site's page, and adds security headers.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = if !is_own_host(request.headers()) {
        refuse(
            "Open this page at localhost or at an IP address. It does not answer to other names.",
        )
    } else if request.method() == Method::POST && !is_same_origin(request.headers()) {
        refuse("This form came from another site, so nothing was changed.")
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refuse(reason: &'static str) -> Response {
    (StatusCode::FORBIDDEN, reason).into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The owner of another name could make it point to this machine. Their page would then pass for this one (DNS
/// rebinding).
fn is_own_host(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, &HOST) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

/// Every current browser says where a form comes from. A request that does not is not from a browser.
fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = text(headers, &FETCH_SITE) {
        return matches!(site, "same-origin" | "none");
    }
    match (headers.get(ORIGIN), text(headers, &HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.as_bytes() == format!("http://{host}").as_bytes(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_this_machines_own_names_are_answered() {
        for host in [
            "localhost:8095",
            "LOCALHOST",
            "127.0.0.1:8095",
            "[::1]:8095",
            "[::1]",
            "192.168.0.7:8095",
        ] {
            assert!(is_own_host(&headers(&[(HOST, host)])), "{host}");
        }
        for host in [
            "rebound.example:8095",
            "localhost.example",
            "127.0.0.1.example:80",
            "",
        ] {
            assert!(!is_own_host(&headers(&[(HOST, host)])), "{host}");
        }
        assert!(!is_own_host(&HeaderMap::new()));
    }

    #[test]
    fn forms_of_other_origins_are_refused() {
        let host = (HOST, "localhost:8095");
        for own in [
            vec![host.clone()],
            vec![host.clone(), (FETCH_SITE, "same-origin")],
            vec![host.clone(), (FETCH_SITE, "none")],
            vec![host.clone(), (ORIGIN, "http://localhost:8095")],
        ] {
            assert!(is_same_origin(&headers(&own)), "{own:?}");
        }
        for others in [
            vec![
                host.clone(),
                (FETCH_SITE, "cross-site"),
                (ORIGIN, "http://localhost:8095"),
            ],
            vec![host.clone(), (FETCH_SITE, "same-site")],
            vec![host.clone(), (ORIGIN, "http://localhost:8096")],
            vec![host.clone(), (ORIGIN, "null")],
        ] {
            assert!(!is_same_origin(&headers(&others)), "{others:?}");
        }
    }
}
