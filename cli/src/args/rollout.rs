//! Options of `deploy` that say how a deployment proceeds over its devices.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::parse_duration;

/// Phases and limits; without any of them every device begins at once.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Rollout")]
pub(crate) struct RolloutArgs {
    /// Begin with this many devices, then the rest
    #[arg(long, value_name = "N", conflicts_with = "phases", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) canary: Option<u32>,
    /// Phases such as '1,10%,50%,100%', each together with those before it, or a file with them
    /// (YAML or JSON)
    #[arg(long, value_name = "PHASES|FILE", value_parser = parse_phases)]
    pub(crate) phases: Option<Phases>,
    /// Open the next phase once this share of a phase has succeeded (default: all but the failures
    /// that are allowed)
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(crate) success: Option<f64>,
    /// Failures of a phase that are allowed; one more pauses the deployment (default 0)
    #[arg(long, value_name = "N|P%", value_parser = Amount::parse)]
    pub(crate) max_failures: Option<Amount>,
    /// How long a phase that succeeded is observed before the next one opens
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) soak: Option<Duration>,
    /// Most devices at a time, counted until they are done
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_in_flight: Option<u32>,
    /// Most devices at a time with the same value of a label, e.g. 'rack=1' (repeatable)
    #[arg(long = "budget", value_name = "LABEL=N", value_parser = parse_budget)]
    pub(crate) budgets: Vec<(String, u32)>,
    /// Wait for `deployment promote` before each phase after the first
    #[arg(long)]
    pub(crate) approve: bool,
    /// What happens when more devices fail than are allowed
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on_failure: Option<OnFailure>,
}

/// What happens when more devices fail than are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnFailure {
    /// The deployment pauses
    Pause,
    /// It pauses, and what was deployed is returned to what ran before
    Rollback,
}

/// A number of devices, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(try_from = "Written")]
pub(crate) enum Amount {
    /// So many.
    Count(u32),
    /// Such a share, of a hundred.
    Percent(f64),
}

/// How an amount stands in a file: `5`, or `10%`.
#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "an amount is a number of devices, or a share such as 10%"
)]
enum Written {
    Number(u32),
    Text(String),
}

impl TryFrom<Written> for Amount {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(count) => Ok(Self::Count(count)),
            Written::Text(text) => Self::parse(&text),
        }
    }
}

impl Amount {
    /// Reads `5` or `10%`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.ends_with('%') {
            return parse_percent(text).map(Self::Percent);
        }
        text.parse().map(Self::Count).map_err(|_| {
            format!("`{text}` is no number of devices; write e.g. 5, or a share such as 10%")
        })
    }
}

/// What `--phases` says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phases {
    /// The sizes themselves.
    Sizes(Vec<Amount>),
    /// A file that says more about each.
    File(PathBuf),
}

/// Reads `1,10%,50%`; what does not begin with a digit is a file.
fn parse_phases(text: &str) -> Result<Phases, String> {
    if !text.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Phases::File(text.into()));
    }
    text.split(',')
        .map(Amount::parse)
        .collect::<Result<_, _>>()
        .map(Phases::Sizes)
}

/// Reads `95%` or `95`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    match number.parse::<f64>() {
        Ok(share) if (0.0..=100.0).contains(&share) => Ok(share),
        Ok(_) => Err(format!("`{text}` is over 100 % or below nothing")),
        Err(_) => Err(format!("`{text}` is no percentage; write e.g. 95%")),
    }
}

/// Reads `rack=1`.
fn parse_budget(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("`{text}` is no budget; write LABEL=N, such as rack=1");
    let (label, most) = text.split_once('=').ok_or_else(wrong)?;
    match most.trim().parse() {
        Ok(most) if most > 0 && !label.is_empty() => Ok((label.trim().to_owned(), most)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_sizes_or_a_file() {
        let sizes = Phases::Sizes(vec![Amount::Count(1), Amount::Percent(10.0)]);
        assert_eq!(parse_phases("1, 10%"), Ok(sizes));
        assert_eq!(
            parse_phases("rollout.yaml"),
            Ok(Phases::File("rollout.yaml".into()))
        );
        for wrong in ["1,", "1,ten", "5,110%", "1;2"] {
            assert!(parse_phases(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn budgets_name_a_label_and_a_number() {
        assert_eq!(parse_budget("rack=1"), Ok(("rack".to_owned(), 1)));
        for wrong in ["rack", "rack=", "rack=0", "=1", "rack=one"] {
            assert!(parse_budget(wrong).is_err(), "{wrong}");
        }
    }
}
