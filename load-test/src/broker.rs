//! The broker that a command works on: the one that is named, or one of our own that ends with the command. Called by
//! the commands; on their topics see `topics`.

use anyhow::Result;
use clap::Args;
use orchestrator_testkit::kafka::{Kafka, KafkaOptions};

/// Which broker.
#[derive(Args, Clone, Debug)]
pub(crate) struct BrokerArgs {
    /// Brokers to connect to, host:port[,host:port..]; without them a broker is started for this run
    #[arg(long, env = "ORCH_BOOTSTRAP_SERVERS")]
    pub(crate) bootstrap_servers: Option<String>,
}

/// A broker that answers.
pub(crate) struct Broker {
    pub(crate) servers: String,
    /// The process of a broker of ours, to see what it costs.
    pub(crate) pid: Option<u32>,
    /// Ends when this is dropped.
    _own: Option<Kafka>,
}

impl Broker {
    pub(crate) fn get(args: &BrokerArgs) -> Result<Self> {
        if let Some(servers) = &args.bootstrap_servers {
            return Ok(Self {
                servers: servers.clone(),
                pid: None,
                _own: None,
            });
        }
        println!("starting a Kafka broker ..");
        // As a broker in production has it: the JIT warms up for longer, and is then faster.
        let kafka = Kafka::start(KafkaOptions::new().own().full_jit())?;
        Ok(Self {
            servers: kafka.bootstrap_servers().to_owned(),
            pid: kafka.pid(),
            _own: Some(kafka),
        })
    }
}
