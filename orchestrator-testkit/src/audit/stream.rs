//! A topic of the audit, and how far it has been read. Used by the auditor only.

use super::{AuditError, Client, Offsets, Seen, Tail};

/// A topic that is read pass after pass.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) topic: String,
    /// Where the audit of it begins.
    pub(super) begins: Offsets,
    next: Offsets,
    /// How far it is read in this pass.
    pub(super) to: Offsets,
    /// Below these offsets there may be records from before the start.
    pub(super) older_below: Offsets,
    tail: Tail,
}

impl Stream {
    pub(super) fn new(client: &Client, topic: &str, next: Offsets) -> Result<Self, AuditError> {
        Ok(Self {
            topic: topic.to_owned(),
            begins: next.clone(),
            next,
            to: Offsets::new(),
            older_below: Offsets::new(),
            tail: Tail::new(client, topic)?,
        })
    }

    pub(super) fn read(
        &mut self,
        show: impl FnMut(&Seen<'_>) -> Result<(), AuditError>,
    ) -> Result<(), AuditError> {
        self.tail.read(&mut self.next, &self.to, show)
    }
}

/// Whether it is below the offset of its partition.
pub(super) fn is_below(seen: &Seen<'_>, offsets: &Offsets) -> bool {
    let offset = offsets.get(&seen.partition);
    offset.is_some_and(|offset| seen.offset < *offset)
}
