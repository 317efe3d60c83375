//! How handles are made: registered with the current recorder, labelled with their pipeline. Called by the structs of
//! handles next door, once a pipeline; it must never be called per record.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, SharedString, with_recorder,
};

use super::names::{self, Kind, Metric, PIPELINE};

static METADATA: Metadata<'static> = Metadata::new("orch", Level::INFO, Some(module_path!()));

/// A metric with one label whose values come up as they happen. Rare things only: a lock is taken each time.
pub(super) struct Family<H> {
    metric: Metric,
    pipeline: SharedString,
    register: fn(&Metric, &SharedString, &[String]) -> H,
    known: Mutex<BTreeMap<&'static str, H>>,
}

impl<H: Clone> Family<H> {
    pub(super) fn new(
        metric: &Metric,
        pipeline: &SharedString,
        register: fn(&Metric, &SharedString, &[String]) -> H,
    ) -> Self {
        Self {
            metric: *metric,
            pipeline: pipeline.clone(),
            register,
            known: Mutex::default(),
        }
    }

    pub(super) fn of(&self, value: &'static str) -> H {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .entry(value)
            .or_insert_with(|| (self.register)(&self.metric, &self.pipeline, &[value.to_owned()]))
            .clone()
    }
}

impl<H> std::fmt::Debug for Family<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.metric.name)
    }
}

/// Tells the current recorder what each metric means, those of the ledger too.
pub(super) fn describe() {
    with_recorder(|recorder| {
        for metric in names::ALL {
            let name = KeyName::from_const_str(metric.name);
            match metric.kind {
                Kind::Counter => {
                    recorder.describe_counter(name, Some(metric.unit), metric.help.into());
                }
                Kind::Gauge => {
                    recorder.describe_gauge(name, Some(metric.unit), metric.help.into());
                }
                Kind::Histogram(_) => {
                    recorder.describe_histogram(name, Some(metric.unit), metric.help.into());
                }
            }
        }
    });
}

fn key(metric: &Metric, pipeline: &SharedString, values: &[String]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let mut labels = vec![Label::new(PIPELINE, pipeline.clone())];
    for (label, value) in metric.labels.iter().zip(values) {
        labels.push(Label::new(*label, value.clone()));
    }
    Key::from_parts(metric.name, labels)
}

pub(super) fn register_counter(
    metric: &Metric,
    pipeline: &SharedString,
    values: &[String],
) -> Counter {
    with_recorder(|recorder| recorder.register_counter(&key(metric, pipeline, values), &METADATA))
}

pub(super) fn register_gauge(metric: &Metric, pipeline: &SharedString, values: &[String]) -> Gauge {
    with_recorder(|recorder| recorder.register_gauge(&key(metric, pipeline, values), &METADATA))
}

pub(super) fn register_histogram(
    metric: &Metric,
    pipeline: &SharedString,
    values: &[String],
) -> Histogram {
    with_recorder(|recorder| recorder.register_histogram(&key(metric, pipeline, values), &METADATA))
}
