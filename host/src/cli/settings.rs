//! `config`, and the loading of settings for all commands.

use clap::Args;

use super::Global;
use super::error::CliError;
use super::output;
use crate::config::{self, Config, DEFAULTS, StrayVariable};

#[derive(Args)]
pub(super) struct ConfigArguments {
    /// Print the defaults, with an explanation of each setting
    #[arg(long)]
    defaults: bool,
}

/// Loads the settings from the defaults, `--config` and the environment.
pub(super) fn load(global: &Global) -> Result<Config, CliError> {
    // Variables that are not UTF-8 are not settings.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(global.config.as_deref(), environment).map_err(|error| {
        CliError::with_hint(
            format!("cannot {error}"),
            "`stepwell config --defaults` shows every setting",
        )
    })
}

/// Returns a sentence for each environment variable that sets nothing and was probably meant to be
/// a setting.
pub(super) fn stray_variables() -> Vec<String> {
    let names: Vec<_> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    config::stray_variables(names.iter().map(String::as_str))
        .into_iter()
        .map(|StrayVariable { name, meant }| {
            format!("{name} is no setting and changes nothing; did you mean {meant}?")
        })
        .collect()
}

pub(super) fn config(global: &Global, arguments: &ConfigArguments) -> Result<(), CliError> {
    if arguments.defaults {
        return output::print(DEFAULTS);
    }
    for line in stray_variables() {
        output::warn(&line);
    }
    let mut config = load(global)?;
    for url in [
        &mut config.database.url,
        &mut config.redis.url,
        &mut config.tracing.otlp_endpoint,
    ] {
        *url = without_password(url);
    }
    if global.json {
        let text = serde_json::to_string_pretty(&config)
            .map_err(|error| CliError::new(error.to_string()))?;
        return output::print(&format!("{text}\n"));
    }
    let text = toml::to_string(&config).map_err(|error| CliError::new(error.to_string()))?;
    output::print(&text)
}

/// Masks the password in a URL, because printed settings are often shared when something does not
/// work.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        return url.to_owned();
    };
    match credentials.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(
            without_password("postgres://me:p@ss:w@db/x"),
            "postgres://me:***@db/x"
        );
        for url in ["", "sqlite:x.db", "postgres://me@db/x", "postgres://db/x"] {
            assert_eq!(without_password(url), url);
        }
    }
}
