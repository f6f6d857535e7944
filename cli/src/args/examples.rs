//! Examples below the help of each command, in one table, so that none is forgotten.

use clap::Command;

/// The words of a command and its examples, a line each.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "status",
        &["kernexctl status", "kernexctl status --limit 20 -o json"],
    ),
    (
        "context add",
        &[
            "kernexctl context add prod --server https://kernex.example:7443 \\\n      --ca ca.pem --token-file token",
        ],
    ),
    ("context use", &["kernexctl context use prod"]),
    ("context list", &["kernexctl context list"]),
    ("context current", &["kernexctl context current"]),
    ("context rename", &["kernexctl context rename prod berlin"]),
    ("context delete", &["kernexctl context delete prod --yes"]),
    (
        "context export",
        &["kernexctl context export prod --file kernex.json"],
    ),
    (
        "enrollment create",
        &[
            "kernexctl enrollment create --uses 10 --label site=berlin -o name > token",
            "kernexctl enrollment create --replace edge-1   a new key for a re-imaged disk",
        ],
    ),
    ("enrollment list", &["kernexctl enrollment list"]),
    (
        "enrollment revoke",
        &["kernexctl enrollment revoke ID --yes"],
    ),
    (
        "device list",
        &[
            "kernexctl device list -l site=berlin --status offline",
            "kernexctl device list --bundle tool:1.0 --name 'edge-1*' -o name",
            "kernexctl device list --drifted --sort -last_seen --limit 20",
            "kernexctl device list --unseen-for 7d --columns name,last-seen,labels",
            "kernexctl device list --watch",
        ],
    ),
    (
        "device get",
        &[
            "kernexctl device get edge-1",
            "kernexctl device get edge-1 edge-2 -o json",
        ],
    ),
    (
        "device label",
        &[
            "kernexctl device label edge-1 site=berlin canary-",
            "kernexctl device label -l site=berlin wave=2 --yes",
        ],
    ),
    (
        "device metrics",
        &["kernexctl device metrics edge-1 --limit 100 -o jsonl"],
    ),
    ("device history", &["kernexctl device history edge-1"]),
    ("device output", &["kernexctl device output edge-1"]),
    (
        "device resolve",
        &[
            "kernexctl device resolve edge-1",
            "kernexctl device resolve edge-1 --allow-downgrade --yes",
        ],
    ),
    ("device delete", &["kernexctl device delete edge-1 --yes"]),
    ("bundle init", &["kernexctl bundle init ./tool --name tool"]),
    (
        "bundle pack",
        &["kernexctl bundle pack ./tool -o tool.tar.gz"],
    ),
    (
        "bundle push",
        &[
            "kernexctl bundle push ./tool",
            "kernexctl bundle push tool.tar.gz --name tool",
        ],
    ),
    (
        "bundle pull",
        &[
            "kernexctl bundle pull tool:1.0",
            "kernexctl bundle pull b59ef6c193ab -o tool.tar.gz",
            "kernexctl bundle pull tool -o - | tar --list --gzip",
        ],
    ),
    (
        "bundle list",
        &["kernexctl bundle list --name tool --limit 5"],
    ),
    (
        "bundle get",
        &[
            "kernexctl bundle get tool:1.0",
            "kernexctl bundle get tool     its newest version",
        ],
    ),
    (
        "bundle delete",
        &[
            "kernexctl bundle delete tool:1.0",
            "kernexctl bundle delete --gc --older-than 30d",
        ],
    ),
    (
        "deploy",
        &[
            "kernexctl deploy tool:1.0 --to site=berlin --watch",
            "kernexctl deploy tool --to '*' --plan         the newest version; no change",
            "kernexctl deploy ./tool --device edge-1 -w    packs and pushes first",
            "kernexctl deploy tool:2.0 --to '*' --name n7   then: deployment watch n7",
            "kernexctl deploy tool:2.0 --to '*' --canary 2 --on-failure rollback",
            "kernexctl deploy tool:2.0 --to '*' \\\n      --window 'Mon-Fri 02:00-04:00 Europe/Berlin'",
        ],
    ),
    (
        "config set",
        &[
            "kernexctl config set berlin --to site=berlin --heartbeat 30s --value A=1",
            "kernexctl config set loud --device edge-1 --log kernex_agent=debug",
        ],
    ),
    ("config list", &["kernexctl config list"]),
    ("config get", &["kernexctl config get edge-1"]),
    ("config delete", &["kernexctl config delete berlin --yes"]),
    (
        "deployment list",
        &[
            "kernexctl deployment list --state open            what is not finished",
            "kernexctl deployment list --state failed --since 2d",
            "kernexctl deployment list --bundle tool --by ada --limit 0 -o jsonl",
        ],
    ),
    (
        "deployment get",
        &[
            "kernexctl deployment get 01a22470-1f3c            the first digits do",
            "kernexctl deployment get ID --state failed --reason disk_full",
            "kernexctl deployment get ID --phase 2 --limit 0   all devices of phase 2",
        ],
    ),
    (
        "deployment watch",
        &[
            "kernexctl deployment watch ID",
            "kernexctl deployment watch ID --timeout 30m -o jsonl",
        ],
    ),
    (
        "deployment output",
        &["kernexctl deployment output ID --device edge-1"],
    ),
    (
        "deployment cancel",
        &["kernexctl deployment cancel ID --yes"],
    ),
    (
        "deployment rollback",
        &[
            "kernexctl deployment rollback ID --plan",
            "kernexctl deployment rollback ID --yes --watch",
        ],
    ),
    (
        "deployment pause",
        &["kernexctl deployment pause ID --reason 'the fix is on its way'"],
    ),
    ("deployment resume", &["kernexctl deployment resume ID"]),
    (
        "deployment promote",
        &[
            "kernexctl deployment promote ID",
            "kernexctl deployment approve ID --phase 2",
        ],
    ),
    (
        "deployment retry",
        &["kernexctl deployment retry ID --device edge-1"],
    ),
    (
        "deployment halt",
        &["kernexctl deployment halt ID --yes --timeout 1m"],
    ),
    (
        "event watch",
        &[
            "kernexctl event watch --kind device.drifted --kind deployment",
            "kernexctl event watch --device edge-1 --since 2h",
            "kernexctl event watch --after 0 -o jsonl",
        ],
    ),
    (
        "output",
        &[
            "kernexctl output edge-1",
            "kernexctl output --deployment ID --raw",
        ],
    ),
    (
        "token create",
        &["kernexctl token create ci --role operator --ttl 90d"],
    ),
    ("token list", &["kernexctl token list"]),
    ("token revoke", &["kernexctl token revoke ci --yes"]),
    ("audit list", &["kernexctl audit list --since 1d -o jsonl"]),
    (
        "get devices",
        &[
            "kernexctl get devices --status offline",
            "kernexctl describe device edge-1",
        ],
    ),
    (
        "get deployments",
        &[
            "kernexctl get deployments --state open",
            "kernexctl get deployment 01a22470-1f3c",
        ],
    ),
    (
        "get bundles",
        &["kernexctl get bundles", "kernexctl get bundle tool:1.0"],
    ),
    (
        "get configs",
        &["kernexctl get configs", "kernexctl get config edge-1"],
    ),
    ("get contexts", &["kernexctl get contexts"]),
    ("get enrollments", &["kernexctl get enrollments"]),
    ("delete device", &["kernexctl rm device edge-1 --yes"]),
    ("delete bundle", &["kernexctl rm bundle tool:1.0"]),
    ("delete config", &["kernexctl rm config berlin"]),
    ("delete context", &["kernexctl rm context prod"]),
    (
        "wait device",
        &[
            "kernexctl wait device edge-1 --for online --timeout 10m",
            "kernexctl wait device edge-1 --for settled",
        ],
    ),
    (
        "wait deployment",
        &["kernexctl wait deployment ID --timeout 1h"],
    ),
    (
        "explain",
        &["kernexctl explain disk_full", "kernexctl explain | less"],
    ),
    (
        "doctor",
        &[
            "kernexctl doctor",
            "kernexctl --context prod doctor -o json",
        ],
    ),
    (
        "support-bundle",
        &[
            "kernexctl support-bundle",
            "kernexctl support-bundle fleet.json",
        ],
    ),
    ("whoami", &["kernexctl whoami"]),
    (
        "version",
        &["kernexctl version", "kernexctl version --client -o name"],
    ),
    (
        "dev",
        &[
            "kernexctl dev",
            "kernexctl dev --devices 10 --data-dir ./fleet",
        ],
    ),
    (
        "completion",
        &[
            "source <(kernexctl completion bash)               in ~/.bashrc",
            "source <(kernexctl completion zsh)                in ~/.zshrc",
            "kernexctl completion fish | source             in ~/.config/fish/config.fish",
        ],
    ),
    ("man", &["kernexctl man /usr/local/share/man/man1"]),
];

/// The same command with examples below the help of each command that has some.
pub(crate) fn with_examples(command: Command) -> Command {
    add(command, "")
}

fn add(mut command: Command, words: &str) -> Command {
    if let Some((_, lines)) = EXAMPLES.iter().find(|(known, _)| *known == words) {
        command = command.after_help(format!("Examples:\n  {}", lines.join("\n  ")));
    }
    let below: Vec<String> = command
        .get_subcommands()
        .map(|below| below.get_name().to_owned())
        .collect();
    below.into_iter().fold(command, |command, name| {
        let words = format!("{words} {name}").trim_start().to_owned();
        command.mut_subcommand(name, |below| add(below, &words))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    /// Commands without commands below them.
    fn leaves(command: &Command, words: &str, found: &mut Vec<String>) {
        let mut is_leaf = true;
        for below in command.get_subcommands() {
            if below.get_name() != "help" {
                is_leaf = false;
                let words = format!("{words} {}", below.get_name());
                leaves(below, words.trim_start(), found);
            }
        }
        if is_leaf && !command.is_hide_set() {
            found.push(words.to_owned());
        }
    }

    #[test]
    fn every_command_has_examples_that_can_be_typed() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() > 40, "{found:?}");
        for words in found {
            let examples = EXAMPLES.iter().find(|(known, _)| *known == words);
            let (_, lines) = examples.unwrap_or_else(|| panic!("`{words}` has no examples"));
            for line in *lines {
                // What follows several blanks is a remark; the shell's own words end an example.
                let line = line.replace("\\\n      ", "");
                let typed = line.split("   ").next().unwrap_or_default();
                let typed = typed.split(['>', '|']).next().unwrap_or_default();
                let typed = typed.trim_start_matches("source <(").trim_end_matches(')');
                let words = typed.replace("'Mon-Fri 02:00-04:00 Europe/Berlin'", "'W'");
                let words = words
                    .replace("'the fix is on its way'", "'W'")
                    .replace('\'', "");
                let parsed =
                    with_examples(Cli::command()).try_get_matches_from(words.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn an_example_stands_below_its_help() {
        let mut command = with_examples(Cli::command());
        command.build();
        let list = command
            .find_subcommand_mut("device")
            .and_then(|device| device.find_subcommand_mut("list"))
            .unwrap();
        let help = list.render_help().to_string();
        assert!(help.contains("--unseen-for 7d"), "{help}");
    }
}
