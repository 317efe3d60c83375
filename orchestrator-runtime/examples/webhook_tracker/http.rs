//! The least HTTP client that can post JSON: one request a connection, in the clear. In earnest it would be a client
//! with TLS and connections that are kept.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest first line of an answer.
const LINE_MAX_BYTES: u64 = 1024;

/// Where to post, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `host:port`.
    address: String,
    path: String,
    timeout: Duration,
}

impl Webhook {
    /// The webhook at `http://host:port/path`.
    ///
    /// # Errors
    /// Another kind of URL.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, String> {
        let rest = url.strip_prefix("http://");
        let rest = rest.ok_or("the webhook's URL must begin with http://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = match host.contains(':') {
            true => host.to_owned(),
            false => format!("{host}:80"),
        };
        Ok(Self {
            address,
            path: format!("/{path}"),
            timeout,
        })
    }

    /// Posts `body` within the time-out.
    ///
    /// # Errors
    /// Anything but an answer that begins with 2.
    pub async fn post(&self, body: &Value) -> io::Result<()> {
        let posted = timeout(self.timeout, self.exchange(body.to_string())).await;
        let status = posted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        match status.split(' ').nth(1) {
            Some(code) if code.len() == 3 && code.starts_with('2') => Ok(()),
            _ => Err(io::Error::other(format!("it answers {status:?}"))),
        }
    }

    /// One request; the first line of the answer.
    async fn exchange(&self, body: String) -> io::Result<String> {
        let Self { address, path, .. } = self;
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        let mut answer = BufReader::new(stream.take(LINE_MAX_BYTES));
        answer.read_line(&mut line).await?;
        Ok(line.trim_end().to_owned())
    }
}
