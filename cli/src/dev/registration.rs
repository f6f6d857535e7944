//! The context of a running `dev`: it exists while `dev` runs, and never replaces another context.

use crate::{
    context::{ConfigFile, Context, Contexts, process_env},
    error::Failure,
};

const NAME: &str = "dev";

pub(super) struct Registration {
    file: ConfigFile,
    name: String,
    context: Context,
    current: bool,
}

impl Registration {
    /// Writes it. It becomes the current context only when there is none.
    pub(super) fn write(context: Context) -> Result<Self, Failure> {
        Self::write_to(ConfigFile::locate(&process_env)?, context)
    }

    fn write_to(file: ConfigFile, context: Context) -> Result<Self, Failure> {
        let (name, current) = file.change(|all| {
            let name = free_name(all, process_lives);
            all.contexts.insert(name.clone(), context.clone());
            let current = all.current.get_or_insert_with(|| name.clone()) == &name;
            Ok((name, current))
        })?;
        Ok(Self {
            file,
            name,
            context,
            current,
        })
    }

    /// What to try next, as text for the user.
    pub(super) fn invitation(&self) -> String {
        let name = &self.name;
        let with = if self.current {
            String::new()
        } else {
            format!("--context {name} ")
        };
        format!(
            "\nThe fleet stays up, as context `{name}`, until Ctrl-C. In another terminal:\n  \
             kernexctl {with}device list -o wide\n  \
             kernexctl {with}device get device-1\n  \
             kernexctl {with}deploy hello:1.0.0 --to fleet=dev --watch"
        )
    }

    /// Removes it again, unless another context has its name now.
    pub(super) fn remove(self) -> Result<(), Failure> {
        self.file.change(|all| {
            if all.contexts.get(&self.name) == Some(&self.context) {
                all.contexts.remove(&self.name);
                if all.current.as_ref() == Some(&self.name) {
                    all.current = None;
                }
            }
            Ok(())
        })
    }
}

/// `dev`; or `dev-2` and so on, while another `dev` runs or a context of the user has that name.
fn free_name(all: &Contexts, lives: impl Fn(u32) -> bool) -> String {
    let taken = |name: &str| match all.contexts.get(name) {
        None => false,
        Some(context) => context.dev_process.is_none_or(&lives),
    };
    let mut name = NAME.to_owned();
    let mut number = 1;
    while taken(&name) {
        number += 1;
        name = format!("{NAME}-{number}");
    }
    name
}

fn process_lives(id: u32) -> bool {
    id != std::process::id() && std::path::Path::new("/proc").join(id.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(process: Option<u32>) -> Context {
        Context {
            server: "https://127.0.0.1:1".into(),
            token: "t".into(),
            ca: None,
            dev_process: process,
        }
    }

    #[test]
    fn another_fleet_and_a_context_of_ones_own_are_left_alone() {
        let mut all = Contexts::default();
        assert_eq!(free_name(&all, |_| true), "dev");
        all.contexts.insert("dev".into(), context(Some(7)));
        assert_eq!(free_name(&all, |_| false), "dev");
        assert_eq!(free_name(&all, |_| true), "dev-2");
        all.contexts.insert("dev".into(), context(None));
        assert_eq!(free_name(&all, |_| false), "dev-2");
    }

    #[test]
    fn nothing_is_left_behind() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.toml");
        let text = path.display().to_string();
        let file = ConfigFile::locate(&|_| Some(text.clone())).unwrap();
        let registration =
            Registration::write_to(file.clone(), context(Some(std::process::id()))).unwrap();
        assert_eq!(file.read().unwrap().current.as_deref(), Some("dev"));
        assert!(registration.invitation().contains("kernexctl device list"));
        registration.remove().unwrap();
        assert!(!path.exists());
    }
}
