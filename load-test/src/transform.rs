//! `load-test transform`: a pipeline whose transformer costs what is asked for, to see what the runtime makes of it. It
//! copies records. Configured by ORCH_ variables, as every program of the runtime; run by `compare` and `sweep`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use orchestrator_runtime::core::{Output, Record, TransformError, transform_async_fn, transform_fn};

/// What a record costs.
#[derive(Args, Debug)]
pub(crate) struct TransformArgs {
    /// Microseconds of CPU
    #[arg(long, default_value_t = 0)]
    cpu_us: u64,
    /// Milliseconds of waiting, as for another service; the transformer is asynchronous then
    #[arg(long)]
    wait_ms: Option<u64>,
}

pub(crate) fn run(args: &TransformArgs) -> Result<ExitCode> {
    let cpu = Duration::from_micros(args.cpu_us);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        match args.wait_ms.map(Duration::from_millis) {
            None => {
                let transformer = transform_fn(move |record: &Record, _| copy(record, cpu));
                orchestrator_runtime::main(transformer).await
            }
            Some(wait) => {
                let transformer = transform_async_fn(move |record: Record, _| async move {
                    tokio::time::sleep(wait).await;
                    copy(&record, cpu)
                });
                orchestrator_runtime::main(transformer).await
            }
        }
    }))
}

fn copy(record: &Record, cpu: Duration) -> Result<Output, TransformError> {
    burn(cpu);
    Ok(Output::new(record.value().unwrap_or_default().to_vec()))
}

/// Keeps a core busy for so long.
pub(crate) fn burn(cpu: Duration) {
    let until = Instant::now() + cpu;
    while !cpu.is_zero() && Instant::now() < until {
        std::hint::spin_loop();
    }
}
