//! Members of a group of the classic protocol, as the broker has them.
//!
//! Part of `Admin`. It describes the group and never joins it.

use std::collections::BTreeSet;

use super::{Admin, AdminError, CALL_DEADLINE, blocking, failed};

impl Admin {
    /// The client ids of a group's members once all of them agree on who reads what; none while they do not, and none
    /// of a group of the KIP-848 protocol.
    pub async fn stable_members(&self, group: &str) -> Result<BTreeSet<String>, AdminError> {
        let (admin, group) = (self.clone(), group.to_owned());
        blocking(move || {
            let list = admin
                .client
                .inner()
                .fetch_group_list(Some(&group), CALL_DEADLINE)
                .map_err(failed(format_args!("describe the group {group}")))?;
            let stable = list.groups().iter().filter(|g| g.state() == "Stable");
            let members = stable.flat_map(|group| group.members());
            Ok(members.map(|m| m.client_id().to_owned()).collect())
        })
        .await
    }
}
