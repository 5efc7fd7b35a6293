//! A tier folder is recognised by its marker, and is nobody else's.

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use atlas_core::ErrorKind;
use atlas_store::{Medium, Tier};
use common::in_memory;

/// The kind of the refusal; none when it was opened.
fn refusal(folder: &Path, medium: Medium, create: bool, uuid: Option<&str>) -> Option<ErrorKind> {
    Tier::open(folder, medium, create, uuid)
        .err()
        .map(|error| error.kind)
}

#[test]
fn it_is_made_once_and_found_again() {
    let home = in_memory();
    let folder = home.path().join("tier");
    assert_eq!(
        refusal(&folder, Medium::Memory, false, None),
        Some(ErrorKind::NotFound)
    );
    let uuid = Tier::open(&folder, Medium::Memory, true, None)
        .unwrap()
        .uuid()
        .to_owned();
    assert_eq!(
        folder.metadata().unwrap().permissions().mode() & 0o7777,
        0o700
    );
    for (create, expected) in [(true, None), (false, None), (false, Some(uuid.as_str()))] {
        let tier = Tier::open(&folder, Medium::Memory, create, expected).unwrap();
        assert_eq!(tier.uuid(), uuid);
        assert!(tier.free_bytes().unwrap() > 0 && tier.granule().is_multiple_of(4096));
    }
    assert_eq!(
        refusal(&folder, Medium::Ssd, true, None),
        Some(ErrorKind::Invalid)
    );
    assert_eq!(
        refusal(&folder, Medium::Memory, true, Some("other")),
        Some(ErrorKind::Conflict)
    );
}

#[test]
fn an_unmounted_disk_is_noticed_and_nothing_is_written_to_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("disk");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    for create in [false, true] {
        assert_eq!(
            refusal(&folder, Medium::Ssd, create, Some("expected")),
            Some(ErrorKind::NotFound)
        );
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
    std::fs::remove_dir(&folder).unwrap();
    assert_eq!(
        refusal(&folder, Medium::Ssd, true, Some("expected")),
        Some(ErrorKind::NotFound)
    );
    assert!(!folder.exists());
}

#[test]
fn a_memory_tier_is_made_anew_after_a_reboot() {
    let home = in_memory();
    let folder = home.path().join("tier");
    let tier = Tier::open(&folder, Medium::Memory, true, Some("the-old-uuid")).unwrap();
    assert_eq!(tier.uuid(), "the-old-uuid");
    let on_disk = tempfile::tempdir().unwrap();
    assert_eq!(
        refusal(on_disk.path(), Medium::Memory, true, None),
        Some(ErrorKind::Invalid)
    );
    assert_eq!(std::fs::read_dir(on_disk.path()).unwrap().count(), 0);
}

#[test]
fn links_and_foreign_folders_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let real = home.path().join("real");
    drop(Tier::open(&real, Medium::Ssd, true, None).unwrap());
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let slash = home.path().join("link/");
    for path in [&link, &slash] {
        assert_eq!(
            refusal(path, Medium::Ssd, true, None),
            Some(ErrorKind::Denied)
        );
    }
    std::fs::set_permissions(&real, PermissionsExt::from_mode(0o750)).unwrap();
    assert_eq!(
        refusal(&real, Medium::Ssd, true, None),
        Some(ErrorKind::Denied)
    );

    let full = home.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("thesis.tex"), "").unwrap();
    assert_eq!(
        refusal(&full, Medium::Ssd, true, None),
        Some(ErrorKind::Conflict)
    );

    let foreign = home.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    match std::os::unix::fs::chown(&foreign, Some(12345), None) {
        Ok(()) => assert_eq!(
            refusal(&foreign, Medium::Ssd, true, None),
            Some(ErrorKind::Denied)
        ),
        Err(error) => println!("foreign owner not tried: chown needs root ({error})"),
    }
}

#[test]
fn an_empty_folder_is_closed_to_others() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("open");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    Tier::open(&folder, Medium::Hdd, true, None).unwrap();
    assert_eq!(
        folder.metadata().unwrap().permissions().mode() & 0o7777,
        0o700
    );
}

#[test]
fn a_marker_that_is_damaged_or_of_another_format_is_refused() {
    let home = in_memory();
    let folder = home.path().join("tier");
    drop(Tier::open(&folder, Medium::Memory, true, None).unwrap());
    let marker = folder.join("atlas-tier");
    let text = std::fs::read_to_string(&marker).unwrap();
    std::fs::write(&marker, text.replace("uuid=", "uuid=0")).unwrap();
    assert_eq!(
        refusal(&folder, Medium::Memory, true, None),
        Some(ErrorKind::Corrupt)
    );
    let body = text.replace("format=1", "format=2");
    let body = &body[..body.find("checksum=").unwrap()];
    let checksum = crc32c::crc32c(body.as_bytes());
    std::fs::write(&marker, format!("{body}checksum={checksum:08x}\n")).unwrap();
    let error = Tier::open(&folder, Medium::Memory, true, None)
        .err()
        .unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("format 2"), "{error}");
}
