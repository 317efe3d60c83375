//! `orchestrator_runtime::main`: a whole program around one transformer. The only place with process-wide effects:
//! arguments, logging, the metrics recorder, the HTTP server, signals, the exit code.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use orchestrator_core::Transformer;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::HttpServer;
use crate::orchestrator::{Drained, Orchestrator, RunError};
use crate::telemetry;
use crate::worker::settings::Counts;

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
    std::process::exit(i32::from(code))
}

async fn run<T: Transformer>(transformer: T) -> u8 {
    let config = match told() {
        Ok(config) => *config,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::init_logging(config.ops.log_format) {
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
    let http_addr = config.ops.http_addr;
    let built = Orchestrator::builder(config)
        .transformer(transformer)
        .prometheus(prometheus)
        .build();
    let orchestrator = match built {
        Ok(orchestrator) => orchestrator,
        Err(error) => {
            tracing::error!(%error, "the configuration can never work");
            return CONFIGURATION;
        }
    };
    let stop_http = CancellationToken::new();
    let serving = match http_addr {
        None => None,
        Some(addr) => match HttpServer::bind(addr).await {
            Ok(server) => {
                tracing::info!(addr = %server.local_addr(), "serving /livez /readyz /health /metrics");
                let router = orchestrator.handle().router();
                Some(tokio::spawn(server.serve(router, stop_http.clone())))
            }
            Err(error) => {
                tracing::error!(%error, "the HTTP server cannot be started");
                return CONFIGURATION;
            }
        },
    };
    let drain = CancellationToken::new();
    drain_on_signals(drain.clone());
    let result = orchestrator.run(drain).await;
    stop_http.cancel();
    if let Some(serving) = serving {
        match serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the HTTP server failed"),
            Err(error) => tracing::warn!(%error, "the HTTP server failed"),
        }
    }
    last_words(result)
}

/// The configuration, or the exit code of a program that is not to run.
fn told() -> Result<Box<Config>, u8> {
    let config = Config::from_env();
    let argument = std::env::args().nth(1);
    let print = match argument.as_deref() {
        None => false,
        Some("--print-config" | "print-config") => true,
        Some("--help" | "-h") => {
            print!("{HELP}");
            return Err(0);
        }
        Some(other) => {
            eprintln!("unknown argument {other}\n\n{HELP}");
            return Err(CONFIGURATION);
        }
    };
    match config {
        Err(errors) => {
            eprintln!("{errors}");
            Err(CONFIGURATION)
        }
        Ok(config) if print => {
            print!("{}", config.print());
            Err(0)
        }
        Ok(config) => Ok(Box::new(config)),
    }
}

/// The last log line, which says why it ended and what was done; and the exit code.
fn last_words(result: Result<Drained, RunError>) -> u8 {
    let drained = match &result {
        Ok(drained) => *drained,
        Err(error) => error.drained(),
    };
    let Counts {
        ok,
        outputs,
        failed,
        dead_letters,
    } = drained.counts;
    let held_partitions = drained.held_partitions;
    let (code, action, said) = match result {
        Ok(Drained {
            timed_out: false, ..
        }) => (0, "drained", "drained".to_owned()),
        Ok(_) => {
            let said =
                "the drain took too long: what was under way is left (ORCH_DRAIN_TIMEOUT_MS)";
            (FAILURE, "drain-timed-out", said.to_owned())
        }
        Err(error) => {
            let (code, action) = match error {
                RunError::StoppedOnPoison { .. } => (POISON, "stopped-on-poison"),
                RunError::Fenced { .. } => (FENCED, "fenced"),
                _ => (FAILURE, "failed"),
            };
            (code, action, error.to_string())
        }
    };
    // tracing's level is part of the call.
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                event.action = action,
                exit_code = code,
                ok,
                outputs,
                failed,
                dead_letters,
                held_partitions,
                "{said}"
            )
        };
    }
    if code == 0 {
        say!(info)
    } else {
        say!(error)
    }
    code
}

/// So soon after the first signal another one is the same: `timeout` and some supervisors signal the process and then
/// its whole group.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

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
        let mut first = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match first {
                None => {
                    first = Some(Instant::now());
                    tracing::info!("draining; a second signal ends the process at once");
                    drain.cancel();
                }
                Some(at) if at.elapsed() < SAME_SIGNAL => {}
                Some(_) => {
                    tracing::warn!("second signal: ending at once");
                    std::process::exit(i32::from(FAILURE));
                }
            }
        }
    });
}
