//! A proxy in front of a broker that understands just enough of Kafka's protocol to tell one request from another: it
//! cuts, holds or loses those that it is told to, or their answers, and counts where it did.
//!
//! ```no_run
//! use orchestrator_testkit::kafka::KafkaOptions;
//! use orchestrator_testkit::proxy::{Api, Fault, Plan, Proxy};
//!
//! let (kafka, proxy) = Proxy::start(KafkaOptions::new())?;
//! // What is told the proxy's address knows of no other; the kit's own clients take the broker's.
//! println!("{} behind {}", kafka.bootstrap_servers(), proxy.bootstrap_servers());
//! let cuts = proxy.inflict(Plan::new(Api::EndTxn, Fault::CutAnswer).every(20).times(3));
//! // ...
//! assert_eq!(cuts.bitten(), 3);
//! # Ok::<(), orchestrator_testkit::kafka::KafkaError>(())
//! ```
//!
//! It must never change a byte that it passes on, but for the brokers that it is told to leave out.

mod connection;
mod frame;
mod plans;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::kafka::{Kafka, KafkaError, KafkaOptions};

use plans::Plans;
pub use plans::{Api, Bites, Fault, Plan};

/// After a connection could not be taken.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A proxy; it cuts all connections when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    plans: Arc<Plans>,
    bootstrap: String,
    /// Its own, so that it goes on whatever a test's runtime is busy with.
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Starts a broker in a JVM of ours that has two addresses, one of them the proxy's, and the proxy.
    pub fn start(options: KafkaOptions) -> Result<(Kafka, Self), KafkaError> {
        // Not by the runtime: this may be called on a thread of another one.
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(KafkaError::io("find a port for the proxy"))?;
        let address = listener
            .local_addr()
            .map_err(KafkaError::io("find the proxy's port"))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .map_err(KafkaError::io("start the proxy's runtime"))?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)
                .map_err(KafkaError::io("listen for the proxy"))?
        };
        let (kafka, upstream) = Kafka::start_behind(options, address.port())?;
        let plans = Arc::new(Plans::default());
        runtime.spawn(accept(listener, upstream, plans.clone()));
        let proxy = Self {
            plans,
            bootstrap: address.to_string(),
            runtime: Some(runtime),
        };
        Ok((kafka, proxy))
    }

    /// What clients that are to go through it connect to.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// Follows a plan from now on, beside those that it follows already; a request that several plans want is the
    /// oldest one's.
    pub fn inflict(&self, plan: Plan) -> Bites {
        self.plans.add(plan)
    }

    /// Follows no plan any more. What is held already stays held until its time.
    pub fn relent(&self) {
        self.plans.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, upstream: SocketAddr, plans: Arc<Plans>) {
    loop {
        // Out of descriptors, or a client that was gone before it was here: the next may do better.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            continue;
        };
        tokio::spawn(connection::serve(client, upstream, plans.clone()));
    }
}
