//! One metric of each kind, as the client library writes it.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;

use crate::error::Reason;

/// Writes metrics with the prefix of this program. The library appends `_total` to counters.
pub(super) struct Out<'e>(pub(super) DescriptorEncoder<'e>);

impl Out<'_> {
    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let name = named(name);
        let mut metric = self.begin(&name, help, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub(super) fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let name = named(name);
        let mut metric = self.begin(&name, help, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// All reasons, also those that have not occurred: a series that is not there cannot be seen to grow.
    pub(super) fn by_reason(
        &mut self,
        name: &str,
        help: &str,
        count: impl Fn(Reason) -> u64,
    ) -> fmt::Result {
        let name = named(name);
        let mut metric = self.begin(&name, help, MetricType::Counter)?;
        for reason in Reason::ALL {
            let labels = [("reason", reason.code())];
            let mut series = metric.encode_family(&labels)?;
            series.encode_counter::<NoLabelSet, _, f64>(&count(reason), None)?;
        }
        Ok(())
    }

    /// `None` is not known now: there is no sample.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: Option<u64>) -> fmt::Result {
        self.foreign(&named(name), help, value.map(|value| value as f64))
    }

    /// The same under a name that all programs have.
    pub(super) fn foreign(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let mut metric = self.begin(name, help, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        histogram: &Histogram,
    ) -> fmt::Result {
        let name = named(name);
        let metric = self.begin(&name, help, MetricType::Histogram)?;
        histogram.encode(metric)
    }

    pub(super) fn build_info(&mut self) -> fmt::Result {
        let name = named("build_info");
        let mut metric = self.begin(&name, "The version of the program", MetricType::Gauge)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        metric.encode_family(&labels)?.encode_gauge(&1u64)
    }
}

fn named(name: &str) -> String {
    format!("backfiller_{name}")
}
