//! The environment of a script: a few variables of the agent, then the manifest's, then Kernex's
//! own. Later ones win. The variables of proxies pass without the name and the password of a user.

use std::{collections::BTreeMap, path::Path};

use kernex_proto::{
    connect::proxy::{VARIABLES, without_credentials},
    v1::Step,
    words,
};

use super::account::Account;

/// The only variables of the agent's own environment that a script gets.
const PASSED: [&str; 3] = ["PATH", "LANG", "TZ"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a script learns about its run.
pub(crate) struct Context<'a> {
    /// Who it runs as.
    pub(crate) account: Account,
    pub(crate) device_id: String,
    pub(crate) device_name: &'a str,
    pub(crate) deployment_id: &'a str,
    pub(crate) target_id: String,
    pub(crate) attempt: u32,
    /// Number of its run.
    pub(crate) run: u32,
    pub(crate) step: Step,
    /// The bundle that the release was unpacked from.
    pub(crate) bundle: BundleVersion<'a>,
    /// What outlives releases.
    pub(crate) state_dir: &'a Path,
    /// Folder of the release that the script belongs to.
    pub(crate) release_dir: &'a Path,
    /// Folder of the previous release, if there is one.
    pub(crate) previous_release_dir: Option<&'a Path>,
    /// W3C trace context.
    pub(crate) traceparent: &'a str,
    /// Free-form values of the device's configuration.
    pub(crate) configuration: &'a BTreeMap<String, String>,
}

/// A bundle as a script is told of it.
pub(crate) struct BundleVersion<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) digest: &'a str,
}

impl Context<'_> {
    /// All of a script's environment. `outer` is the agent's own.
    pub(crate) fn environment(
        &self,
        manifest: &BTreeMap<String, String>,
        outer: impl Fn(&str) -> Option<String>,
    ) -> Vec<(String, String)> {
        let mut env = BTreeMap::new();
        env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        for name in PASSED {
            if let Some(value) = outer(name) {
                env.insert(name.to_owned(), value);
            }
        }
        for name in VARIABLES {
            if let Some(value) = outer(name) {
                env.insert(name.to_owned(), without_credentials(&value));
            }
        }
        let path = |path: &Path| path.to_string_lossy().into_owned();
        env.insert("HOME".to_owned(), path(&self.account.home));
        for name in ["USER", "LOGNAME"] {
            env.insert(name.to_owned(), self.account.name.clone());
        }
        env.extend(manifest.clone());
        let own = [
            ("DEVICE_ID", self.device_id.clone()),
            ("DEVICE_NAME", self.device_name.to_owned()),
            ("DEPLOYMENT_ID", self.deployment_id.to_owned()),
            ("TARGET_ID", self.target_id.clone()),
            ("ATTEMPT", self.attempt.to_string()),
            ("RUN", self.run.to_string()),
            ("AGENT_PID", std::process::id().to_string()),
            ("STEP", words::step(self.step)),
            ("BUNDLE_NAME", self.bundle.name.to_owned()),
            ("BUNDLE_VERSION", self.bundle.version.to_owned()),
            ("BUNDLE_DIGEST", self.bundle.digest.to_owned()),
            ("STATE_DIR", path(self.state_dir)),
            ("RELEASE_DIR", path(self.release_dir)),
            (
                "PREVIOUS_RELEASE_DIR",
                self.previous_release_dir.map(path).unwrap_or_default(),
            ),
        ];
        for (name, value) in self.configuration {
            env.insert(format!("KERNEX_CONFIG_{name}"), value.clone());
        }
        for (name, value) in own {
            env.insert(format!("KERNEX_{name}"), value);
        }
        if !self.traceparent.is_empty() {
            env.insert("TRACEPARENT".to_owned(), self.traceparent.to_owned());
        }
        env.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_agent_do_not_pass_and_ours_win() {
        let context = Context {
            account: Account {
                name: "kernex".into(),
                home: "/home/kernex".into(),
            },
            device_id: "d".into(),
            device_name: "edge-1",
            deployment_id: "x",
            target_id: "t".into(),
            attempt: 2,
            run: 1,
            step: Step::PreHook,
            bundle: BundleVersion {
                name: "app",
                version: "1",
                digest: "abc",
            },
            state_dir: Path::new("/s"),
            release_dir: Path::new("/r"),
            previous_release_dir: None,
            traceparent: "",
            configuration: &BTreeMap::from([("SITE".to_owned(), "berlin".to_owned())]),
        };
        let manifest = BTreeMap::from([
            ("KERNEX_TARGET_ID".to_owned(), "forged".to_owned()),
            ("APP_MODE".to_owned(), "prod".to_owned()),
            ("LOGNAME".to_owned(), "mine".to_owned()),
        ]);
        let outer = |name: &str| {
            assert_ne!(name, "KERNEX_AGENT_TOKEN");
            let value = match name {
                "TZ" => "UTC",
                "https_proxy" | "HTTPS_PROXY" => "http://ada:secret@p:3128",
                "no_proxy" => "localhost,.example",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let env: BTreeMap<_, _> = context.environment(&manifest, outer).into_iter().collect();
        assert_eq!(env["KERNEX_TARGET_ID"], "t");
        assert_eq!(env["KERNEX_CONFIG_SITE"], "berlin");
        assert_eq!(env["KERNEX_STEP"], "pre_hook");
        assert_eq!(env["KERNEX_PREVIOUS_RELEASE_DIR"], "");
        assert_eq!(env["APP_MODE"], "prod");
        assert_eq!(env["TZ"], "UTC");
        assert_eq!(env["https_proxy"], "http://p:3128");
        assert_eq!(env["HTTPS_PROXY"], "http://p:3128");
        assert_eq!(env["no_proxy"], "localhost,.example");
        assert_eq!(env["PATH"], DEFAULT_PATH);
        assert_eq!(env["HOME"], "/home/kernex");
        assert_eq!((&*env["USER"], &*env["LOGNAME"]), ("kernex", "mine"));
        assert!(!env.contains_key("TRACEPARENT"));
    }
}
