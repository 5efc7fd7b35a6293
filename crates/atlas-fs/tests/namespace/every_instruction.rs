//! A process is stepped through each operation instruction by instruction. Whenever the tables
//! differ from what they were, they are opened as if it had been killed there: every name must
//! mean what it meant before the operation or what it means after it, never anything else, and
//! the operation must succeed when it is done again.
//!
//! A step takes some 40 us, so that only a few operations are stepped through by default;
//! `ATLAS_TEST_STEPS=all` takes all of them.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    ptr::null_mut,
    sync::Arc,
};

use atlas_core::{Attributes, ExtendedAttribute, Kind};
use atlas_fs::{FolderState, Lookup, Namespace, NewEntry, Node, NodeId};

use crate::support::{Counter, attributes, file, folder, names};

const FOLDER_VARIABLE: &str = "ATLAS_TEST_STEP_FOLDER";
const TABLES: [&str; 5] = ["nodes", "names", "entries", "early", "extended"];
const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "early", "hard", "link", "more"];
const FOLDERS: [NodeId; 2] = [NodeId::ROOT, NodeId(2)];

fn linked() -> Attributes {
    Attributes {
        links: 2,
        ..file(50)
    }
}

/// Of the operations below: those that are stepped through by default.
const SHORT: [&str; 3] = ["early second name", "failed listing", "extended attributes"];

type Operation = fn(&Namespace);

/// In the order in which they are done. `a` is node 2, a folder.
const OPERATIONS: [(&str, Operation); 11] = [
    ("early folder", |namespace| {
        let given = attributes(Kind::Folder, 2);
        namespace
            .set_entry(NodeId::ROOT, b"a", &given, None)
            .unwrap();
    }),
    ("early file of several names", |namespace| {
        namespace
            .set_entry(NodeId(2), b"early", &linked(), None)
            .unwrap();
    }),
    ("early second name", |namespace| {
        namespace
            .set_entry(NodeId(2), b"hard", &linked(), None)
            .unwrap();
    }),
    ("failed listing", |namespace| {
        namespace.set_failed(NodeId(2), 5).unwrap();
    }),
    ("naming", |namespace| {
        namespace
            .name_children(NodeId::ROOT, names(&["d", "b", "c", "link", "hard"]))
            .unwrap();
    }),
    ("naming with early names", |namespace| {
        namespace
            .name_children(NodeId(2), names(&["more", "hard"]))
            .unwrap();
    }),
    ("file", |namespace| {
        namespace
            .set_entry(NodeId::ROOT, b"b", &file(9), None)
            .unwrap();
    }),
    ("link", |namespace| {
        let given = attributes(Kind::Link, 10);
        namespace
            .set_entry(NodeId::ROOT, b"link", &given, Some(b"/target"))
            .unwrap();
    }),
    ("extended attributes", |namespace| {
        let extended = [ExtendedAttribute {
            name: b"user.a".to_vec(),
            value: b"12345".to_vec(),
        }];
        let new = NewEntry {
            name: b"c",
            attributes: &file(11),
            target: None,
            extended: &extended,
        };
        namespace.set_new(NodeId::ROOT, &new).unwrap();
    }),
    ("third name", |namespace| {
        namespace
            .set_entry(NodeId::ROOT, b"hard", &linked(), None)
            .unwrap();
    }),
    ("gone and complete", |namespace| {
        namespace.set_gone(NodeId(2), b"more").unwrap();
        assert!(namespace.complete_if_done(NodeId(2)));
    }),
];

/// All that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    lookups: Vec<Lookup>,
    folders: Vec<(FolderState, Vec<Vec<u8>>)>,
    nodes: Vec<Option<Node>>,
    targets: Vec<Option<Vec<u8>>>,
    extended: Vec<Option<Vec<ExtendedAttribute>>>,
}

fn view(namespace: &Namespace) -> View {
    let both = |at| NAMES.map(move |name| namespace.lookup(at, name.as_bytes()));
    let ids = || (1..20).map(NodeId);
    View {
        lookups: FOLDERS.into_iter().flat_map(both).collect(),
        folders: FOLDERS
            .map(|at| {
                let children = namespace.children(at, 0, 20).into_iter();
                (
                    namespace.folder_state(at),
                    children.map(|child| child.name).collect(),
                )
            })
            .to_vec(),
        nodes: ids().map(|id| namespace.node(id)).collect(),
        targets: ids().map(|id| namespace.link_target(id)).collect(),
        extended: ids()
            .map(|id| namespace.extended_attributes(id).ok())
            .collect(),
    }
}

/// Asserts that each part of `middle` is as before or as after.
fn between(before: &View, middle: &View, after: &View, operation: &str) {
    fn each<T: PartialEq + std::fmt::Debug>(parts: [&[T]; 3], operation: &str) {
        let [before, middle, after] = parts;
        for ((before, middle), after) in before.iter().zip(middle).zip(after) {
            assert!(
                middle == before || middle == after,
                "{operation}: {middle:?} is neither {before:?} nor {after:?}"
            );
        }
    }
    each(
        [&before.lookups, &middle.lookups, &after.lookups],
        operation,
    );
    each(
        [&before.folders, &middle.folders, &after.folders],
        operation,
    );
    each([&before.nodes, &middle.nodes, &after.nodes], operation);
    each(
        [&before.targets, &middle.targets, &after.targets],
        operation,
    );
    each(
        [&before.extended, &middle.extended, &after.extended],
        operation,
    );
}

fn open(tables: &Path) -> Namespace {
    let namespace = Namespace::open(tables, Arc::<Counter>::default()).unwrap();
    let found = namespace.totals();
    let of = |kind| {
        let nodes = (2..30).filter_map(|id| namespace.node(NodeId(id)));
        nodes
            .filter(move |node| node.attributes.kind == kind)
            .count() as u64
    };
    assert_eq!(
        (found.files, found.folders),
        (of(Kind::File), of(Kind::Folder))
    );
    namespace
}

/// Every Ready node is found by its name: none was leaked in a way that counts.
fn assert_reachable(namespace: &Namespace, operation: &str) {
    for node in (2..30).filter_map(|id| namespace.node(NodeId(id))) {
        let name = namespace.name(node.id).unwrap();
        assert_eq!(
            namespace.lookup(node.parent, &name),
            Lookup::Found(node),
            "{operation}"
        );
    }
}

#[test]
#[ignore = "the process that the test below steps through"]
fn operate() {
    let Some(tables) = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let namespace = Namespace::create(&tables, &folder(), Arc::<Counter>::default()).unwrap();
    // SAFETY: asks only that the parent may trace this process.
    if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>()) } != 0 {
        return;
    }
    let stop = || {
        // SAFETY: stops this process until the tracer lets it go on.
        assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    };
    stop();
    for (_, operation) in OPERATIONS {
        operation(&namespace);
        stop();
    }
}

/// One thread of a process, which is killed in the end.
struct Traced {
    process: Child,
    thread: libc::pid_t,
}

impl Traced {
    /// Waits for the first stop; `None` if the process ended instead.
    fn new(process: Child) -> Option<Self> {
        let mut traced = Self {
            process,
            thread: -1,
        };
        let (thread, signal) = traced.wait()?;
        assert_eq!(signal, libc::SIGSTOP);
        traced.thread = thread;
        Some(traced)
    }

    /// Who was stopped by which signal; `None` if it ended. Only children of this thread count:
    /// other tests have their own.
    fn wait(&self) -> Option<(libc::pid_t, i32)> {
        let mut status = 0;
        let options = libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: `status` is a place for the answer.
        let stopped = unsafe { libc::waitpid(self.thread, &raw mut status, options) };
        assert!(stopped > 0);
        libc::WIFSTOPPED(status).then(|| (stopped, libc::WSTOPSIG(status)))
    }

    /// Lets it go on; gives the signal that stopped it next.
    fn resume(&self, how: libc::c_uint) -> i32 {
        // SAFETY: a stopped thread that asked to be traced by us; no signal is delivered.
        let asked = unsafe { libc::ptrace(how, self.thread, null_mut::<u8>(), null_mut::<u8>()) };
        assert_eq!(asked, 0);
        self.wait().unwrap().1
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.process.kill();
        if self.thread > 0 {
            // A process ends only after its tracer has seen the traced thread end.
            while self.wait().is_some() {}
        }
        let _ = self.process.wait();
    }
}

/// The counters and the first rows of all tables: all that these operations change.
fn contents(files: &[File; 5]) -> Vec<u8> {
    let mut bytes = vec![0; 7160];
    let (counters, rows) = bytes.split_at_mut(56);
    files[0].read_exact_at(counters, 2048).unwrap();
    let (nodes, rows) = rows.split_at_mut(3072);
    for (file, part) in files
        .iter()
        .zip([nodes].into_iter().chain(rows.chunks_mut(1008)))
    {
        // A table that is empty as yet ends before.
        let _ = file.read_at(part, 4096).unwrap();
    }
    bytes
}

#[test]
fn tables_are_good_after_every_instruction() {
    let base = tempfile::tempdir().unwrap();
    let tables = base.path().join("tables");
    // One CPU for both: a switch between two costs ten times as much.
    let cpu = rustix::thread::sched_getcpu();
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "every_instruction::operate",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER_VARIABLE, &tables)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let Some(traced) = Traced::new(child) else {
        return println!("skipped: this machine does not let a process be traced");
    };
    let files = TABLES.map(|name| File::open(tables.join(name)).unwrap());
    let (mut steps, mut states) = (0_u64, 0);
    let mut before = view(&open(&tables));
    let all = std::env::var_os("ATLAS_TEST_STEPS").is_some_and(|which| which == "all");
    for (operation, again) in OPERATIONS {
        if !all && !SHORT.contains(&operation) {
            assert_eq!(
                traced.resume(libc::PTRACE_CONT),
                libc::SIGSTOP,
                "{operation} failed"
            );
            before = view(&open(&tables));
            continue;
        }
        let mut last = contents(&files);
        let mut middles = Vec::new();
        loop {
            let signal = traced.resume(libc::PTRACE_SINGLESTEP);
            if signal == libc::SIGSTOP {
                break;
            }
            assert_eq!(signal, libc::SIGTRAP, "{operation} failed");
            steps += 1;
            let now = contents(&files);
            if now != last {
                last = now;
                states += 1;
                let namespace = open(&tables);
                assert_reachable(&namespace, operation);
                middles.push(view(&namespace));
                drop(namespace);
                redo(&tables, base.path(), &before, again, operation);
            }
        }
        assert!(!middles.is_empty(), "{operation} changed nothing");
        let after = view(&open(&tables));
        for middle in &middles {
            between(&before, middle, &after, operation);
        }
        before = after;
    }
    println!("{steps} instructions, {states} states of the tables");
}

/// The process after a kill does the operation anew, on a copy.
fn redo(tables: &Path, base: &Path, before: &View, again: Operation, operation: &str) {
    let copy = base.join("copy");
    fs::create_dir_all(&copy).unwrap();
    for name in TABLES {
        fs::copy(tables.join(name), copy.join(name)).unwrap();
    }
    let namespace = open(&copy);
    let middle = view(&namespace);
    again(&namespace);
    assert_reachable(&namespace, operation);
    let after = view(&namespace);
    for (old, new) in before
        .nodes
        .iter()
        .chain(&middle.nodes)
        .zip(after.nodes.iter().cycle())
    {
        assert!(
            old.is_none() || old == new,
            "{operation}: {new:?} was {old:?}"
        );
    }
    for (old, new) in middle.lookups.iter().zip(&after.lookups) {
        let kept = !matches!(old, Lookup::Found(_)) || old == new;
        assert!(kept, "{operation}: {new:?} was {old:?}");
    }
    assert_eq!(view(&open(&copy)), after, "{operation}");
}
