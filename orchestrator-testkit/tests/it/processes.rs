//! Programs under test: output, signals, ends.

use std::time::Duration;

use orchestrator_testkit::process::{ProcessError, Program, Signal, Stream};
use orchestrator_testkit::wait;
use orchestrator_testkit::wall_clock::WallClock;

const TEN: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").arg("-c").arg(script)
}

#[tokio::test]
async fn output_environment_and_exit_code_arrive() {
    let program = shell("echo $GREETING; echo oops >&2; echo ${ORCH_LEFT:-none}; exit 3");
    let process = program.env("GREETING", "hello").start().unwrap();
    assert_eq!(process.wait(TEN).await.unwrap().code(), Some(3));
    let lines = process.lines();
    let of = |stream| {
        let mine = lines.iter().filter(|l| l.stream == stream);
        mine.map(|l| l.text.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(Stream::Stdout), ["hello", "none"]);
    assert_eq!(of(Stream::Stderr), ["oops"]);
    let late = process.signal(Signal::Term).unwrap_err();
    assert!(matches!(late, ProcessError::Ended { .. }), "{late}");
}

#[tokio::test]
async fn a_signal_is_handled_by_the_program() {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let process = shell(script).start().unwrap();
    process
        .wait_for_line(TEN, |line| line == "ready")
        .await
        .unwrap();
    process.signal(Signal::Stop).unwrap();
    process.signal(Signal::Term).unwrap();
    let mark = process.line_count();
    let still = process
        .wait_for_line_after(mark, Duration::from_millis(200), |_| true)
        .await;
    assert!(
        matches!(still, Err(ProcessError::Deadline { .. })),
        "a stopped process went on"
    );
    process.signal(Signal::Cont).unwrap();
    process
        .wait_for_line_after(mark, TEN, |line| line == "bye")
        .await
        .unwrap();
    assert_eq!(process.wait(TEN).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_wait_for_a_line_ends_with_the_process_and_shows_what_it_said() {
    let process = shell("echo last words; exit 1").start().unwrap();
    let error = process
        .wait_for_line(TEN, |line| line == "ready")
        .await
        .unwrap_err();
    assert!(matches!(error, ProcessError::Ended { .. }));
    assert!(error.to_string().contains("last words"), "{error}");
}

#[tokio::test]
async fn killed_by_kill_and_by_drop() {
    let process = shell("exec sleep 60").start().unwrap();
    process.kill().await.unwrap();

    let process = shell("exec sleep 60").start().unwrap();
    let pid = process.pid().to_string();
    drop(process);
    let gone = async || {
        let found = std::process::Command::new("kill")
            .args(["-0", &pid])
            .output();
        !found.unwrap().status.success()
    };
    wait::until("the process is gone", TEN, gone).await.unwrap();
}

#[tokio::test]
async fn a_clock_is_stepped_while_a_program_runs() {
    let script = "while :; do date +%s; sleep 0.05; done";
    let clock = WallClock::new().unwrap();
    let process = clock.of(shell(script)).start().unwrap();
    let seconds = |line: &str| line.parse::<i64>().unwrap();
    let right = process.wait_for_line(TEN, |_| true).await.unwrap();
    for step in [7_200, -86_400, 0] {
        let before = clock.times_read().unwrap();
        let mark = process.line_count();
        clock.step_to(step).unwrap();
        let off = |line: &str| (seconds(line) - seconds(&right) - step).abs() < 60;
        let off = process.wait_for_line_after(mark, TEN, off).await;
        off.unwrap();
        assert!(clock.times_read().unwrap() > before);
    }
}
