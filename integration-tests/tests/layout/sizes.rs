//! No struct and no function of the programs has more parts than somebody can keep in mind.

use syn::{
    Attribute, Fields, ItemStruct, Signature, Visibility,
    visit::{self, Visit},
};

use super::{Module, Sources, read, top};

/// A struct has fewer public fields than this.
const FIELDS: usize = 15;
/// A function has fewer arguments than this.
const ARGUMENTS: usize = 10;

/// The programs and what they share. The harness is not meant.
const PROGRAMS: [&str; 5] = ["proto", "migrations", "server", "agent", "cli"];

/// Derives of structs that repeat something else field by field: a table, a row of a statement, a
/// message, a command line.
const REPEATING: [&str; 5] = [
    "DeriveEntityModel",
    "FromQueryResult",
    "Message",
    "Args",
    "Parser",
];

/// Rows of tables as the store hands them out, which are as wide as the table. Decision 0034 says
/// why they stay whole.
const ROWS: [&str; 4] = ["Attempt", "Deployment", "Device", "Target"];

/// What is too large in a file.
#[derive(Default)]
struct TooLarge(Vec<String>);

impl TooLarge {
    fn of(source: &str) -> Vec<String> {
        let mut found = Self::default();
        found.visit_file(&syn::parse_file(source).expect("it compiles"));
        found.0
    }
}

fn repeats_something(attributes: &[Attribute]) -> bool {
    let mut repeats = false;
    let derives = attributes.iter().filter(|it| it.path().is_ident("derive"));
    for derive in derives {
        let parsed = derive.parse_nested_meta(|derived| {
            let last = derived.path.segments.last();
            repeats |= last.is_some_and(|name| REPEATING.iter().any(|known| name.ident == known));
            Ok(())
        });
        parsed.expect("a list of traits");
    }
    repeats
}

impl<'ast> Visit<'ast> for TooLarge {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let is_public = |visibility: &Visibility| !matches!(visibility, Visibility::Inherited);
        let public = match &item.fields {
            Fields::Named(fields) => fields.named.iter().filter(|it| is_public(&it.vis)).count(),
            Fields::Unnamed(_) | Fields::Unit => 0,
        };
        let is_row = ROWS.iter().any(|row| item.ident == row) || repeats_something(&item.attrs);
        if public >= FIELDS && !is_row {
            self.0
                .push(format!("{}: {public} public fields", item.ident));
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        let arguments = signature.inputs.len();
        if arguments >= ARGUMENTS {
            let name = &signature.ident;
            self.0.push(format!("{name}: {arguments} arguments"));
        }
        visit::visit_signature(self, signature);
    }
}

#[test]
fn structs_and_functions_of_the_programs_have_few_parts() {
    let mut large = Vec::new();
    for name in PROGRAMS {
        let mut sources = Sources::new();
        read(&top().join(name).join("src"), &Module::new(), &mut sources);
        assert!(sources.contains_key(&Module::new()), "{name} has a root");
        for (module, files) in &sources {
            let found = files.iter().flat_map(|source| TooLarge::of(source));
            large.extend(found.map(|what| format!("{name} {}: {what}", module.join("/"))));
        }
    }
    assert!(large.is_empty(), "nest or split these: {large:#?}");
}

#[test]
fn what_is_too_large_is_found_and_what_repeats_something_is_not_meant() {
    let fields = |how: &str, many: usize| {
        let fields = (0..many).map(|number| format!("{how} f{number}: u8,"));
        fields.collect::<String>()
    };
    let item =
        |before: &str, name: &str, fields: String| format!("{before} struct {name} {{ {fields} }}");
    let found = |source: &str| TooLarge::of(source).len();
    assert_eq!(found(&item("", "A", fields("pub", 14))), 0);
    assert_eq!(found(&item("", "A", fields("pub", 15))), 1);
    assert_eq!(found(&item("", "A", fields("pub(crate)", 15))), 1);
    assert_eq!(found(&item("", "A", fields("", 15))), 0);
    assert_eq!(found(&item("", "Device", fields("pub", 20))), 0);
    let row = "#[derive(Debug, sea_orm::FromQueryResult)]";
    assert_eq!(found(&item(row, "A", fields("pub", 20))), 0);
    let function = |many| format!("fn f({}) {{}}", fields("", many));
    assert_eq!((found(&function(9)), found(&function(10))), (0, 1));
}
