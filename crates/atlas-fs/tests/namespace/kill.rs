//! A process changes the tables with several threads; it is stopped at random moments, when its
//! tables are copied and looked at, and killed; the next one goes on where it was.
//!
//! `ATLAS_TEST_KILLS=n` kills that often.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use atlas_core::{Address, Kind, Result, round_up_to_page};
use atlas_fs::{Allocate, FolderState, Lookup, Namespace, NewEntry, Node, NodeId};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::{
    support::{Counter, Random, folder},
    tree,
};

const FOLDER_VARIABLE: &str = "ATLAS_TEST_KILL_FOLDER";
const SNAPSHOTS_A_ROUND: u64 = 5;

/// Survives the process, like a volume.
struct FileCounter(Mutex<File>);

impl Allocate for FileCounter {
    fn allocate(&self, size: u64, _early: bool) -> Result<Address> {
        let file = self.0.lock().unwrap();
        let mut word = [0; 8];
        let start = file
            .read_exact_at(&mut word, 0)
            .map_or(0, |()| u64::from_ne_bytes(word));
        file.write_all_at(&(start + round_up_to_page(size)).to_ne_bytes(), 0)
            .unwrap();
        Ok(Address(start))
    }
}

struct Mutator {
    namespace: Namespace,
    answers: File,
}

impl Mutator {
    /// One write each, so that answers of several threads do not mix.
    fn bound(&self, folder: NodeId, name: &[u8], node: &Node) {
        let name = String::from_utf8_lossy(name);
        let place = node.address.map_or(u64::MAX, |address| address.0);
        let line = format!("{} {name} {} {place}\n", folder.0, node.id.0);
        (&self.answers).write_all(line.as_bytes()).unwrap();
    }

    fn named(&self, folder: NodeId, count: usize) {
        (&self.answers)
            .write_all(format!("{} {count}\n", folder.0).as_bytes())
            .unwrap();
    }

    fn scan(&self) {
        let mut folders = self.namespace.unfinished_folders();
        folders.reverse();
        while let Some(folder) = folders.pop() {
            let path = self.namespace.path(folder).unwrap();
            let listed = tree::names(&path);
            let hinted = listed.iter().map(|name| (name.clone(), None)).collect();
            self.named(
                folder,
                self.namespace.name_children(folder, hinted).unwrap(),
            );
            let known: Vec<_> = listed
                .iter()
                .map(|name| tree::join(&path, name))
                .map(|path| (tree::entry(&path), tree::extended(&path)))
                .collect();
            let entries: Vec<_> = listed
                .iter()
                .zip(&known)
                .map(|(name, ((attributes, target), extended))| NewEntry {
                    name,
                    attributes,
                    target: target.as_deref(),
                    extended,
                })
                .collect();
            for (name, node) in listed
                .iter()
                .zip(self.namespace.set_entries(folder, &entries))
            {
                let node = node.unwrap();
                self.bound(folder, name, &node);
                if node.attributes.kind == Kind::Folder {
                    folders.insert(0, node.id);
                }
            }
            assert!(self.namespace.complete_if_done(folder));
        }
    }

    /// Goes down random paths, as a reader would.
    fn read(&self, mut random: Random) {
        loop {
            let (mut folder, mut path) = (NodeId::ROOT, Vec::new());
            for _ in 0..8 {
                let name = random.pick(&tree::names(&path)).clone();
                path = tree::join(&path, &name);
                let node = match self.namespace.lookup(folder, &name) {
                    Lookup::Found(node) => node,
                    Lookup::Absent => panic!("lost {}", String::from_utf8_lossy(&path)),
                    Lookup::Named(_) | Lookup::Unknown => {
                        let (attributes, target) = tree::entry(&path);
                        let new = NewEntry {
                            name: &name,
                            attributes: &attributes,
                            target: target.as_deref(),
                            extended: &tree::extended(&path),
                        };
                        self.namespace.set_new(folder, &new).unwrap()
                    }
                };
                self.bound(folder, &name, &node);
                if node.attributes.kind != Kind::Folder {
                    break;
                }
                folder = node.id;
            }
        }
    }
}

#[test]
#[ignore = "the process that the test below stops and kills"]
fn mutate_until_killed() {
    let Some(base) = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let open = |name| {
        OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(base.join(name))
    };
    let counter = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(base.join("allocated"))
        .unwrap();
    let allocator = Arc::new(FileCounter(Mutex::new(counter)));
    let tables = base.join("tables");
    let namespace = if tables.exists() {
        Namespace::open(&tables, allocator).unwrap()
    } else {
        Namespace::create(&tables, &folder(), allocator).unwrap()
    };
    // Killed within a write, the last process may have left a line that is cut short.
    let answers = open("answers").unwrap();
    let told = fs::read(base.join("answers")).unwrap();
    let whole = (told.iter().rposition(|byte| *byte == b'\n')).map_or(0, |end| end + 1);
    answers.set_len(whole as u64).unwrap();
    let mutator = Mutator { namespace, answers };
    println!("\nmutating");
    thread::scope(|scope| {
        scope.spawn(|| mutator.scan());
        for seed in 0..2 {
            let seed = seed + 10 * u64::from(std::process::id());
            let mutator = &mutator;
            scope.spawn(move || mutator.read(Random(seed)));
        }
    });
}

fn start(base: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::mutate_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER_VARIABLE, base)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "mutating"),
        "the process ended early"
    );
    child
}

fn copy(base: &Path, to: &Path) {
    fs::create_dir_all(to.join("tables")).unwrap();
    for name in [
        "answers",
        "tables/nodes",
        "tables/names",
        "tables/entries",
        "tables/early",
        "tables/extended",
    ] {
        fs::copy(base.join(name), to.join(name)).unwrap();
    }
}

/// Opens the tables and looks whether they hold every answer; gives the number of answers.
fn check(base: &Path) -> usize {
    let namespace = Namespace::open(&base.join("tables"), Arc::<Counter>::default()).unwrap();
    let answers = fs::read_to_string(base.join("answers")).unwrap();
    let mut meanings = HashMap::new();
    // Stopped within a write, the last line may be cut short.
    let whole = &answers[..answers.rfind('\n').map_or(0, |end| end + 1)];
    let distinct: HashSet<&str> = whole.lines().collect();
    for line in &distinct {
        let parts: Vec<_> = line.split(' ').collect();
        let number = |index: usize| parts[index].parse::<u64>().unwrap();
        let folder = NodeId(number(0));
        if parts.len() == 2 {
            let children = namespace.children(folder, 0, usize::MAX);
            assert_eq!(children.len() as u64, number(1), "{line}");
            continue;
        }
        let Lookup::Found(node) = namespace.lookup(folder, parts[1].as_bytes()) else {
            panic!("lost: {line}");
        };
        let place = node.address.map_or(u64::MAX, |address| address.0);
        assert_eq!((node.id.0, place), (number(2), number(3)), "{line}");
        let path = tree::join(&namespace.path(folder).unwrap(), parts[1].as_bytes());
        let (attributes, target) = tree::entry(&path);
        assert_eq!(node.attributes, attributes, "{line}");
        assert_eq!(namespace.link_target(node.id), target, "{line}");
        let extended = namespace.extended_attributes(node.id).unwrap();
        assert_eq!(extended, tree::extended(&path), "{line}");
        let meaning = (attributes.inode, attributes.links);
        assert_eq!(
            *meanings.entry(node.id).or_insert(meaning),
            meaning,
            "{line}"
        );
    }
    check_sums(&namespace);
    distinct.len()
}

/// What no answer tells: addresses lie apart, sums are those of the names that can be found.
fn check_sums(namespace: &Namespace) {
    let mut ranges = Vec::new();
    let mut bytes = 0;
    namespace.for_each_file(|node| {
        bytes += node.attributes.size;
        if let Some(address) = node.address {
            ranges.push((
                address.0,
                address.0 + round_up_to_page(node.attributes.size),
            ));
        }
        assert_eq!(node.address.is_some(), node.attributes.size > 0);
        let name = namespace.name(node.id).unwrap();
        assert_eq!(namespace.lookup(node.parent, &name), Lookup::Found(*node));
    });
    ranges.sort_unstable();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "addresses overlap"
    );
    assert_eq!(namespace.totals().bytes, bytes);
    for folder in namespace.unfinished_folders() {
        if namespace.folder_state(folder) == FolderState::Unlisted {
            assert_eq!(namespace.children(folder, 0, 1), []);
            continue;
        }
        let mut listed: Vec<_> = tree::names(&namespace.path(folder).unwrap());
        listed.sort_unstable();
        let children = namespace.children(folder, 0, usize::MAX);
        assert_eq!(
            children
                .into_iter()
                .map(|child| child.name)
                .collect::<Vec<_>>(),
            listed
        );
    }
}

#[test]
fn a_killed_process_leaves_tables_that_agree_with_its_answers() {
    let base = tempfile::tempdir().unwrap();
    let mut random = Random(u64::from(std::process::id()));
    let kills = std::env::var("ATLAS_TEST_KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    println!("seed {}", random.0);
    let mut snapshots = Vec::new();
    for round in 0..kills.unwrap_or(4_u64) {
        let mut child = start(base.path());
        let pid = Pid::from_child(&child);
        for number in 0..SNAPSHOTS_A_ROUND {
            // The moment is what is random here: nothing is waited for.
            thread::sleep(Duration::from_micros(random.below(6000)));
            kill_process(pid, Signal::STOP).unwrap();
            let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
            assert!(status.stopped(), "the process ended: {status:?}");
            let to = base.path().join(format!("snapshot-{round}-{number}"));
            copy(base.path(), &to);
            snapshots.push(to);
            kill_process(pid, Signal::CONT).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check(base.path());
    }
    let counts: Vec<_> = snapshots.iter().map(|folder| check(folder)).collect();
    println!("{} snapshots with {:?} answers", counts.len(), counts);
    assert!(counts.last() > counts.first(), "nothing happened");
}
