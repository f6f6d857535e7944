//! `enrollment`: tokens that let devices in.

use std::time::Duration;

use clap::Subcommand;

use super::{Consent, OutputArg, parse_duration, values::parse_label};

#[derive(Debug, Subcommand)]
pub(crate) enum EnrollmentCommand {
    /// Make a token that lets devices in; its text is shown once
    Create {
        /// How many devices it may let in
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long the token is valid, e.g. 30m, 12h, 7d
        #[arg(long, default_value = "1d", value_parser = parse_duration, value_name = "DURATION")]
        ttl: Duration,
        /// Label each device gets (repeatable)
        #[arg(long = "label", value_parser = parse_label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
        /// Let one new key take over this device, e.g. after a re-imaged disk
        #[arg(long, value_name = "DEVICE", conflicts_with = "labels")]
        replace: Option<String>,
        /// Let devices verify the server by this name and a certificate of an authority that they
        /// trust (see the server's `--tls-cert`), instead of by the pin of its CA
        #[arg(long, value_name = "NAME")]
        webpki: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List tokens, without their secrets
    List {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Revoke a token; devices that used it stay
    Revoke {
        /// Token id
        id: String,
        #[command(flatten)]
        consent: Consent,
    },
}
