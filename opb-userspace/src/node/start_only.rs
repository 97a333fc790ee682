//! Settings that only take effect when the daemon starts.

use super::Config;

struct Setting {
    key: &'static str,
    is_same: fn(&Config, &Config) -> bool,
    copy: fn(&mut Config, &Config),
}

macro_rules! settings {
    ($($key:literal: $($field:ident).+ $(, $($other:ident).+)?;)+) => {
        [$(Setting {
            key: $key,
            is_same: |a, b| a.$($field).+ == b.$($field).+ $(&& a.$($other).+ == b.$($other).+)?,
            copy: |to, from| {
                to.$($field).+.clone_from(&from.$($field).+);
                $(to.$($other).+.clone_from(&from.$($other).+);)?
            },
        }),+]
    };
}

const SETTINGS: [Setting; 10] = settings! {
    "state": state;
    "control": control;
    "http": http;
    "http-names": http_names;
    "pins": pins;
    "log": log;
    "events": observe.events;
    "privacy": observe.addresses, observe.retain;
    "suspect": observe.suspect;
    "sessions": sessions;
};

impl Config {
    /// The keys of those settings that differ in `new`.
    pub fn start_only_changes(&self, new: &Self) -> Vec<&'static str> {
        let changed = SETTINGS.iter().filter(|setting| !(setting.is_same)(self, new));
        changed.map(|setting| setting.key).collect()
    }

    /// The same, with those settings of `running`.
    #[must_use]
    pub fn with_start_only_of(mut self, running: &Self) -> Self {
        SETTINGS.iter().for_each(|setting| (setting.copy)(&mut self, running));
        self
    }
}
