//! How a control plane under test differs from the usual one.

use std::path::{Path, PathBuf};

/// What a test wants different.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Environment such as `KERNEX_MAX_BUNDLE_SIZE`.
    pub env: Vec<(String, String)>,
    /// Its data folder, on a disk of its own for instance; one among the test's own files when
    /// there is none.
    pub data: Option<PathBuf>,
    /// The `--database-url` to use, instead of a fresh one of the test's kind.
    pub database: Option<String>,
    /// Without TLS.
    pub plaintext: bool,
    /// The only core it runs on; any when there is none.
    pub core: Option<usize>,
    /// The `kernex-server` of another build; the one under test when there is none.
    pub program: Option<PathBuf>,
    /// Descriptors it may have; as many as this process when there is none.
    pub descriptors: Option<u64>,
}

impl ServerOptions {
    /// Adds one variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Puts its data folder somewhere else.
    #[must_use]
    pub fn data(mut self, folder: PathBuf) -> Self {
        self.data = Some(folder);
        self
    }

    /// Uses this database.
    #[must_use]
    pub fn database(mut self, url: String) -> Self {
        self.database = Some(url);
        self
    }

    /// Has it speak without TLS.
    #[must_use]
    pub fn plaintext(mut self) -> Self {
        self.plaintext = true;
        self
    }

    /// Lets it have so many descriptors.
    #[must_use]
    pub fn descriptors(mut self, most: u64) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Keeps it on one core.
    #[must_use]
    pub fn core(mut self, core: Option<usize>) -> Self {
        self.core = core;
        self
    }

    /// Starts the program of another build.
    #[must_use]
    pub fn program(mut self, program: Option<PathBuf>) -> Self {
        self.program = program;
        self
    }

    pub(super) fn data_below(&self, folder: &Path) -> PathBuf {
        self.data.clone().unwrap_or_else(|| folder.join("data"))
    }
}
