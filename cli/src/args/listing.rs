//! Options that every list has: how much of it, in which order, which columns.

use clap::Args;

/// How a list is cut and shown. How much is cut is always printed on stderr.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ListArgs {
    /// Print at most this many; 0 prints all
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// Sort by a field that `-o json` shows, e.g. name or vital_signs.cpu_percent; -FIELD begins
    /// with the largest
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
    /// Only these columns, e.g. name,status; more than the usual ones are there with -o wide
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Leave out the line of titles
    #[arg(long)]
    pub(crate) no_headers: bool,
}
