//! `metrics`: measurements of plugins. Needs no grant, but names must be declared in the manifest.

use wasmtime::component::Resource;

use super::super::attempt::AttemptState;
use super::super::bindings::stepwell::plugin::metrics::{self, HostError, Label};
use super::super::call::CapturedMetric;
use super::super::resources::Timer;
use crate::monitor::MetricSource;

enum Measurement {
    Count(u64),
    Gauge(f64),
    Value(f64),
    Timer { micros: f64, stopped: bool },
}

impl metrics::Host for AttemptState {
    fn count(
        &mut self,
        name: String,
        delta: u64,
        labels: Vec<Label>,
    ) -> wasmtime::Result<Result<(), HostError>> {
        self.charge()?;
        Ok(self.measure(name, &Measurement::Count(delta), labels))
    }

    fn gauge(
        &mut self,
        name: String,
        value: f64,
        labels: Vec<Label>,
    ) -> wasmtime::Result<Result<(), HostError>> {
        self.charge()?;
        Ok(self.measure(name, &Measurement::Gauge(value), labels))
    }

    fn record_value(
        &mut self,
        name: String,
        value: f64,
        labels: Vec<Label>,
    ) -> wasmtime::Result<Result<(), HostError>> {
        self.charge()?;
        Ok(self.measure(name, &Measurement::Value(value), labels))
    }
}

impl metrics::HostTimer for AttemptState {
    fn new(&mut self, operation: String) -> wasmtime::Result<Resource<Timer>> {
        self.charge()?;
        let started = self.services.clock.monotonic();
        Ok(self.resources.push(Timer { operation, started })?)
    }

    fn stop(&mut self, timer: Resource<Timer>) -> wasmtime::Result<Result<(), HostError>> {
        self.charge()?;
        let timer = self.resources.delete(timer)?;
        Ok(self.measure_timer(timer, true))
    }

    fn drop(&mut self, timer: Resource<Timer>) -> wasmtime::Result<()> {
        let timer = self.resources.delete(timer)?;
        // A destructor cannot return the error that the name is undeclared.
        let _ = self.measure_timer(timer, false);
        Ok(())
    }
}

impl AttemptState {
    fn measure_timer(&self, timer: Timer, stopped: bool) -> Result<(), HostError> {
        let elapsed = self
            .services
            .clock
            .monotonic()
            .duration_since(timer.started);
        let micros = elapsed.as_secs_f64() * 1e6;
        self.measure(
            timer.operation,
            &Measurement::Timer { micros, stopped },
            Vec::new(),
        )
    }

    fn measure(
        &self,
        name: String,
        measurement: &Measurement,
        labels: Vec<Label>,
    ) -> Result<(), HostError> {
        let Some(call) = &self.call else {
            return Err(HostError::Denied(
                "describe must not use metrics".to_owned(),
            ));
        };
        if !call.plugin.manifest.metrics.contains(&name) {
            let shown: String = name.chars().take(63).flat_map(char::escape_debug).collect();
            return Err(HostError::Invalid(format!(
                "the manifest does not declare the metric '{shown}'"
            )));
        }
        let labels: Vec<_> = labels
            .into_iter()
            .map(|label| (label.name, label.value))
            .collect();
        let source = MetricSource {
            team: call.team.clone(),
            plugin: call.plugin.label(),
        };
        let monitor = &self.services.monitor;
        let (kind, value, recorded) = match *measurement {
            #[expect(clippy::cast_precision_loss, reason = "only shown to a person")]
            Measurement::Count(delta) => (
                "count",
                delta as f64,
                monitor.plugin_count(&source, &name, delta, &labels),
            ),
            Measurement::Gauge(value) => (
                "gauge",
                value,
                monitor.plugin_gauge(&source, &name, value, &labels),
            ),
            Measurement::Value(value) => (
                "record",
                value,
                monitor.plugin_record(&source, &name, value, &labels),
            ),
            Measurement::Timer {
                micros,
                stopped: true,
            } => (
                "timer",
                micros,
                monitor.plugin_record(&source, &name, micros, &labels),
            ),
            Measurement::Timer {
                micros,
                stopped: false,
            } => (
                "timer-error",
                micros,
                monitor.plugin_timer_dropped(&source, &name),
            ),
        };
        recorded.map_err(|error| HostError::Invalid(error.to_string()))?;
        if let Some(capture) = &call.capture {
            capture.lock().metrics.push(CapturedMetric {
                kind,
                name,
                value,
                labels,
            });
        }
        Ok(())
    }
}
