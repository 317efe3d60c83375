//! Faults on request, for trying the runtime by hand and by tests: with `EXAMPLE_FAULTS=true` a record's `x-fault`
//! header says how its transform fails.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use orchestrator_runtime::core::{Context, DedupKey, TransformError};

static ENABLED: LazyLock<bool> =
    LazyLock::new(|| cfg!(test) || std::env::var("EXAMPLE_FAULTS").is_ok_and(|it| it == "true"));

/// When each record with an `infrastructure` fault was first seen.
static FIRST_SEEN: LazyLock<Mutex<HashMap<DedupKey, Instant>>> = LazyLock::new(Mutex::default);

/// Fails as the record's `x-fault` header asks for: `permanent`, `transient:N` (N times), `infrastructure:MS` (for so
/// long), `panic`, `hang:MS`, `exit` (aborts the process), `overflow` (of the stack), `exhaust` (of memory).
/// `oversize:BYTES` gives a text of that length.
pub(crate) fn inject(cx: &Context<'_>) -> Result<Option<String>, TransformError> {
    if !*ENABLED {
        return Ok(None);
    }
    let Some(fault) = cx.record().header("x-fault") else {
        return Ok(None);
    };
    let fault = String::from_utf8_lossy(fault);
    let (kind, argument) = fault.split_once(':').unwrap_or((&fault, ""));
    let number = || {
        let text = format!("x-fault: {fault} has no number");
        argument
            .parse::<u64>()
            .map_err(|_| TransformError::permanent(text))
    };
    match kind {
        "permanent" => Err(TransformError::permanent("x-fault: permanent")),
        "transient" if u64::from(cx.attempt()) <= number()? => Err(TransformError::transient(
            format!("x-fault: {fault}, attempt {}", cx.attempt()),
        )),
        "transient" => Ok(None),
        "infrastructure" => {
            let lasts = Duration::from_millis(number()?);
            let mut seen = FIRST_SEEN.lock().unwrap_or_else(PoisonError::into_inner);
            let first = *seen.entry(cx.dedup_key()).or_insert_with(Instant::now);
            if first.elapsed() < lasts {
                return Err(TransformError::infrastructure(format!("x-fault: {fault}")));
            }
            Ok(None)
        }
        "panic" => panic!("x-fault: panic"),
        "hang" => {
            sleep(Duration::from_millis(number()?));
            Ok(None)
        }
        "oversize" => Ok(Some("x".repeat(usize::try_from(number()?).unwrap_or(0)))),
        "exit" => std::process::abort(),
        "overflow" => Ok(Some(overflow(0).to_string())),
        "exhaust" => Ok(Some(exhaust())),
        _ => Err(TransformError::permanent(format!(
            "x-fault: {fault} is not known"
        ))),
    }
}

/// Calls itself until there is no more stack.
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    match depth {
        u64::MAX => 0,
        _ => overflow(depth + 1) + frame[1],
    }
}

/// Asks for more memory than there can be, of which no transformer is told: the process ends.
fn exhaust() -> String {
    black_box(String::with_capacity(1 << 60))
}
