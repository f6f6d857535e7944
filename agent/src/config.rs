//! From arguments to settings: flags win over `KERNEX_AGENT_*`, which win over the TOML file.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use kernex_proto::{
    connect::proxy::Proxies, handshake::EnrollmentToken, telemetry::LogFilter, units,
};

use crate::backoff;

mod args;
mod commands;
mod file;
mod token;

pub use args::{Args, Command, NoNewPrivs};
pub(crate) use commands::{run_command, state_dir_flag};
pub(crate) use file::{secret_settings, setting_variables, strange_variables};

use file::read_file;

/// Below this a download would hardly ever end.
const LEAST_RATE: u64 = 1024;

const DEFAULT_STATE_DIR: &str = "/var/lib/kernex-agent";
/// File in the state folder that is there once a device has enrolled.
pub(crate) const DEVICE_FILE: &str = "device.json";

/// Settings of one agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for the key, the journal and the bundles.
    pub state_dir: PathBuf,
    /// Addresses of the control plane, the first one first; none takes the one of the enrolment.
    pub servers: Vec<String>,
    /// Which proxy leads to it.
    pub proxies: Proxies,
    /// Enrolment token; only a machine that is not enrolled needs it.
    pub token: Option<EnrollmentToken>,
    /// Wished device name; `None` takes the host name.
    pub name: Option<String>,
    /// Longest time a script may run, whatever its manifest or the server says; `None` leaves it to
    /// the server.
    pub max_script_time: Option<Duration>,
    /// How long a script may tidy up between SIGTERM and SIGKILL.
    pub script_grace: Duration,
    /// Most releases kept beside the current one; `None` leaves it to the server.
    pub keep_releases: Option<usize>,
    /// Longest wait between two tries to connect.
    pub max_reconnect_wait: Duration,
    /// Most bytes a second a download may take.
    pub max_download_rate: Option<NonZeroU64>,
    /// Most bytes that the archives which are kept may take together; `None` is a tenth of the file
    /// system.
    pub max_archive_space: Option<u64>,
    /// Whether scripts can never get more rights than the agent has.
    pub no_new_privs: NoNewPrivs,
    /// Forgets at the start which revision of the protocol was spoken.
    pub allow_downgrade: bool,
    /// Lets a configuration from the server change what is logged; `None` where others own the log.
    pub log_filter: Option<LogFilter>,
}

impl Config {
    /// The defaults, with a state folder. Scripts get paths in it and run in folders of their own,
    /// so a relative one counts from where the agent is now.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let state_dir = state_dir.into();
        Self {
            state_dir: std::path::absolute(&state_dir).unwrap_or(state_dir),
            servers: Vec::new(),
            proxies: Proxies::default(),
            token: None,
            name: None,
            max_script_time: None,
            script_grace: Duration::from_secs(5),
            keep_releases: None,
            max_reconnect_wait: backoff::LONGEST,
            max_download_rate: None,
            max_archive_space: None,
            no_new_privs: NoNewPrivs::default(),
            allow_downgrade: false,
            log_filter: None,
        }
    }
}

impl Args {
    /// The settings; or, when they are not valid, the defaults with the reason. Folder and
    /// addresses count all the same where they were typed. A support bundle is made in both cases.
    /// The reason repeats no value, because it may be secret.
    pub(crate) fn into_config_or_defaults(self) -> (Config, Option<String>) {
        let (state_dir, servers) = (self.state_dir.clone(), self.server.clone());
        match self.into_config() {
            Ok(config) => (config, None),
            // Only the outermost part: the parser of the file repeats a line of it in the inner
            // one.
            Err(error) => {
                let state_dir = state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
                let why = format!("{error}; see `kernex-agent check-config`");
                let mut config = Config::new(state_dir);
                config.servers = servers;
                (config, Some(why))
            }
        }
    }

    /// The settings as they are meant, or the first thing that is wrong with them.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let file = self
            .config
            .as_deref()
            .map(read_file)
            .transpose()?
            .unwrap_or_default();
        let state_dir = self.state_dir.or(file.state_dir);
        let state_dir = state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let state_dir = std::path::absolute(&state_dir).with_context(|| {
            let shown = state_dir.display();
            format!("--state-dir `{shown}` does not name a folder: write an absolute path")
        })?;
        let mut config = Config::new(state_dir);
        config.allow_downgrade = matches!(
            self.command,
            Command::Run {
                allow_downgrade: true
            }
        );
        config.servers = match self.server {
            typed if !typed.is_empty() => typed,
            _ => file.server.map(Vec::from).unwrap_or_default(),
        };
        let proxy = self.proxy.or(file.proxy);
        config.proxies = Proxies::new(proxy.as_deref(), |name| std::env::var(name).ok())?;
        config.name = self.name.or(file.name);
        if let Some(name) = &config.name {
            kernex_proto::ids::check_name("device name", name)?;
        }
        let named = self.token_file.or(file.token_file);
        let needs_token = match self.command {
            Command::Enroll { .. } | Command::CheckConfig => true,
            // A device that has enrolled starts also when the file with its token is gone, or holds
            // something else by now.
            Command::Run { .. } => !config.state_dir.join(DEVICE_FILE).exists(),
            _ => false,
        };
        let found = match self.token.or(file.token) {
            Some(text) => Some((text, "--token".to_owned())),
            None if needs_token => token::read(named, std::env::var_os(token::CREDENTIALS))?,
            None => None,
        };
        if let Some((text, place)) = found {
            let token = text.parse::<EnrollmentToken>();
            config.token = Some(token.with_context(|| format!("{place} has no enrolment token"))?);
        }
        if let Some(seconds) = self.max_script_seconds.or(file.max_script_seconds) {
            if seconds == 0 {
                bail!("--max-script-seconds must be at least 1");
            }
            config.max_script_time = Some(Duration::from_secs(seconds));
        }
        if let Some(keep) = self.keep_releases.or(file.keep_releases) {
            config.keep_releases = Some(keep);
        }
        if let Some(seconds) = self.max_reconnect_seconds.or(file.max_reconnect_seconds) {
            if seconds == 0 {
                bail!("--max-reconnect-seconds must be at least 1");
            }
            config.max_reconnect_wait = Duration::from_secs(seconds);
        }
        if let Some(text) = self.max_download_rate.or(file.max_download_rate) {
            let rate = units::size(&text).filter(|rate| *rate >= LEAST_RATE);
            let Some(rate) = rate.and_then(NonZeroU64::new) else {
                bail!(
                    "--max-download-rate `{text}` does not make sense: write a number of bytes a second of at least 1KiB, \
                     such as 500KiB or 2MiB"
                );
            };
            config.max_download_rate = Some(rate);
        }
        if let Some(text) = self.max_archive_space.or(file.max_archive_space) {
            let space = match text.trim() {
                "0" => Some(0),
                text => units::size(text),
            };
            if space.is_none() {
                bail!(
                    "--max-archive-space `{text}` does not make sense: write a number of bytes such as 500MiB or 2GiB, or 0 \
                     to keep no archives"
                );
            }
            config.max_archive_space = space;
        }
        config.no_new_privs = self.no_new_privs.or(file.no_new_privs).unwrap_or_default();
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;
    use kernex_proto::manifest::Manifest;

    use super::*;

    fn parse(args: &[&str]) -> anyhow::Result<Config> {
        Args::try_parse_from([&["kernex-agent", "run"], args].concat())?.into_config()
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "name = \"a\"\nkeep_releases = 7\nmax_download_rate = \"500KiB\"\nmax_archive_space = \"2GiB\"\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let config = parse(&["--config", path, "--name", "b"]).unwrap();
        assert_eq!(config.name.as_deref(), Some("b"));
        assert_eq!(config.keep_releases, Some(7));
        assert_eq!(config.max_archive_space, Some(2 << 30));
        let none = parse(&["--config", path, "--max-archive-space", "0"]);
        assert_eq!(none.unwrap().max_archive_space, Some(0));
        assert_eq!(config.max_download_rate, NonZeroU64::new(500 << 10));
    }

    #[test]
    fn servers_may_be_several_wherever_they_are_given() {
        let both = ["https://a:1", "https://b:1"];
        let repeated = parse(&["--server", both[0], "--server", both[1]]).unwrap();
        assert_eq!(repeated.servers, both);
        assert_eq!(
            parse(&["--server", "https://a:1,https://b:1"])
                .unwrap()
                .servers,
            both
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(file.path(), "server = [\"https://a:1\", \"https://b:1\"]\n").unwrap();
        assert_eq!(parse(&["--config", path]).unwrap().servers, both);
        std::fs::write(file.path(), "server = \"https://a:1\"\n").unwrap();
        assert_eq!(parse(&["--config", path]).unwrap().servers, [both[0]]);
        let typed = parse(&["--config", path, "--server", both[1]]).unwrap();
        assert_eq!(typed.servers, [both[1]]);
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        let error = parse(&["--proxy", "socks5://ada:secret@p:1"]).unwrap_err();
        let said = format!("{error:#}");
        assert!(
            said.contains("--proxy") && !said.contains("secret"),
            "{said}"
        );
        assert!(parse(&["--proxy", "http://ada:secret@p:1"]).is_ok());
        assert!(parse(&["--proxy", ""]).is_ok());
    }

    #[test]
    fn a_relative_state_folder_counts_from_where_the_agent_is() {
        let here = std::env::current_dir().unwrap();
        let config = parse(&["--state-dir", "./edge-1"]).unwrap();
        assert_eq!(config.state_dir, here.join("edge-1"));
        assert_eq!(Config::new("edge-1").state_dir, here.join("edge-1"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "state_dir = \"\"\n").unwrap();
        let why = parse(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        let why = format!("{why:#}");
        assert!(why.contains("absolute path"), "{why}");
    }

    #[test]
    fn the_device_decides_about_new_privileges_unless_it_leaves_it_to_the_manifest() {
        let manifest = |text: &str| Manifest::parse(text.as_bytes()).unwrap();
        let asks = manifest(r#"{"version": "1", "no_new_privs": false}"#);
        let plain = manifest(r#"{"version": "1"}"#);
        for (flags, for_asking, for_plain) in [
            (&[][..], true, false),
            (&["--no-new-privs", "always"], false, false),
            (&["--no-new-privs", "never"], true, true),
        ] {
            let config = parse(flags).unwrap();
            assert_eq!(config.no_new_privs.allows_more(&asks), for_asking);
            assert_eq!(config.no_new_privs.allows_more(&plain), for_plain);
        }
    }

    #[test]
    fn a_downgrade_is_allowed_on_the_command_line_only() {
        assert!(!parse(&[]).unwrap().allow_downgrade);
        assert!(parse(&["--allow-downgrade"]).unwrap().allow_downgrade);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "allow_downgrade = true\n").unwrap();
        assert!(parse(&["--config", file.path().to_str().unwrap()]).is_err());
    }

    #[test]
    fn settings_that_are_not_valid_give_the_defaults_and_a_reason_without_values() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token = hunter2\n").unwrap();
        let path = file.path().to_str().unwrap();
        let args = ["kernex-agent", "support-bundle", "--config", path];
        let typed = ["--state-dir", "/s", "--server", "https://a:1"];
        let args = Args::try_parse_from([&args[..], &typed].concat()).unwrap();
        let (config, invalid) = args.into_config_or_defaults();
        assert_eq!(config.state_dir, Path::new("/s"));
        assert_eq!(config.servers, ["https://a:1"]);
        let invalid = invalid.unwrap();
        assert!(
            invalid.contains(path) && !invalid.contains("hunter2"),
            "{invalid}"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(parse(&["--token", "nonsense"]).is_err());
        assert!(parse(&["--name", "../x"]).is_err());
        assert!(parse(&["--max-script-seconds", "0"]).is_err());
        assert!(parse(&["--max-reconnect-seconds", "0"]).is_err());
        for space in ["much", "-1", "1GB"] {
            assert!(
                parse(&[&format!("--max-archive-space={space}")]).is_err(),
                "{space}"
            );
        }
        for rate in ["0", "1023", "fast", "-1", "1Mbit"] {
            assert!(
                parse(&[&format!("--max-download-rate={rate}")]).is_err(),
                "{rate}"
            );
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nmae = \"a\"\n").unwrap();
        assert!(parse(&["--config", file.path().to_str().unwrap()]).is_err());
    }
}
