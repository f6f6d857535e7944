//! Who belongs to a script, by tables of processes.

use super::*;
use kernex_proto::ids::TargetId;

fn process(pid: i32, parent: i32, group: i32, session: i32, start_ticks: u64) -> Process {
    Process {
        pid,
        parent,
        group,
        session,
        start_ticks,
        zombie: false,
    }
}

const ME: i32 = 10;

fn members(table: &[Process], alone: bool, marks: &[(i32, Mark)]) -> Vec<i32> {
    let root = Root {
        pid: 100,
        start_ticks: 1000,
    };
    let mark = |pid| {
        let found = marks.iter().find(|(marked, _)| *marked == pid);
        found.map_or(Mark::None, |(_, mark)| *mark)
    };
    let mut pids: Vec<i32> = members_of(table, root, table[0], alone, mark)
        .iter()
        .map(|member| member.pid)
        .collect();
    pids.sort_unstable();
    pids
}

#[test]
fn children_groups_and_marked_orphans_belong() {
    let table = [
        process(ME, 1, ME, 5, 1),
        process(100, ME, 100, 5, 1000),
        process(101, 100, 100, 5, 1001),
        // Left the session, kept the parent.
        process(102, 101, 102, 102, 1002),
        // Lost its parent, kept the group.
        process(103, ME, 100, 5, 1003),
        // Lost both, kept the marker; and its child, which wiped it.
        process(104, ME, 104, 104, 1004),
        process(105, 104, 105, 105, 1005),
        // Somebody else's.
        process(200, ME, ME, 5, 1006),
        process(201, 1, 201, 201, 1007),
    ];
    let marks = [(104, Mark::Ours)];
    assert_eq!(
        members(&table, false, &marks),
        [100, 101, 102, 103, 104, 105]
    );
}

#[test]
fn an_unmarked_orphan_belongs_only_to_a_script_that_was_alone() {
    let table = [
        process(ME, 1, ME, 5, 1),
        process(100, ME, 100, 5, 1000),
        process(104, ME, 104, 104, 1004),
        // A late child of a daemon that an earlier script left.
        process(50, ME, 50, 50, 900),
        process(106, ME, 50, 50, 1006),
    ];
    assert_eq!(members(&table, true, &[]), [100, 104]);
    assert_eq!(members(&table, false, &[]), [100]);
    assert_eq!(members(&table, true, &[(104, Mark::Others)]), [100]);
}

#[test]
fn an_id_that_was_given_out_again_is_not_the_script() {
    let table = [process(ME, 1, ME, 5, 1), process(100, 1, 100, 100, 2000)];
    assert_eq!(members(&table, true, &[]), [0; 0]);
}

#[test]
fn names_cannot_confuse_the_process_table() {
    let stat = "42 (a) Z 1 (b)) S 7 42 41 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
    let parsed = Process::parse(stat).unwrap();
    assert_eq!(
        parsed,
        Process {
            pid: 42,
            parent: 7,
            group: 42,
            session: 41,
            start_ticks: 12345,
            zombie: false
        }
    );
}

#[test]
fn a_marker_is_matched_whole() {
    let id = |number| AttemptId {
        target: TargetId(uuid::Uuid::nil()),
        number,
    };
    let environ = |number| {
        format!(
            "A=1\0KERNEX_TARGET_ID={}\0KERNEX_ATTEMPT={number}\0",
            TargetId(uuid::Uuid::nil())
        )
    };
    let marker = Marker::new(id(1));
    assert_eq!(marker.judge(environ(1).as_bytes()), Mark::Ours);
    assert_eq!(marker.judge(environ(12).as_bytes()), Mark::Others);
    assert_eq!(marker.judge(b"A=1\0"), Mark::None);
}
