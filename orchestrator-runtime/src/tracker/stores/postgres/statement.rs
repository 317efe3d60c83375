//! A statement with what is bound to it, and its answer. Made by `statements.rs`, run by the store.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Error, Executor, PgConnection, Postgres, Type,
};

/// See the module.
pub(super) struct Statement {
    sql: Arc<str>,
    arguments: PgArguments,
}

/// What the server says to a statement.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<PgRow>,
    pub(super) affected: u64,
}

impl Statement {
    pub(super) fn new(sql: &Arc<str>) -> Self {
        Self {
            sql: Arc::clone(sql),
            arguments: PgArguments::default(),
        }
    }

    pub(super) fn bind<'v, T>(mut self, value: T) -> Result<Self, Error>
    where
        T: Encode<'v, Postgres> + Type<Postgres>,
    {
        self.arguments.add(value).map_err(Error::Encode)?;
        Ok(self)
    }

    pub(super) async fn run(self, connection: &mut PgConnection) -> Result<Answer, Error> {
        let query = sqlx::query_with(AssertSqlSafe(self.sql), self.arguments);
        let mut found = connection.fetch_many(query);
        let mut answer = Answer::default();
        while let Some(one) = found.try_next().await? {
            match one {
                Either::Left(done) => answer.affected += done.rows_affected(),
                Either::Right(row) => answer.rows.push(row),
            }
        }
        Ok(answer)
    }
}
