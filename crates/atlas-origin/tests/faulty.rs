//! The wrapper hits the requests that it was told to hit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::sync::Arc;

use atlas_core::ErrorKind;
use atlas_origin::{Effect, Fault, FaultyOrigin, Operation, Origin, ReadRequest};
use common::open;
use tempfile::TempDir;

fn with(fault: Fault) -> (TempDir, FaultyOrigin) {
    let root = TempDir::new().unwrap();
    for number in 0..4 {
        fs::write(root.path().join(number.to_string()), b"0123456789").unwrap();
    }
    let inner: Arc<dyn Origin> = Arc::new(open(root.path()));
    (root, FaultyOrigin::new(inner, [fault]))
}

const fn on_reads(at: u64, repeat: bool, effect: Effect) -> Fault {
    Fault {
        operation: Some(Operation::Read),
        at,
        repeat,
        effect,
    }
}

#[test]
fn only_the_counted_request_fails() {
    let (_root, origin) = with(on_reads(2, false, Effect::Fail(libc::EIO)));
    let tag = origin.stat(b"0").unwrap().attributes.tag();
    let errnos: Vec<_> = (0..4)
        .map(|_| {
            origin
                .read(b"0", &tag, 0, &mut [0; 10])
                .map_err(|error| error.errno)
        })
        .collect();
    assert_eq!(errnos, [Ok(()), Err(libc::EIO), Ok(()), Ok(())]);
    assert_eq!(origin.injected(), 1);
}

#[test]
fn requests_of_a_batch_count_one_by_one() {
    let (_root, origin) = with(on_reads(2, true, Effect::Fail(libc::EIO)));
    let names = [b"0".as_slice(), b"1", b"2", b"3"];
    let tags = names.map(|name| origin.stat(name).unwrap().attributes.tag());
    let mut buffers = [[0; 10]; 4];
    let mut requests: Vec<_> = names
        .iter()
        .zip(&tags)
        .zip(&mut buffers)
        .map(|((name, tag), buffer)| ReadRequest { name, tag, buffer })
        .collect();
    let answers = origin.read_many(b"", &mut requests).unwrap();
    assert_eq!(
        answers.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false, true, false]
    );
    assert_eq!(&buffers[2], b"0123456789");
    assert_eq!(origin.injected(), 2);
}

#[test]
fn short_and_changed_files_are_stale() {
    let (_root, origin) = with(on_reads(1, false, Effect::Short));
    let tag = origin.stat(b"0").unwrap().attributes.tag();
    let mut buffer = [0; 10];
    let short = origin.read(b"0", &tag, 0, &mut buffer).unwrap_err();
    assert_eq!(
        (short.kind, &buffer),
        (ErrorKind::Stale, b"01234\0\0\0\0\0")
    );

    let changed = Fault {
        operation: None,
        at: 1,
        repeat: true,
        effect: Effect::ChangedTag,
    };
    origin.add(changed);
    assert_ne!(origin.stat(b"0").unwrap().attributes.tag(), tag);
    assert_eq!(
        origin.read(b"0", &tag, 0, &mut buffer).unwrap_err().kind,
        ErrorKind::Stale
    );
    origin.heal();
    assert_eq!(origin.stat(b"0").unwrap().attributes.tag(), tag);
    origin.read(b"0", &tag, 0, &mut buffer).unwrap();
}
