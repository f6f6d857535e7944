//! Settings of a server under test.

use std::path::{Path, PathBuf};

/// Settings of a server under test. The default is a server with TLS and a fresh database.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Environment such as `KERNEX_MAX_BUNDLE_SIZE`.
    pub env: Vec<(String, String)>,
    /// Its data folder, for instance on a disk of its own. `None` puts it among the files of the
    /// test.
    pub data: Option<PathBuf>,
    /// The `--database-url` to use, instead of a fresh one of the test's kind.
    pub database: Option<String>,
    /// Without TLS.
    pub plaintext: bool,
    /// The only core it runs on; `None` is any.
    pub core: Option<usize>,
    /// The `kernex-server` of another build; `None` is the one under test.
    pub program: Option<PathBuf>,
    /// Descriptors it may have; `None` is as many as this process.
    pub descriptors: Option<u64>,
}

impl ServerOptions {
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the data folder.
    #[must_use]
    pub fn data(mut self, folder: PathBuf) -> Self {
        self.data = Some(folder);
        self
    }

    /// Sets `--database-url`.
    #[must_use]
    pub fn database(mut self, url: String) -> Self {
        self.database = Some(url);
        self
    }

    /// Turns TLS off.
    #[must_use]
    pub fn plaintext(mut self) -> Self {
        self.plaintext = true;
        self
    }

    /// Limits its open descriptors.
    #[must_use]
    pub fn descriptors(mut self, most: u64) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Pins it to one core.
    #[must_use]
    pub fn core(mut self, core: Option<usize>) -> Self {
        self.core = core;
        self
    }

    /// Starts this `kernex-server` instead of the one under test.
    #[must_use]
    pub fn program(mut self, program: Option<PathBuf>) -> Self {
        self.program = program;
        self
    }

    pub(super) fn data_below(&self, folder: &Path) -> PathBuf {
        self.data.clone().unwrap_or_else(|| folder.join("data"))
    }
}
