//! The rules of the server know neither the contract nor a database.

use std::fs;

use super::{Named, Sources, read, top};

/// Whether a path leads out of the rules: into the contract (but for its ids and digests), into a
/// library for the wire or a database, or into another part of the server (but for its timestamps).
fn leads_out_of_the_rules(path: &[String]) -> bool {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    match names[..] {
        ["kernex_proto", second, ..] => second != "ids" && second != "digest",
        ["kernex_proto"] => true,
        ["crate", second, ..] => second != "domain" && second != "clock",
        [first, ..] => matches!(
            first,
            "v1" | "prost" | "prost_types" | "tonic" | "sea_orm" | "sqlx"
        ),
        [] => false,
    }
}

#[test]
fn the_rules_know_neither_the_contract_nor_a_database() {
    let server = top().join("server").join("src");
    let mut rules = Sources::new();
    let domain = vec!["domain".to_owned()];
    read(&server.join("domain"), &domain, &mut rules);
    let face = fs::read_to_string(server.join("domain.rs")).expect("source");
    rules.insert(domain, vec![face]);
    assert!(rules.len() > 10, "the rules are there");
    let mut out = Vec::new();
    for (module, files) in &rules {
        let named = files.iter().flat_map(|source| Named::of(source));
        let named = named.filter(|path| leads_out_of_the_rules(path));
        out.extend(named.map(|path| format!("{}: {}", module.join("/"), path.join("::"))));
    }
    assert!(out.is_empty(), "paths that lead out of the rules: {out:#?}");
}

#[test]
fn a_way_out_of_the_rules_is_found_however_it_is_spelt() {
    let out = |source: &str| {
        let named = Named::of(source);
        named.iter().any(|path| leads_out_of_the_rules(path))
    };
    for source in [
        "use kernex_proto::v1;",
        "use kernex_proto::{ids::Digest, v1::{Outcome, Stop}};",
        "fn f(stop: &kernex_proto::v1::Stop) {}",
        "fn f() -> v1::Disposition { v1::Disposition::Applied }",
        "use crate::wire::same_words;",
        "use tonic::Status;",
    ] {
        assert!(out(source), "{source}");
    }
    for source in [
        "use kernex_proto::ids::{Digest, DeviceId};",
        "use crate::{clock::Timestamp, domain::attempt::State};",
        "#[cfg(test)] mod tests { use kernex_proto::v1; }",
    ] {
        assert!(!out(source), "{source}");
    }
}
