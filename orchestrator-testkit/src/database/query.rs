//! One connection, one text of SQL, and the answer as text.
//!
//! Called by `mod.rs`. It goes by the drivers of sqlx, so that no client program is needed, and blocks
//! on a thread of its own, so that it may be called from within an async test.

use std::future::Future;
use std::io;
use std::time::Duration;

use sqlx::{
    AssertSqlSafe, ColumnIndex, Connection, Database, Decode, Executor, MySql, Postgres, Row,
};

use super::engine::Engine;

/// The rows, one a line, the values of each separated by `|`, as `psql -At` would print them.
pub(super) fn query(
    engine: Engine,
    url: &str,
    text: &str,
    deadline: Duration,
) -> Result<String, sqlx::Error> {
    let answer = block_on(async {
        let answer = async {
            match engine {
                Engine::Postgres => rows::<Postgres>(url, text).await,
                Engine::MariaDb => rows::<MySql>(url, text).await,
            }
        };
        tokio::time::timeout(deadline, answer).await
    })?;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

async fn rows<DB: Database>(url: &str, text: &str) -> Result<String, sqlx::Error>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'r> Option<String>: Decode<'r, DB>,
    usize: ColumnIndex<DB::Row>,
{
    let mut connection = DB::Connection::connect(url).await?;
    let rows = sqlx::raw_sql(AssertSqlSafe(text))
        .fetch_all(&mut connection)
        .await?;
    let lines: Result<Vec<String>, sqlx::Error> = rows.iter().map(line).collect();
    connection.close().await?;
    Ok(lines?.join("\n"))
}

fn line<R: Row>(row: &R) -> Result<String, sqlx::Error>
where
    for<'r> Option<String>: Decode<'r, R::Database>,
    usize: ColumnIndex<R>,
{
    // Both servers answer such a query in text, whatever the type, so the type is not looked at.
    let values: Result<Vec<String>, sqlx::Error> = (0..row.len())
        .map(|i| {
            let value: Option<String> = row.try_get_unchecked(i)?;
            Ok(value.unwrap_or_default())
        })
        .collect();
    Ok(values?.join("|"))
}

/// Runs a future on a thread that is nobody's runtime.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(future))
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
