//! Real processes: what must die dies, what may live lives.

use std::{fs, time::Instant};

use kernex_proto::ids::{AttemptId, TargetId};

use super::*;

struct Bench {
    sandbox: Sandbox,
    dir: tempfile::TempDir,
    id: AttemptId,
    env: Vec<(String, String)>,
    new_privs: bool,
}

impl Bench {
    fn new() -> Self {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        Self {
            sandbox: Sandbox::new(tasks, closing),
            dir: tempfile::tempdir().unwrap(),
            id: AttemptId {
                target: TargetId::generate(),
                number: 1,
            },
            env: Vec::new(),
            new_privs: false,
        }
    }

    async fn run(&self, script: &str, limit: Duration) -> (ScriptEnd, String) {
        self.run_until(script, limit, std::future::pending()).await
    }

    async fn run_until(
        &self,
        script: &str,
        limit: Duration,
        interrupted: impl Future<Output = ()>,
    ) -> (ScriptEnd, String) {
        let script = self.script(script);
        let mut output = Output::default();
        let running = self.sandbox.start(script).unwrap();
        let deadline = clock::since_boot() + limit;
        let ended = running
            .wait(&mut output, deadline, async {
                interrupted.await;
                Duration::from_millis(300)
            })
            .await
            .unwrap();
        (ended, output.text())
    }

    fn script<'a>(&'a self, script: &'a str) -> Script<'a> {
        let mut env = vec![
            ("PATH".into(), std::env::var("PATH").unwrap()),
            ("KERNEX_TARGET_ID".into(), self.id.target.to_string()),
            ("KERNEX_ATTEMPT".into(), self.id.number.to_string()),
        ];
        env.extend(self.env.clone());
        Script {
            script,
            dir: self.dir.path(),
            env,
            marker: Marker::new(self.id),
            grace: Duration::from_millis(300),
            spares: Some(75),
            new_privs: self.new_privs,
        }
    }

    fn pid(&self, file: &str) -> i32 {
        let path = self.dir.path().join(file);
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    fn alive(&self, file: &str) -> bool {
        process::Process::read(self.pid(file)).is_some_and(|process| !process.zombie)
    }
}

#[tokio::test]
async fn new_privileges_are_out_of_reach_unless_they_are_allowed() {
    let mut bench = Bench::new();
    for (new_privs, wanted) in [(false, "NoNewPrivs:\t1\n"), (true, "NoNewPrivs:\t0\n")] {
        bench.new_privs = new_privs;
        let (ended, output) = bench.run("grep NoNewPrivs /proc/self/status", LONG).await;
        assert_eq!(ended, ScriptEnd::Exited(0));
        assert_eq!(output, wanted);
    }
}

#[tokio::test]
async fn the_line_of_the_interpreter_counts_without_the_bit() {
    let bench = Bench::new();
    for (name, text, wanted) in [
        (
            "awk.txt",
            "#!/usr/bin/env -S awk -f\nBEGIN { print \"awk\" }\n",
            "awk\n",
        ),
        ("sh", "#!/bin/sh -e\nfalse\necho on\n", ""),
        ("none", "echo plain\n", "plain\n"),
        ("empty", "#!\necho plain\n", "plain\n"),
        ("quo'te", "#! /bin/sh\necho quoted\n", "quoted\n"),
    ] {
        fs::write(bench.dir.path().join(name), text).unwrap();
        let (_, output) = bench.run(name, LONG).await;
        assert_eq!(output, wanted, "{name}");
    }
}

#[tokio::test]
async fn a_link_out_of_the_release_is_not_looked_at() {
    let bench = Bench::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "echo outside\n").unwrap();
    std::os::unix::fs::symlink(outside.path(), bench.dir.path().join("run.sh")).unwrap();
    // It is no file of the bundle, so the shell gets it as a command, and it is not executable.
    let (ended, output) = bench.run("./run.sh", LONG).await;
    assert_eq!(ended, ScriptEnd::Exited(126), "{output}");
    std::os::unix::fs::symlink("real.sh", bench.dir.path().join("inside.sh")).unwrap();
    fs::write(bench.dir.path().join("real.sh"), "echo inside\n").unwrap();
    assert_eq!(bench.run("inside.sh", LONG).await.1, "inside\n");
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn exit_code_and_both_outputs_are_kept() {
    let bench = Bench::new();
    let (ended, output) = bench
        .run("echo out; echo err >&2; echo more; exit 3", LONG)
        .await;
    assert_eq!(ended, ScriptEnd::Exited(3));
    // Each stream keeps its order; between the two it is that in which they are read.
    let lines = |from: &[&str]| {
        let lines = output.lines().filter(|line| from.contains(line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&["out", "more"]), ["out", "more"]);
    assert_eq!(lines(&["err"]), ["err"]);
    assert_eq!(output.lines().count(), 3);
}

#[tokio::test]
async fn what_is_said_is_told_from_what_is_complained_about() {
    use kernex_proto::v1::OutputStream::{Stderr, Stdout};

    let bench = Bench::new();
    let mut output = Output::default();
    output.begin(kernex_proto::v1::Step::Script);
    let script = bench.script("echo out; sleep 0.3; echo err >&2; sleep 0.3; echo more");
    let running = bench.sandbox.start(script).unwrap();
    let deadline = clock::since_boot() + LONG;
    let ended = running.wait(&mut output, deadline, std::future::pending());
    assert_eq!(ended.await.unwrap(), ScriptEnd::Exited(0));
    let (text, marks) = output.marked();
    assert_eq!(text, "out\nerr\nmore\n");
    let marks: Vec<_> = marks
        .iter()
        .map(|mark| (mark.start, mark.stream()))
        .collect();
    assert_eq!(marks, [(0, Stdout), (4, Stderr), (8, Stdout)]);
}

#[tokio::test]
async fn much_output_keeps_its_end() {
    let bench = Bench::new();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo the end";
    let (ended, output) = bench.run(script, LONG).await;
    assert_eq!(ended, ScriptEnd::Exited(0));
    assert!(output.starts_with("line 0\n"));
    assert!(output.ends_with("line 19999\nthe end\n"));
    assert!(output.len() <= kernex_proto::OUTPUT_TAIL_LIMIT);
}

#[tokio::test]
async fn a_file_of_the_bundle_is_run_as_a_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let file = bench.dir.path().join("deploy script.sh");
    fs::write(&file, "echo plain \"$0\"").unwrap();
    let (ended, output) = bench.run("deploy script.sh", LONG).await;
    assert_eq!(
        (ended, output.as_str()),
        (ScriptEnd::Exited(0), "plain ./deploy script.sh\n")
    );
    fs::write(&file, "#!/bin/cat\nshebang\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let (_, output) = bench.run("./deploy script.sh", LONG).await;
    assert!(output.contains("shebang"), "{output}");
}

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    let bench = Bench::new();
    let (_, output) = bench.run("env | grep -v -e ^PATH= -e ^PWD= -e ^KERNEX_ -e ^_= -e ^SHLVL=; grep NoNewPrivs /proc/self/status", LONG).await;
    assert_eq!(output, "NoNewPrivs:\t1\n");
}

#[tokio::test]
async fn the_shell_is_the_systems_whatever_the_manifest_sets() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bench = Bench::new();
    for file in ["sh", "program"] {
        let file = bench.dir.path().join(file);
        fs::write(&file, "#!/bin/sh\necho own $LD_LIBRARY_PATH").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(
        bench.dir.path().join("plain"),
        "echo plain $LD_LIBRARY_PATH",
    )
    .unwrap();
    bench.env = vec![
        ("PATH".into(), ".".into()),
        ("LD_LIBRARY_PATH".into(), "/opt/my libs".into()),
    ];
    let table = [
        ("echo command $LD_LIBRARY_PATH", "command /opt/my libs\n"),
        ("program", "own /opt/my libs\n"),
        ("./plain", "plain /opt/my libs\n"),
        // What the script itself calls is its own affair.
        ("sh", "own /opt/my libs\n"),
    ];
    for (script, expected) in table {
        let (ended, output) = bench.run(script, LONG).await;
        assert_eq!(
            (ended, output.as_str()),
            (ScriptEnd::Exited(0), expected),
            "{script}"
        );
    }
}

#[test]
fn what_the_linker_goes_by_is_set_by_the_shell() {
    let linkers = [("LD_PRELOAD".to_owned(), "evil.so".to_owned())];
    let command = shell(Path::new("/"), "true", &linkers);
    assert_eq!(command.get_program(), SHELL);
    assert_eq!(command.get_args().last().unwrap(), "LD_PRELOAD=evil.so");
    for (name, is) in [
        ("LD_PRELOAD", true),
        ("LD_AUDIT", true),
        ("GLIBC_TUNABLES", true),
        ("LD_with-a-dash", false),
        ("OLD_PATH", false),
        ("PATH", false),
    ] {
        assert_eq!(is_linkers(name), is, "{name}");
    }
}

#[tokio::test]
async fn no_descriptor_of_the_agent_reaches_a_script() {
    let bench = Bench::new();
    let (_, output) = bench.run("ls /proc/self/fd | tr '\\n' ' '", LONG).await;
    // 0, 1, 2 and the one `ls` opens itself.
    assert_eq!(output, "0 1 2 3 ");
}

#[tokio::test]
async fn the_deadline_kills_whoever_ignores_sigterm() {
    let bench = Bench::new();
    let start = Instant::now();
    let script = "trap '' TERM; echo $$ > pid; echo begun; while :; do sleep 1; done";
    let (ended, output) = bench.run(script, Duration::from_millis(500)).await;
    assert_eq!((ended, output.as_str()), (ScriptEnd::TimedOut, "begun\n"));
    assert!(!bench.alive("pid"));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn the_deadline_kills_those_who_left_the_session_and_lost_their_parent() {
    let bench = Bench::new();
    // `a` left the session, `b` lost its parent as well, `c` wiped its environment on top.
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ > a; while :; do sleep 1; done' &
        (setsid sh -c 'echo $$ > b; while :; do sleep 1; done' &)
        (setsid env -i PATH=$PATH sh -c 'echo $$ > c; exec sleep 1000' &)
        while ! [ -s a -a -s b -a -s c ]; do sleep 0.01; done; echo ready; sleep 1000";
    let (ended, output) = bench.run(script, Duration::from_secs(2)).await;
    assert_eq!((ended, output.as_str()), (ScriptEnd::TimedOut, "ready\n"));
    assert!(!bench.alive("a") && !bench.alive("b"));
    // Attribution without a marker needs a process with one script only; other tests run beside
    // this one.
    let pid = rustix::process::Pid::from_raw(bench.pid("c")).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[tokio::test]
async fn a_failing_script_leaves_nobody() {
    let bench = Bench::new();
    let script = "setsid sleep 1000 & echo $! > pid; exit 1";
    let (ended, _) = bench.run(script, LONG).await;
    assert_eq!(ended, ScriptEnd::Exited(1));
    assert!(!bench.alive("pid"));
}

#[tokio::test]
async fn after_success_survivors_live_and_their_pipe_is_neither_awaited_nor_broken() {
    let bench = Bench::new();
    let start = Instant::now();
    let script = "(echo $BASHPID; trap '' TERM; while :; do echo noise; sleep 0.05; done) & echo $! > pid; echo done";
    let (ended, output) = bench.run(script, LONG).await;
    assert_eq!(ended, ScriptEnd::Exited(0));
    assert!(output.contains("done\n"));
    assert!(start.elapsed() < Duration::from_secs(5));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(bench.alive("pid"), "a survivor died of a broken pipe");
    process_tree::kill_interrupted(0, 0, Marker::new(bench.id)).await;
    assert!(!bench.alive("pid"));
}

#[tokio::test]
async fn an_interruption_kills_like_a_deadline() {
    let bench = Bench::new();
    let soon = tokio::time::sleep(Duration::from_millis(300));
    let (ended, _) = bench
        .run_until("echo $$ > pid; sleep 1000", LONG, soon)
        .await;
    assert_eq!(ended, ScriptEnd::Interrupted);
    assert!(!bench.alive("pid"));
}
