//! How far the app has come, as readers of its topics see it: a bar on a terminal, else a line a second. Called by
//! `mod.rs`; ends when every order has become an output or a dead letter.

use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use orchestrator_testkit::reader::{Follower, Isolation, ReadError, Until};

use super::PATIENCE;
use super::app::App;
use super::topics::Topics;

const LINE_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So many are taken between two looks at the clock.
const CHUNK: usize = 5_000;

pub(super) async fn follow(
    bootstrap: &str,
    topics: &Topics,
    expected: u64,
    app: &mut App,
) -> anyhow::Result<()> {
    let bar = bar(expected);
    let both = [topics.target.as_str(), topics.dlq.as_str()];
    let mut follower = Follower::new(bootstrap, &both, Isolation::Committed);
    let (mut enriched, mut letters) = (0_u64, 0_u64);
    let (mut told, mut moved) = (Instant::now(), Instant::now());
    while enriched + letters < expected {
        let missing = usize::try_from(expected - enriched - letters).unwrap_or(CHUNK);
        let read = match follower
            .read(Until::Count(missing.min(CHUNK)), LOOK_EVERY)
            .await
        {
            Ok(read) | Err(ReadError::Deadline { read, .. }) => read,
            Err(error) => return Err(error.into()),
        };
        let dead = read.iter().filter(|r| *r.topic == *topics.dlq).count();
        letters += dead as u64;
        enriched += (read.len() - dead) as u64;
        if !read.is_empty() {
            moved = Instant::now();
        } else if moved.elapsed() > PATIENCE {
            let so_far = format!("{enriched} enriched, {letters} dead-lettered of {expected}");
            bail!(app.failed(&format!("no progress within {PATIENCE:?}: {so_far}")));
        }
        app.must_run()?;
        bar.set_position(enriched + letters);
        if bar.is_hidden() && told.elapsed() >= LINE_EVERY {
            told = Instant::now();
            println!("  {enriched} enriched, {letters} dead-lettered of {expected}");
        }
    }
    bar.finish_and_clear();
    println!("  all {expected}: {enriched} enriched, {letters} dead-lettered");
    Ok(())
}

/// Hidden where there is no terminal.
fn bar(expected: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("  {bar:40} {human_pos} of {human_len}, {elapsed}");
    let bar = ProgressBar::new(expected);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
