//! The topics and the group of one demo: names that nobody else uses. Called by `mod.rs`.

use orchestrator_testkit::admin::{Admin, AdminError, fresh};

pub(super) const PARTITIONS: i32 = 4;

/// The names.
#[derive(Clone)]
pub(super) struct Topics {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) dlq: String,
    pub(super) group: String,
}

impl Topics {
    pub(super) fn fresh() -> Self {
        let source = fresh("demo-orders");
        Self {
            target: format!("{source}.enriched"),
            dlq: format!("{source}.dlq"),
            group: source.replace("orders", "group"),
            source,
        }
    }

    pub(super) async fn create(&self, admin: &Admin) -> Result<(), AdminError> {
        for topic in self.all() {
            admin.create_topic(topic, PARTITIONS, &[]).await?;
        }
        Ok(())
    }

    /// On a broker that stays: takes back what was created.
    pub(super) async fn delete(&self, admin: &Admin) {
        let mut failures = Vec::new();
        for topic in self.all() {
            failures.extend(admin.delete_topic(topic).await.err());
        }
        failures.extend(admin.delete_group(&self.group).await.err());
        for failure in failures {
            eprintln!("{failure}");
        }
    }

    fn all(&self) -> [&str; 3] {
        [&self.source, &self.target, &self.dlq]
    }
}
