//! `orchestrator_runtime::main`: a whole program around one transformer. The only place with process-wide effects:
//! arguments, logging, the metrics recorder, the HTTP server, signals, the exit code.

use std::process::ExitCode;

use orchestrator_core::Transformer;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LogFormat};
use crate::http::HttpServer;
use crate::orchestrator::{Orchestrator, RunError};
use crate::telemetry;

/// Ended with a failure.
const FAILURE: u8 = 1;
/// The configuration is wrong; nothing was opened.
const CONFIGURATION: u8 = 2;
/// Stopped on poison.
const POISON: u8 = 3;
/// Fenced by a twin.
const FENCED: u8 = 4;

const HELP: &str = "\
Reads records from Kafka, transforms them and writes the results back, exactly once.
Everything is configured by environment variables.

  --print-config  print the effective configuration, secrets masked, and exit
  --help          print this and exit
";

/// Runs a transformer as a program: configuration from the environment, logs on standard output, health and metrics
/// over HTTP, a drain on the first SIGTERM or SIGINT and an immediate end on the second.
///
/// Gives the exit code: 0 drained, 1 failure, 2 configuration, 3 stopped on poison, 4 fenced by a twin.
pub async fn main<T: Transformer>(transformer: T) -> ExitCode {
    let code = run(transformer).await;
    // A synchronous transform that hangs would keep its thread, and so the process, for ever.
    if code != 0 {
        std::process::exit(i32::from(code));
    }
    std::process::exit(0)
}

async fn run<T: Transformer>(transformer: T) -> u8 {
    let config = Config::from_env();
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--help" | "-h") => {
            print!("{HELP}");
            return 0;
        }
        Some("--print-config" | "print-config") => {
            return match config {
                Ok(config) => {
                    print!("{}", config.print());
                    0
                }
                Err(errors) => {
                    eprintln!("{errors}");
                    CONFIGURATION
                }
            };
        }
        Some(other) => {
            eprintln!("unknown argument {other}\n\n{HELP}");
            return CONFIGURATION;
        }
    }
    let config = match config {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return CONFIGURATION;
        }
    };
    let format = match config.ops.log_format {
        LogFormat::Json => telemetry::LogFormat::Json,
        LogFormat::Pretty => telemetry::LogFormat::Pretty,
    };
    if let Err(error) = telemetry::init_logging(format) {
        eprintln!("{error}");
        return CONFIGURATION;
    }
    let prometheus = match crate::metrics::install_recorder() {
        Ok(prometheus) => prometheus,
        Err(error) => {
            tracing::error!(%error, "the metrics recorder cannot be installed");
            return FAILURE;
        }
    };
    let http = match config.ops.http_addr {
        None => None,
        Some(addr) => match HttpServer::bind(addr).await {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::error!(%error, "the HTTP server cannot be started");
                return CONFIGURATION;
            }
        },
    };
    let drain = CancellationToken::new();
    let stop_http = CancellationToken::new();
    let orchestrator = Orchestrator::builder(config)
        .transformer(transformer)
        .prometheus(prometheus)
        .build();
    let serving = http.map(|server| {
        tracing::info!(addr = %server.local_addr(), "serving /livez /readyz /health /metrics");
        tokio::spawn(server.serve(orchestrator.handle().router(), stop_http.clone()))
    });
    drain_on_signals(drain.clone());
    let result = orchestrator.run(drain).await;
    stop_http.cancel();
    if let Some(serving) = serving
        && let Err(error) = serving.await
    {
        tracing::warn!(%error, "the HTTP server failed");
    }
    match result {
        Ok(drained) => {
            let counts = drained.counts;
            tracing::info!(
                ok = counts.ok,
                outputs = counts.outputs,
                failed = counts.failed,
                dead_letters = counts.dead_letters,
                held_partitions = drained.held_partitions,
                "{}",
                if drained.timed_out {
                    "drain timed out (ORCH_DRAIN_TIMEOUT_MS)"
                } else {
                    "drained"
                },
            );
            if drained.timed_out { FAILURE } else { 0 }
        }
        Err(error) => {
            tracing::error!(%error, "ended");
            match error {
                RunError::StoppedOnPoison { .. } => POISON,
                RunError::Fenced { .. } => FENCED,
                _ => FAILURE,
            }
        }
    }
}

/// The first signal drains, the second ends the process at once.
fn drain_on_signals(drain: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let signals =
        signal(SignalKind::terminate()).and_then(|t| Ok((t, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "signals cannot be watched: no graceful drain");
            return;
        }
    };
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!("draining; a second signal ends the process at once");
                drain.cancel();
            } else {
                tracing::warn!("second signal: ending at once");
                std::process::exit(i32::from(FAILURE));
            }
        }
    });
}
