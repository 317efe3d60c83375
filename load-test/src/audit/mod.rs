//! `load-test audit`: whether every record of a source is accounted for in the topics of a program, any program, once or
//! for as long as it runs. Reads the command line, and says what the test kit's auditor found; it judges nothing.
//! Exits with 1 if anything is wrong, with 2 if the audit cannot be made as it was asked for.

mod endpoint;
mod follow;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use orchestrator_testkit::audit::{
    AuditError, Auditor, Client, Identity, Kind, Ledger, Outputs, Scope, Start, Verdict,
    compare_metrics,
};

use crate::Property;

/// What is audited, and how.
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// Brokers to connect to, host:port[,host:port..]
    #[arg(long, env = "ORCH_BOOTSTRAP_SERVERS")]
    bootstrap_servers: String,
    /// The program's consumer group
    #[arg(long, env = "ORCH_GROUP_ID")]
    group_id: String,
    /// Topics that the program reads (repeatable, or with commas)
    #[arg(
        long,
        env = "ORCH_SOURCE_TOPICS",
        required = true,
        value_delimiter = ','
    )]
    source_topic: Vec<String>,
    /// Topics that the program writes, without dead letters (repeatable, or with commas)
    #[arg(
        long,
        env = "ORCH_TARGET_TOPIC",
        required = true,
        value_delimiter = ','
    )]
    target_topic: Vec<String>,
    /// Where its dead letters go; {topic} stands for each source topic (repeatable, or with commas). Failures must be
    /// there then
    #[arg(long, env = "ORCH_DLQ_TOPIC", value_delimiter = ',')]
    dlq_topic: Vec<String>,
    /// The URL of its failure ledger, as in ORCH_DB_URL, if it has one; never shown
    #[arg(long, env = "ORCH_DB_URL", hide_env_values = true)]
    ledger_url: Option<String>,
    /// The ledger's table, as in ORCH_ERROR_TABLE
    #[arg(long, env = "ORCH_ERROR_TABLE", default_value = "event_failures")]
    ledger_table: String,
    /// By what a record is known, in the source and in its outputs, unique to each source record: key, value,
    /// header:NAME, json:/pointer (RFC 6901), prefix:SEP (the value up to the first SEP), or dedup-key (needs
    /// ORCH_OUTPUT_DEDUP_HEADER=true and nothing of the source). Orders of this harness: json:/order_id
    #[arg(long)]
    id: Identity,
    /// By what it is known in its outputs, if that is elsewhere
    #[arg(long)]
    output_id: Option<Identity>,
    /// How many outputs a record has: a number, or the least and the most, as in 0..3; 0 is for records that are
    /// filtered
    #[arg(long, default_value = "1")]
    outputs: Outputs,
    /// A record may also have none: one whose outputs were lost is taken for filtered then
    #[arg(long)]
    may_filter: bool,
    /// Where the audit begins: beginning (nothing may have been deleted), committed (with the group's offsets as they
    /// are now), or source offsets, as in orders:0:1200,orders:1:980
    #[arg(long, default_value = "beginning")]
    from: Start,
    /// A librdkafka setting, key=value, for TLS and SASL say (repeatable); never shown
    #[arg(short = 'X', long = "property")]
    property: Vec<Property>,
    /// How long the cluster may take for anything: an answer, the end of a transaction, a row of a ledger that lags
    #[arg(long, default_value_t = 90)]
    patience_seconds: u64,
    /// Compare the counters of the program, http://host:port/metrics, with what is there (repeatable: one for each
    /// process). Only makes sense where these processes have done all that is audited, were never restarted, and are
    /// idle now
    #[arg(long, conflicts_with = "follow")]
    metrics_url: Vec<String>,
    /// Go on until SIGINT or SIGTERM, pass after pass
    #[arg(long)]
    follow: bool,
    /// Seconds from one line of --follow to the next
    #[arg(long, default_value_t = 10, requires = "follow")]
    interval_seconds: u64,
    /// Serve /metrics of --follow here, host:port: orch_audit_violations_total and what was counted
    #[arg(long, requires = "follow")]
    http_addr: Option<String>,
    /// Settled records that --follow remembers, about 100 bytes each: a copy that comes after so many others is told
    /// as of a record that nobody sent
    #[arg(long, default_value_t = 1_000_000, requires = "follow")]
    remember: usize,
}

/// What was given may hold secrets.
impl std::fmt::Debug for AuditArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditArgs").finish_non_exhaustive()
    }
}

pub(crate) fn run(args: &AuditArgs) -> ExitCode {
    let verdict = scope(args).and_then(|scope| {
        if args.follow {
            follow::follow(args, scope)
        } else {
            once(args, scope)
        }
    });
    match verdict {
        Ok(verdict) => tell(&verdict),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

fn scope(args: &AuditArgs) -> Result<Scope, AuditError> {
    let client =
        Client::new(&args.bootstrap_servers).patience(Duration::from_secs(args.patience_seconds));
    let client = args.property.iter().fold(client, |client, set| {
        client.property(set.key.clone(), set.value.clone())
    });
    let outputs = if args.may_filter {
        args.outputs.or_none()
    } else {
        args.outputs
    };
    let url = args.ledger_url.as_ref().filter(|url| !url.is_empty());
    let ledger = url.map(|url| Ledger::new(url, &args.ledger_table));
    Ok(Scope {
        client,
        group: args.group_id.clone(),
        sources: args.source_topic.clone(),
        targets: args.target_topic.clone(),
        dead_letters: dead_letters(&args.dlq_topic, &args.source_topic),
        ledger: ledger.transpose()?,
        source_id: args.id.clone(),
        output_id: args.output_id.clone().unwrap_or_else(|| args.id.clone()),
        outputs,
        start: args.from.clone(),
        // One pass settles everything at its end.
        remembered: if args.follow { args.remember } else { 0 },
    })
}

/// Each once, though several sources may share one.
fn dead_letters(templates: &[String], sources: &[String]) -> Vec<String> {
    let of_template = |template: &String| {
        let topic = |source: &String| template.replace("{topic}", source);
        sources.iter().map(topic).collect::<Vec<_>>()
    };
    let named = templates.iter().filter(|template| !template.is_empty());
    let mut topics: Vec<String> = named.flat_map(of_template).collect();
    topics.sort();
    topics.dedup();
    topics
}

fn once(args: &AuditArgs, scope: Scope) -> Result<Verdict, AuditError> {
    println!("auditing {} ..", args.group_id);
    let client = scope.client.clone();
    let mut auditor = Auditor::new(scope)?;
    let pass = auditor.last_pass()?;
    if !args.metrics_url.is_empty() {
        let differences = if pass.lag == 0 {
            let counts = auditor.counts();
            compare_metrics(&client, &args.metrics_url, &args.group_id, &counts)?
        } else {
            vec![format!("not compared: {} offsets behind", pass.lag)]
        };
        for difference in differences {
            auditor.add(Kind::Metrics, || difference);
        }
    }
    if pass.lag > 0 {
        println!(
            "the group is {} offsets behind the end of its sources",
            pass.lag
        );
    }
    Ok(auditor.verdict())
}

fn tell(verdict: &Verdict) -> ExitCode {
    println!("{}", verdict.counts);
    for finding in &verdict.findings {
        println!("WRONG: {finding}");
    }
    if !verdict.is_clean() {
        return ExitCode::FAILURE;
    }
    println!("every record that was passed is accounted for, exactly once and in order");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::error::ErrorKind;

    use super::{AuditArgs, dead_letters, scope};

    fn parse(more: &[&str]) -> Result<AuditArgs, clap::Error> {
        let least = "audit --bootstrap-servers h:1 --group-id g --source-topic s --target-topic t";
        let words = least.split(' ').chain(more.iter().copied());
        crate::parsed(words)
    }

    #[test]
    fn what_is_malformed_is_named_with_the_remedy() {
        for (more, said) in [
            (&[][..], "--id"),
            (&["--id", "keys"], "give key, value"),
            (&["--id", "key", "--outputs", "3..1"], "as in 0..3"),
            (&["--id", "key", "--from", "end"], "as in orders:0:1200"),
            (&["--id", "key", "--http-addr", "h:1"], "--follow"),
            (
                &["--id", "key", "-X", "sasl.password"],
                "expected key=value",
            ),
        ] {
            let error = parse(more).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
        let error = parse(&["--help"]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secrets = ["-X", "sasl.password=secret", "--ledger-url"];
        for url in ["secret", "postgres://u:secret@h/x"] {
            let given = secrets.into_iter().chain([url, "--id", "key"]);
            let args = parse(&given.collect::<Vec<_>>()).unwrap();
            let scope = scope(&args);
            assert!(
                !format!("{args:?} {scope:?}").contains("secret"),
                "{scope:?}"
            );
            assert_eq!(scope.is_err(), url == "secret");
        }
    }

    #[test]
    fn a_template_names_a_queue_for_each_source() {
        let all = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let sources = all(&["a", "b"]);
        let own = dead_letters(&all(&["{topic}.dlq"]), &sources);
        assert_eq!(own, ["a.dlq", "b.dlq"]);
        assert_eq!(dead_letters(&all(&["dlq"]), &sources), ["dlq"]);
        assert_eq!(dead_letters(&all(&[""]), &sources), [""; 0]);
    }
}
