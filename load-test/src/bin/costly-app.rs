//! A pipeline that copies records, each at a cost that is asked for, to see what the runtime makes of it. Configured by
//! ORCH_ variables, `COST_CPU_US` (microseconds of CPU) and `COST_WAIT_MS` (milliseconds of waiting, as for another
//! service; the transformer is asynchronous then). Run by `load-test sweep` and `compare`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use orchestrator_runtime::core::{
    Output, Record, TransformError, transform_async_fn, transform_fn,
};

#[tokio::main]
async fn main() -> ExitCode {
    let (Ok(cpu), Ok(wait)) = (number("COST_CPU_US"), number("COST_WAIT_MS")) else {
        eprintln!("COST_CPU_US and COST_WAIT_MS are numbers");
        return ExitCode::from(2);
    };
    let cpu = Duration::from_micros(cpu);
    if wait == 0 {
        let transformer = transform_fn(move |record: &Record, _| copy(record, cpu));
        return orchestrator_runtime::main(transformer).await;
    }
    let transformer = transform_async_fn(move |record: Record, _| async move {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        copy(&record, cpu)
    });
    orchestrator_runtime::main(transformer).await
}

fn number(key: &str) -> Result<u64, std::num::ParseIntError> {
    std::env::var(key).map_or(Ok(0), |text| text.parse())
}

fn copy(record: &Record, cpu: Duration) -> Result<Output, TransformError> {
    let until = Instant::now() + cpu;
    while !cpu.is_zero() && Instant::now() < until {
        std::hint::spin_loop();
    }
    Ok(Output::new(record.value().unwrap_or_default().to_vec()))
}
