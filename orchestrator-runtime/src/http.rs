//! The operator's HTTP surface: `/livez`, `/readyz`, `/health`, `/metrics`, as a `Router` to mount anywhere and as a
//! small server for `main`. Reads health and metrics, changes nothing; takes no request body.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use thiserror::Error;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio_util::sync::CancellationToken;

use crate::health::{self, Health, Verdict};
use crate::metrics::PrometheusHandle;

/// How long answers under way may take once the server is told to stop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const NO_RECORDER: &str = "no metrics here: this process brings its own recorder, and the orch_* metrics are \
    where that one shows them; or hand the router a PrometheusHandle\n";

/// Why the HTTP server does not serve.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr} (ORCH_HTTP_ADDR): {source}; give another address, or port 0 for a free one"
    )]
    Bind {
        /// The address asked for.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// Accepting connections failed for good.
    #[error("the HTTP server on {addr} (ORCH_HTTP_ADDR) failed: {source}")]
    Serve {
        /// The address it listened on.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// The routes of one pipeline. Without a `PrometheusHandle`, which only the owner of the recorder has, `/metrics`
/// answers 404 and says where to look. An application with several pipelines nests one router for each.
pub fn router(health: Health, metrics: Option<PrometheusHandle>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(report))
        .with_state(health)
        .route("/metrics", get(render).with_state(metrics))
        .layer(from_fn(bare_get))
}

/// A server that has its address already, so that a taken one is found before anything is read.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    addr: SocketAddr,
}

impl HttpServer {
    /// Listens on `addr`.
    ///
    /// # Errors
    /// When the address is no address of this host, taken, or forbidden.
    pub async fn bind(addr: impl ToSocketAddrs + Display) -> Result<Self, HttpError> {
        let asked = addr.to_string();
        let failed = |source| HttpError::Bind {
            addr: asked.clone(),
            source,
        };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// The address it listens on, with the port the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves `router` until `stop`, and then for at most a second what is under way.
    ///
    /// # Errors
    /// When the system refuses to serve on; a failed connection is none.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> Result<(), HttpError> {
        let addr = self.addr;
        let told = stop.clone();
        let server = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { told.cancelled().await });
        let patience_ends = async {
            stop.cancelled().await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            served = server.into_future() => served.map_err(|source| HttpError::Serve { addr, source }),
            () = patience_ends => Ok(()),
        }
    }
}

/// Listens on `addr` and serves `router` until `stop`.
///
/// # Errors
/// See [`HttpServer::bind`] and [`HttpServer::serve`].
pub async fn serve(
    addr: impl ToSocketAddrs + Display,
    router: Router,
    stop: CancellationToken,
) -> Result<(), HttpError> {
    HttpServer::bind(addr).await?.serve(router, stop).await
}

async fn livez(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    let verdict = health::livez(&health.snapshot(), now());
    probe("livez", &verdict, is_verbose(query.as_deref()))
}

async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    let verdict = health::readyz(&health.snapshot());
    probe("readyz", &verdict, is_verbose(query.as_deref()))
}

async fn report(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    let (ok, report) = health::health(&health.snapshot(), now(), is_verbose(query.as_deref()));
    (status(ok), Json(report)).into_response()
}

async fn render(State(metrics): State<Option<PrometheusHandle>>) -> Response {
    match metrics {
        Some(handle) => ([(CONTENT_TYPE, PROMETHEUS_TEXT)], handle.render()).into_response(),
        None => (StatusCode::NOT_FOUND, NO_RECORDER).into_response(),
    }
}

/// Only GET and HEAD, and nothing in the body: there is nothing here to send to. Answers are of the moment.
async fn bare_get(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [("allow", "GET, HEAD")]).into_response();
    }
    let headers = request.headers();
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|it| it == "0");
    if !empty || headers.contains_key(TRANSFER_ENCODING) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let mut response = next.run(request).await;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// As Kubernetes' own components answer: what is wrong, or, asked for more, everything that was looked at.
fn probe(name: &str, verdict: &Verdict, verbose: bool) -> Response {
    let ok = verdict.ok();
    let mut text = String::new();
    for check in verdict.checks.iter().filter(|it| verbose || !it.ok) {
        let sign = if check.ok { '+' } else { '-' };
        text.push_str(&format!("[{sign}]{}: {}\n", check.name, check.detail));
    }
    text.push_str(&match (ok, verbose) {
        (true, false) => "ok\n".to_owned(),
        (true, true) => format!("{name} check passed\n"),
        (false, _) => format!("{name} check failed\n"),
    });
    (status(ok), text).into_response()
}

fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn is_verbose(query: Option<&str>) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.any(|pair| matches!(pair, "verbose" | "verbose=" | "verbose=1" | "verbose=true"))
}

/// The runtime's clock, which is the one the worker reports with.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
