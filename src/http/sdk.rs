//! Makes the AWS SDK's calls with the client that makes all other calls: one TLS stack, and one set of rules for
//! connections.

use std::panic::AssertUnwindSafe;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use futures_util::FutureExt;
use reqwest::{Body, Request};

use super::HttpClient as OurClient;

/// The HTTP client of the SDK's clients.
#[derive(Clone, Debug)]
pub struct SdkHttp(OurClient);

impl SdkHttp {
    /// The limits of `client` apply to the SDK's calls, too.
    pub fn new(client: OurClient) -> Self {
        Self(client)
    }
}

impl HttpClient for SdkHttp {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for SdkHttp {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let answer = client
                .execute(as_reqwest(request)?)
                .await
                .map_err(no_answer)?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = client.body(answer).await;
            let body = body.map_err(|error| ConnectorError::io(error.into()))?;
            let mut answer = http::Response::new(SdkBody::from(body));
            *answer.status_mut() = status;
            *answer.headers_mut() = headers;
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::user(error.into()))
        })
    }
}

const PANICKED: &str =
    "the AWS SDK panicked; check the credentials for characters that an HTTP header cannot contain";

/// The result of a call of the SDK, which panics over credentials with a character that an HTTP header cannot contain.
/// The error is text for the log.
pub fn caught<R>(
    call: impl Future<Output = R> + Send,
) -> impl Future<Output = Result<R, &'static str>> + Send {
    // Boxed, since the SDK's futures take many kilobytes.
    let call = AssertUnwindSafe(Box::pin(call)).catch_unwind();
    call.map(|result| result.map_err(|_| PANICKED))
}

fn as_reqwest(request: HttpRequest) -> Result<Request, ConnectorError> {
    let request = request
        .try_into_http1x()
        .map_err(|error| ConnectorError::user(error.into()))?;
    let (head, body) = request.into_parts();
    let body = body
        .bytes()
        .ok_or_else(|| ConnectorError::user("the SDK tried to stream a body".into()))?;
    let request = http::Request::from_parts(head, Body::from(body.to_vec()));
    Request::try_from(request).map_err(|error| ConnectorError::user(error.without_url().into()))
}

fn no_answer(error: reqwest::Error) -> ConnectorError {
    let error = error.without_url();
    if error.is_builder() {
        ConnectorError::user(error.into())
    } else if error.is_timeout() && !error.is_connect() {
        ConnectorError::timeout(error.into())
    } else {
        ConnectorError::io(error.into())
    }
}
