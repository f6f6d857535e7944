//! Every status of the server comes from one table.

use super::{Module, Sources, read, top};

/// How a `tonic::Status` that says an error can be made.
const MAKERS: [&str; 21] = [
    "new",
    "with_details",
    "with_metadata",
    "with_details_and_metadata",
    "with_error_details",
    "from_error",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "unauthenticated",
];

/// Lines outside of tests that make a status. By their text, because a macro hides its paths.
fn makes_statuses(source: &str) -> Vec<&str> {
    let code = source.split("#[cfg(test)]\nmod tests {").next();
    let lines = code.unwrap_or_default().lines();
    let is_one = |line: &&str| {
        line.match_indices("Status::").any(|(at, found)| {
            let is_end_of_a_name = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let (maker, _) = line[at + found.len()..].split_once('(').unwrap_or_default();
            !is_end_of_a_name && MAKERS.contains(&maker)
        })
    };
    lines.filter(is_one).collect()
}

#[test]
fn every_status_of_the_server_comes_from_one_table() {
    let mut sources = Sources::new();
    let server = top().join("server").join("src");
    read(&server, &Module::new(), &mut sources);
    let makers = sources.iter().flat_map(|(module, files)| {
        let lines = files.iter().flat_map(|source| makes_statuses(source));
        lines.map(move |line| (module.join("/"), line.trim()))
    });
    let is_of_the_table = |module: &str| module == "error" || module.starts_with("error/");
    let (of_the_table, others): (Vec<_>, Vec<_>) =
        makers.partition(|(module, _)| is_of_the_table(module));
    assert!(
        others.is_empty(),
        "statuses outside of error.rs: {others:#?}"
    );
    assert!(
        of_the_table.len() > 3,
        "the table is read: {of_the_table:?}"
    );
}

#[test]
fn a_status_is_found_wherever_it_is_made() {
    for source in [
        "Err(Status::internal(\"x\"))",
        "tonic::Status::with_error_details(code, message, details)",
        "stream! { yield Err(Status::aborted(\"x\")) }",
    ] {
        assert_eq!(makes_statuses(source).len(), 1, "{source}");
    }
    for source in [
        "device: v1::DeviceStatus::from(device.status)",
        "Status::from(error)",
        "let end = Status::ok(\"\");",
        "#[cfg(test)]\nmod tests {\n Status::internal(\"x\")",
    ] {
        assert!(makes_statuses(source).is_empty(), "{source}");
    }
}
