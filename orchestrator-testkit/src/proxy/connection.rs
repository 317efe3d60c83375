//! One client's connection: frames go to and fro, and meet their faults.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::sleep;

use super::frame::Frame;
use super::plans::{Decided, Fault, Plans};

/// What answers are to meet, by the numbers of their requests.
type Awaited = Mutex<HashMap<i32, Decided>>;

/// Serves until either side ends, or a fault does.
pub(super) async fn serve(client: TcpStream, upstream: SocketAddr, plans: Arc<Plans>) {
    let Ok(broker) = TcpStream::connect(upstream).await else {
        // As if it were the broker that refuses.
        return;
    };
    // Small frames must not wait for each other; without it the proxy is only slower.
    for stream in [&client, &broker] {
        stream.set_nodelay(true).ok();
    }
    let awaited = Awaited::default();
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    // Whichever ends drops the other, and so both connections are cut.
    let ended = tokio::select! {
        ended = requests(from_client, to_broker, upstream, &plans, &awaited) => ended,
        ended = answers(from_broker, to_client, &awaited) => ended,
    };
    // How it ended is the clients' to tell.
    drop(ended);
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    upstream: SocketAddr,
    plans: &Plans,
    awaited: &Awaited,
) -> io::Result<()> {
    loop {
        let frame = Frame::read(&mut from).await?;
        if let Some(decided) = frame.api_key().and_then(|key| plans.decide(key)) {
            match decided.fault {
                Fault::CutRequest => {
                    decided.done();
                    return Err(cut());
                }
                Fault::LateRequest(late) => {
                    tokio::spawn(deliver_late(frame, upstream, late, decided));
                    return Err(cut());
                }
                Fault::LoseRequest => {
                    decided.done();
                    continue;
                }
                Fault::HoldRequest(time) => {
                    decided.done();
                    sleep(time).await;
                }
                Fault::CutAnswer
                | Fault::LoseAnswer
                | Fault::HoldAnswer(_)
                | Fault::NameNoBroker => {
                    if let Some(number) = frame.number() {
                        let mut awaited = awaited.lock().unwrap_or_else(PoisonError::into_inner);
                        awaited.insert(number, decided);
                    }
                }
            }
        }
        to.write_all(frame.bytes()).await?;
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    awaited: &Awaited,
) -> io::Result<()> {
    loop {
        let mut frame = Frame::read(&mut from).await?;
        let decided = frame.answers().and_then(|number| {
            let mut awaited = awaited.lock().unwrap_or_else(PoisonError::into_inner);
            awaited.remove(&number)
        });
        if let Some(decided) = decided {
            let fault = decided.fault;
            if fault == Fault::NameNoBroker {
                let Some(emptied) = frame.without_brokers() else {
                    // No such answer: void.
                    to.write_all(frame.bytes()).await?;
                    continue;
                };
                frame = emptied;
            }
            decided.done();
            match fault {
                Fault::CutAnswer => return Err(cut()),
                Fault::LoseAnswer => continue,
                Fault::HoldAnswer(time) => sleep(time).await,
                // Done to requests.
                Fault::CutRequest
                | Fault::LoseRequest
                | Fault::HoldRequest(_)
                | Fault::LateRequest(_)
                // Done to the frame.
                | Fault::NameNoBroker => {}
            }
        }
        to.write_all(frame.bytes()).await?;
    }
}

/// Brings a request to the broker after its client has given up on the connection. It counts once it was answered.
async fn deliver_late(frame: Frame, upstream: SocketAddr, late: Duration, decided: Decided) {
    sleep(late).await;
    let delivered = async {
        let mut broker = TcpStream::connect(upstream).await?;
        broker.write_all(frame.bytes()).await?;
        Frame::read(&mut broker).await
    };
    if delivered.await.is_ok() {
        decided.done();
    }
}

fn cut() -> io::Error {
    ErrorKind::ConnectionAborted.into()
}
