//! The signals that end `--follow`, and its `/metrics`: a small runtime on a thread of its own, so that both answer
//! whatever the audit waits for. It must never end the process.

use std::future::pending;
use std::io;
use std::sync::PoisonError;
use std::thread;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use orchestrator_testkit::audit::{AuditError, Client};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::follow::Page;

/// Serves from now on, until the first signal.
pub(super) fn serve(address: Option<&str>, client: &Client, page: &Page) -> Result<(), AuditError> {
    let failed = |error: io::Error| AuditError::Endpoint {
        address: address.unwrap_or_default().to_owned(),
        reason: error.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    // Everything that may fail does so here, before the audit begins.
    let (listener, mut interrupt, mut terminate) = runtime
        .block_on(async {
            let listener = match address {
                Some(address) => Some(TcpListener::bind(address).await?),
                None => None,
            };
            let interrupt = signal(SignalKind::interrupt())?;
            Ok((listener, interrupt, signal(SignalKind::terminate())?))
        })
        .map_err(failed)?;
    if let Some(address) = listener.as_ref().and_then(|bound| bound.local_addr().ok()) {
        println!("metrics: http://{address}/metrics");
    }
    let (client, page) = (client.clone(), page.clone());
    thread::spawn(move || {
        runtime.block_on(async {
            let serve = async {
                match listener {
                    Some(listener) => {
                        if let Err(error) = axum::serve(listener, router(page)).await {
                            eprintln!("/metrics has ended: {error}");
                        }
                        pending().await
                    }
                    None => pending::<()>().await,
                }
            };
            tokio::select! {
                () = serve => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        client.stop();
    });
    Ok(())
}

fn router(page: Page) -> Router {
    let text = move || {
        let text = page.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::future::ready(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
    };
    Router::new().route("/metrics", get(text))
}
