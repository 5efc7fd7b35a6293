use super::*;

const MAGIC: Magic = *b"testtabl";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let folder = folder();
    let path = folder.path().join("table");
    let map = GrowableMap::create(&path, MAGIC, 3, 1 << 30).unwrap();
    assert!(map.is_empty());
    map.grow_to(100).unwrap();
    assert_eq!(map.len(), 64 << 10);
    let bytes: Vec<u8> = (0..=255).collect();
    for offset in 1000..1016 {
        map.copy_in(offset, &bytes).unwrap();
        let mut copy = vec![0; 256];
        map.copy_out(offset, &mut copy).unwrap();
        assert_eq!(copy, bytes);
    }
    map.atomic_u64(8).unwrap().store(7, Ordering::Release);
    map.header_word(255).unwrap().store(9, Ordering::Release);
    drop(map);
    let map = GrowableMap::open(&path, MAGIC, 3, 1 << 30).unwrap();
    assert_eq!(map.len(), 64 << 10);
    assert_eq!(map.atomic_u64(8).unwrap().load(Ordering::Acquire), 7);
    assert_eq!(map.header_word(255).unwrap().load(Ordering::Acquire), 9);
    // SAFETY: nobody writes to this map any more.
    assert_eq!(unsafe { map.view(1015, 256) }.unwrap(), bytes);
}

#[test]
fn growing_keeps_references_and_doubles() {
    let folder = folder();
    let map = GrowableMap::create(&folder.path().join("table"), MAGIC, 1, 1 << 24).unwrap();
    map.grow_to(8).unwrap();
    let word = map.atomic_u64(0).unwrap();
    word.store(5, Ordering::Relaxed);
    map.grow_to((64 << 10) + 1).unwrap();
    assert_eq!(map.len(), 128 << 10);
    map.grow_to(1 << 24).unwrap();
    assert_eq!(word.load(Ordering::Relaxed), 5);
    assert_eq!(
        map.grow_to((1 << 24) + 1).unwrap_err().kind,
        ErrorKind::NoSpace
    );
}

#[test]
fn nothing_is_reached_beyond_the_length_or_unaligned() {
    let folder = folder();
    let map = GrowableMap::create(&folder.path().join("table"), MAGIC, 1, 1 << 20).unwrap();
    assert!(map.atomic_u8(0).is_err());
    map.grow_to(1).unwrap();
    let end = map.len();
    assert!(map.atomic_u8(end - 1).is_ok());
    assert!(map.atomic_u32(end - 2).is_err());
    assert!(map.atomic_u64(4).is_err());
    assert!(map.copy_in(end - 1, b"ab").is_err());
    assert!(map.copy_out(u64::MAX, &mut [0]).is_err());
    assert!(map.header_word(256).is_err());
}

#[test]
fn other_formats_and_other_files_are_refused() {
    let folder = folder();
    let path = folder.path().join("table");
    drop(GrowableMap::create(&path, MAGIC, 1, 1 << 20).unwrap());
    let kind = |magic, version| match GrowableMap::open(&path, magic, version, 1 << 20) {
        Ok(_) => panic!("opened"),
        Err(error) => error.kind,
    };
    assert_eq!(kind(MAGIC, 2), ErrorKind::Unsupported);
    assert_eq!(kind(*b"another!", 1), ErrorKind::Corrupt);
    std::fs::write(&path, b"short").unwrap();
    assert_eq!(kind(MAGIC, 1), ErrorKind::Corrupt);
    assert!(GrowableMap::create(&path, MAGIC, 1, 1 << 20).is_err());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(MAGIC, 1), ErrorKind::NotFound);
}
