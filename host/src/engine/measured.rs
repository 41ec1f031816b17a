//! The metrics that an attempt is recorded under: its plugin's step over all versions, its plugin
//! version, and that version's step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use uuid::Uuid;

use crate::model::Name;
use crate::model::plugin::PluginVersion;
use crate::monitor::{Monitor, Operation};

/// Most steps whose operations are cached. Beyond that the cache is emptied; a lookup costs three
/// formatted names.
const STEPS_MAX: usize = 4_096;

/// A cache of the operations of plugin steps, so that an attempt formats no names.
#[derive(Default)]
pub(super) struct StepOperations(RwLock<HashMap<Uuid, HashMap<Name, Arc<StepMeasurements>>>>);

/// The operations of one step of one plugin version.
pub(super) struct StepMeasurements([Operation; 3]);

impl StepOperations {
    pub(super) fn of(
        &self,
        team: &Name,
        plugin: &PluginVersion,
        step: &Name,
        monitor: &Monitor,
    ) -> Arc<StepMeasurements> {
        let known = self
            .0
            .read()
            .get(&plugin.id)
            .and_then(|steps| steps.get(step))
            .map(Arc::clone);
        known.unwrap_or_else(|| self.insert(team, plugin, step, monitor))
    }

    fn insert(
        &self,
        team: &Name,
        version: &PluginVersion,
        step: &Name,
        monitor: &Monitor,
    ) -> Arc<StepMeasurements> {
        let (plugin, label) = (&version.manifest.name, version.label());
        let names = [
            format!("step {plugin}/{step}"),
            format!("plugin {label}"),
            format!("plugin {label}/{step}"),
        ];
        let measured = Arc::new(StepMeasurements(
            names.map(|name| monitor.operation(Some(team), &name)),
        ));
        let mut known = self.0.write();
        if known.values().map(HashMap::len).sum::<usize>() >= STEPS_MAX {
            known.clear();
        }
        known
            .entry(version.id)
            .or_default()
            .insert(step.clone(), Arc::clone(&measured));
        measured
    }
}

impl StepMeasurements {
    pub(super) fn record(&self, ended: Instant, duration: Duration, ok: bool) {
        self.0
            .iter()
            .for_each(|operation| operation.record_at(ended, duration, ok));
    }
}
