//! Reads topics and ledger, pass after pass, and tells the book. Called by `audit` and by whoever follows a program.
//!
//! A pass asks in an order that leaves no race between what is read and what is judged:
//!
//! 1. The committed offsets. Whatever came of the records below is in the log by now.
//! 2. The ends of targets and dead-letter queues: all of that is below them.
//! 3. It waits until no transaction is open below those ends: now it can be read, or never will.
//! 4. The sources, as far as they can be read: all records that anything below the ends can have come of.
//! 5. Targets and dead-letter queues, exactly up to those ends.
//! 6. The committed offsets again, waiting for transactions under way: nothing that was read may be beyond.
//! 7. The ledger; where something is missing, as often as patience allows, for rows may be late.
//!
//! Then every record below the first offsets is judged and forgotten.

use std::collections::BTreeSet;
use std::time::Instant;

use super::book::Book;
use super::letter::Origin;
use super::stream::{Stream, is_below};
use super::{AuditError, Cluster, Counts, Kind, Offsets, Rows, Scope, Start, Verdict};
use crate::reader::Isolation;

/// An audit under way.
#[derive(Debug)]
pub struct Auditor {
    scope: Scope,
    cluster: Cluster,
    sources: Vec<Stream>,
    targets: Vec<Stream>,
    letters: Vec<Stream>,
    book: Book,
    has_begun: bool,
    /// Places of which it was told already that a transaction is left open there, or that the end comes before.
    told: BTreeSet<(String, i32, i64)>,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pass {
    /// Offsets of the sources that the group had not passed.
    pub lag: u64,
    /// Whether everything that was passed could be judged: not so while a transaction is left open.
    pub judged: bool,
}

impl Auditor {
    /// Looks up where everything begins.
    ///
    /// # Errors
    /// Topics that are missing, or that do not hold any more what is to be audited; a cluster that does not answer.
    pub fn new(scope: Scope) -> Result<Self, AuditError> {
        let cluster = Cluster::new(&scope.client, &scope.group)?;
        // Before the committed offsets are asked for: what came of later records lies behind.
        let outlet = |topic: &String| -> Result<Stream, AuditError> {
            let next = match scope.start {
                Start::Committed => cluster.ends(topic, Isolation::Committed)?,
                _ => cluster.begins(topic)?,
            };
            if scope.start == Start::Beginning {
                nothing_is_gone(topic, &next)?;
            }
            Stream::new(&scope.client, topic, next)
        };
        let targets = scope.targets.iter().map(outlet).collect::<Result<_, _>>()?;
        let letters = scope.dead_letters.iter().map(outlet);
        let letters = letters.collect::<Result<_, _>>()?;
        let mut book = Book::new(&scope);
        let mut sources = Vec::new();
        for topic in &scope.sources {
            let mut next = cluster.begins(topic)?;
            match &scope.start {
                Start::Beginning => nothing_is_gone(topic, &next)?,
                Start::Committed => next.extend(cluster.committed(topic, Isolation::Committed)?),
                Start::Offsets(given) => {
                    for (partition, next) in &mut next {
                        let from = given.get(&(topic.clone(), *partition));
                        *next = from.map_or(*next, |from| *from.max(next));
                    }
                }
            }
            for (partition, start) in &next {
                book.open(topic, *partition, *start);
            }
            sources.push(Stream::new(&scope.client, topic, next)?);
        }
        Ok(Self {
            scope,
            cluster,
            sources,
            targets,
            letters,
            book,
            has_begun: false,
            told: BTreeSet::new(),
        })
    }

    /// One pass over what is new since the last. While a transaction is left open nothing is read, so that nothing
    /// gathers in memory.
    ///
    /// # Errors
    /// A pass that fails can be repeated, unless the error [is the caller's](AuditError::is_usage).
    pub fn pass(&mut self) -> Result<Pass, AuditError> {
        self.look(false)
    }

    /// The last pass, or the only one: even what a transaction that is left open lets one read is looked at, but not
    /// judged to be missing.
    ///
    /// # Errors
    /// As [`Auditor::pass`].
    pub fn last_pass(&mut self) -> Result<Pass, AuditError> {
        self.look(true)
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.book.counts()
    }

    /// How many violations of this kind there are so far.
    pub fn violations(&self, kind: Kind) -> u64 {
        self.book.findings.count(kind.what())
    }

    /// What was found so far.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            counts: self.book.counts(),
            findings: self.book.findings.clone().into_vec(),
        }
    }

    /// A finding of a caller who knows more than the topics.
    pub fn add(&mut self, kind: Kind, example: impl FnOnce() -> String) {
        self.book.find(kind, example);
    }

    fn look(&mut self, even_if_open: bool) -> Result<Pass, AuditError> {
        let committed = self.committed(Isolation::Uncommitted)?;
        let all_decided = self.bound_outlets()?;
        let lag = self.bound_sources(&committed)?;
        if all_decided || even_if_open {
            self.read(&committed)?;
        }
        if all_decided {
            self.read_ledger()?;
            self.book.settle();
        }
        Ok(Pass {
            lag,
            judged: all_decided,
        })
    }

    fn committed(&self, isolation: Isolation) -> Result<Vec<Offsets>, AuditError> {
        let topics = self.scope.sources.iter();
        topics
            .map(|topic| self.cluster.committed(topic, isolation))
            .collect()
    }

    /// Sets how far targets and dead-letter queues are read, and waits until they can be; false if they cannot.
    fn bound_outlets(&mut self) -> Result<bool, AuditError> {
        let begins = !self.has_begun && self.book.is_partial();
        for stream in self.targets.iter_mut().chain(&mut self.letters) {
            stream.to = self.cluster.ends(&stream.topic, Isolation::Uncommitted)?;
            if begins {
                stream.older_below.clone_from(&stream.to);
            }
        }
        self.has_begun = true;
        let asked = Instant::now();
        let mut all_decided = true;
        for stream in self.targets.iter_mut().chain(&mut self.letters) {
            loop {
                let stable = self.cluster.ends(&stream.topic, Isolation::Committed)?;
                let open = |(partition, to): (&i32, &i64)| {
                    let stable = stable.get(partition).copied().unwrap_or(0);
                    (stable < *to).then_some((*partition, stable))
                };
                let open: Vec<(i32, i64)> = stream.to.iter().filter_map(open).collect();
                if open.is_empty() {
                    break;
                }
                if asked.elapsed() < self.scope.client.patience {
                    self.scope.client.pause()?;
                    continue;
                }
                all_decided = false;
                for (partition, stable) in open {
                    stream.to.insert(partition, stable);
                    if self.told.insert((stream.topic.clone(), partition, stable)) {
                        let at = format!("{}:{partition}:{stable}", stream.topic);
                        self.book.find(Kind::OpenTransaction, || at);
                    }
                }
                break;
            }
        }
        Ok(all_decided)
    }

    /// Sets how far sources are read, and says how much of that the group has not passed.
    fn bound_sources(&mut self, committed: &[Offsets]) -> Result<u64, AuditError> {
        let mut lag = 0;
        for (stream, committed) in self.sources.iter_mut().zip(committed) {
            stream.to = self.cluster.ends(&stream.topic, Isolation::Committed)?;
            for (partition, end) in &stream.to {
                self.book.open(&stream.topic, *partition, 0);
                let begins = stream.begins.get(partition).unwrap_or(&0);
                let passed = *committed.get(partition).unwrap_or(begins);
                lag += u64::try_from(end - passed).unwrap_or(0);
                let place = (stream.topic.clone(), *partition, passed);
                if passed > *end && self.told.insert(place) {
                    let at = format!("{}:{partition}:{passed}, the end is {end}", stream.topic);
                    self.book.find(Kind::Outside, || at);
                }
            }
            self.book.passed(&stream.topic, committed);
        }
        Ok(lag)
    }

    fn read(&mut self, committed: &[Offsets]) -> Result<(), AuditError> {
        let (book, scope) = (&mut self.book, &self.scope);
        debug_assert_eq!(committed.len(), self.sources.len());
        for stream in &mut self.sources {
            stream.read(|seen| book.sent(seen, scope.source_id.of(seen)))?;
        }
        for stream in &mut self.targets {
            let older = stream.older_below.clone();
            stream.read(|seen| {
                book.output(seen, scope.output_id.of(seen), is_below(seen, &older));
                Ok(())
            })?;
        }
        for stream in &mut self.letters {
            stream.read(|seen| {
                match Origin::of(seen) {
                    None => book.find(Kind::BadLetter, || seen.to_string()),
                    Some(origin) if origin.group.is_some_and(|group| group != scope.group) => {
                        book.foreign_letter();
                    }
                    Some(origin) => book.letter(seen, &origin),
                }
                Ok(())
            })?;
        }
        for (topic, committed) in scope
            .sources
            .iter()
            .zip(self.committed(Isolation::Committed)?)
        {
            self.book.not_beyond(topic, &committed);
        }
        Ok(())
    }

    fn read_ledger(&mut self) -> Result<(), AuditError> {
        let Some(ledger) = &self.scope.ledger else {
            return Ok(());
        };
        let asked = Instant::now();
        loop {
            for topic in &self.scope.sources {
                let unsettled = self.book.unsettled(topic);
                if unsettled.is_empty() {
                    continue;
                }
                let rows = Rows::Failed(&unsettled);
                ledger.read(&self.scope.group, topic, rows, |partition, offset, row| {
                    self.book.row(topic, partition, offset, row.passed);
                })?;
            }
            if !self.book.misses_something() || asked.elapsed() >= self.scope.client.patience {
                return Ok(());
            }
            self.scope.client.pause()?;
        }
    }
}

/// What is not there any more can neither be lost nor found.
fn nothing_is_gone(topic: &str, begins: &Offsets) -> Result<(), AuditError> {
    match begins.iter().find(|(_, begins)| **begins > 0) {
        None => Ok(()),
        Some((partition, begins)) => Err(AuditError::Truncated {
            topic: topic.to_owned(),
            partition: *partition,
            begins: *begins,
        }),
    }
}
