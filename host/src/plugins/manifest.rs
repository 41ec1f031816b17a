//! Checks the manifest that a plugin returns from `describe`.

use std::collections::BTreeSet;

use super::UploadError;
use crate::model::plugin::{Manifest, StepSpec, check_version};
use crate::runtime::PluginManifest;

const STEPS_MAX: usize = 64;
const METRICS_MAX: usize = 64;
const DESCRIPTION_BYTES_MAX: usize = 1_024;

/// Checks a manifest, and refuses the upload if it breaks a rule.
pub(super) fn check(raw: PluginManifest) -> Result<Manifest, UploadError> {
    let wrong = |message: String| UploadError::Refused {
        code: "invalid-manifest",
        message: format!("the plugin describes itself wrongly: {message}"),
    };
    let name = raw
        .name
        .parse()
        .map_err(|error| wrong(format!("{error}")))?;
    let version = check_version(&raw.version).map_err(wrong)?;
    if raw.description.len() > DESCRIPTION_BYTES_MAX {
        return Err(wrong(format!(
            "its description is longer than {DESCRIPTION_BYTES_MAX} bytes"
        )));
    }
    if raw.steps.is_empty() || raw.steps.len() > STEPS_MAX {
        return Err(wrong(format!(
            "it must offer 1 to {STEPS_MAX} steps, and offers {}",
            raw.steps.len()
        )));
    }
    let mut steps: Vec<StepSpec> = Vec::new();
    for step in raw.steps {
        let name = step
            .name
            .parse()
            .map_err(|error| wrong(format!("step: {error}")))?;
        if step.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(wrong(format!(
                "the description of step `{name}` is longer than {DESCRIPTION_BYTES_MAX} bytes"
            )));
        }
        if steps.iter().any(|other| other.name == name) {
            return Err(wrong(format!("it offers the step `{name}` twice")));
        }
        steps.push(StepSpec {
            name,
            description: step.description,
        });
    }
    if raw.metrics.len() > METRICS_MAX {
        return Err(wrong(format!(
            "it may declare at most {METRICS_MAX} metrics"
        )));
    }
    let metrics: BTreeSet<String> = raw.metrics.into_iter().collect();
    let well_formed = |name: &String| {
        (1..=63).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if let Some(bad) = metrics.iter().find(|name| !well_formed(name)) {
        let shown: String = bad.chars().take(63).flat_map(char::escape_debug).collect();
        return Err(wrong(format!(
            "'{shown}' is no metric name: use 1 to 63 of a-z, 0-9 and '_', first a letter"
        )));
    }
    Ok(Manifest {
        name,
        version,
        description: raw.description,
        steps,
        metrics,
    })
}
