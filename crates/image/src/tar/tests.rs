use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn archive(of: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    of(&mut writer);
    writer.end().unwrap()
}

/// Path, kind and content of each, or why not.
fn entries(bytes: &[u8]) -> Result<Vec<(String, Kind, Vec<u8>)>, TarError> {
    let (mut reader, mut all) = (Reader::new(bytes), Vec::new());
    while let Some(entry) = reader.entry()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        all.push((entry.path, entry.kind, content));
    }
    Ok(all)
}

/// What Python's own reader makes of it: a line for each entry.
fn by_python(bytes: &[u8]) -> String {
    const PROGRAM: &str = "
import sys, tarfile, hashlib
with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as all:
    for one in all:
        content = all.extractfile(one).read() if one.isfile() else b''
        print(one.name, one.type.decode(), oct(one.mode), one.size, one.mtime, one.uid, one.gid, one.uname + one.gname,
              one.linkname, hashlib.sha256(content).hexdigest()[:8], sep='|')
";
    let mut python = Command::new("python3");
    python.args(["-c", PROGRAM]).env("PYTHONIOENCODING", "utf-8").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_reads_what_is_written() {
    let long = format!("{}ä.txt", "folder/".repeat(30));
    let target = "x".repeat(101);
    let bytes = archive(|tar| {
        tar.folder("app", 0o555).unwrap();
        tar.file("app/run", 0o555, 3, b"abc".as_slice()).unwrap();
        tar.file(&long, 0o444, 0, io::empty()).unwrap();
        tar.file(&"n".repeat(100), 0o444, 512, [1; 512].as_slice()).unwrap();
        tar.link("app/short", "../etc").unwrap();
        tar.link("app/far", &target).unwrap();
        tar.folder("tmp", 0o1777).unwrap();
    });
    assert_eq!(bytes.len() % BLOCK, 0);
    let expected = format!(
        "app|5|0o555|0|0|0|0|||e3b0c442\napp/run|0|0o555|3|0|0|0|||ba7816bf\n{long}|0|0o444|0|0|0|0|||e3b0c442\n{}|0|0o444|512|0|0|0|||{}\n\
         app/short|2|0o777|0|0|0|0||../etc|e3b0c442\napp/far|2|0o777|0|0|0|0||{target}|e3b0c442\ntmp|5|0o1777|0|0|0|0|||e3b0c442\n",
        "n".repeat(100),
        &crate::digest::BlobDigest::of(&[1; 512]).0.to_string()[..8],
    );
    assert_eq!(by_python(&bytes), expected);
}

#[test]
fn what_is_too_short_is_no_entry() {
    let mut tar = Writer::new(Vec::new());
    let short = tar.file("a", 0o444, 4, b"abc".as_slice()).unwrap_err();
    assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_record_counts_its_own_length() {
    let check = |value: usize, expected: usize| {
        let record = record("path", &"v".repeat(value));
        let said: usize = record.split(' ').next().unwrap().parse().unwrap();
        assert_eq!((record.len(), said), (expected, expected), "{value}");
    };
    check(1, 10 - 1);
    // At the ends of one, two and three digits: the length of the length changes the length.
    check(2, 11);
    check(89, 98);
    check(90, 99);
    check(91, 101);
    check(989, 999);
    check(990, 1001);
}

#[test]
fn a_large_size_is_said_by_pax() {
    let mut tar = Writer::new(Vec::new());
    let _ = tar.file("a", 0o444, MAX_OCTAL + 1, io::empty());
    let mut reader = Reader::new(tar.out.as_slice());
    assert_eq!(reader.entry().unwrap().unwrap().size, MAX_OCTAL + 1);
    assert_eq!(number(&[128, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]).unwrap(), (2 << 56) + 1);
    assert!(number(&[128, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]).is_err());
    assert!(number(b"-1").is_err() && number(b"+1").is_err() && number(b"8").is_err());
}

#[test]
fn what_leads_out_is_refused() {
    let check = |path: &str, escapes: bool| {
        let read = entries(&archive(|tar| tar.file(path, 0o444, 0, io::empty()).unwrap()));
        match read {
            Err(TarError::Escapes(which)) => assert!(escapes && which == path, "{path}"),
            other => assert!(!escapes && other.is_ok(), "{path}"),
        }
    };
    check("/etc/passwd", true);
    check("../x", true);
    check("a/../../x", true);
    check(&format!("{}/../x", "a/".repeat(100)), true);
    check("./a//b/.", false);
    check("..a/b..", false);
    // A hard link to what is no entry would read the host's file.
    let mut bytes = archive(|tar| tar.head("a", b'1', 0o444, 0, "/etc/shadow").unwrap());
    assert!(matches!(entries(&bytes), Err(TarError::Escapes(_))));
    // A link may lead anywhere: nobody here follows it.
    bytes = archive(|tar| tar.link("a", "/etc/shadow").unwrap());
    assert_eq!(entries(&bytes).unwrap()[0].1, Kind::Link("/etc/shadow".into()));
}

#[test]
fn what_is_damaged_says_so() {
    let whole = archive(|tar| tar.file("a", 0o444, 600, [7; 600].as_slice()).unwrap());
    let check = |bytes: &[u8], expected: &str| {
        let said = entries(bytes).map(|all| all.len().to_string()).unwrap_or_else(|error| error.to_string());
        assert!(said.contains(expected), "{said}, not {expected}");
    };
    check(&whole, "1");
    check(&whole[..512 + 1024], "1");
    check(b"", "0");
    check(&whole[..100], "a header is cut off");
    check(&whole[..700], "broke off");
    check(&[&whole[..512], &whole[512..1200]].concat(), "a content is cut off");
    let mut flipped = whole.clone();
    flipped[0] ^= 1;
    check(&flipped, "the sum of a header is wrong");
    let with = |kind: u8, content: &[u8]| {
        archive(|tar| {
            tar.head("x", kind, 0, content.len() as u64, "").unwrap();
            tar.out.write_all(content).unwrap();
            tar.pad(content.len() as u64).unwrap();
            tar.file("a", 0o444, 0, io::empty()).unwrap();
        })
    };
    check(&with(b'x', b"nonsense"), "cannot be understood");
    check(&with(b'x', b"99 path=a\n"), "cannot be understood");
    check(&with(b'x', b"3 \n"), "cannot be understood");
    check(&with(b'x', b"10 path=a"), "cannot be understood");
    check(&with(b'x', b"11 size=-1\n"), "cannot be understood");
    check(&with(b'x', &vec![b'x'; MAX_PAX as usize + 1]), "too long");
    check(&with(b'L', &vec![b'x'; MAX_PATH + 1]), "a name is too long");
    check(&with(b'L', b"\xff"), "not UTF-8");
    check(&with(b'g', b"14 comment=ab\n"), "1");
    let long = with(b'L', "n/".repeat(200).as_bytes());
    assert_eq!(entries(&long).unwrap()[0].0, "n/".repeat(200).trim_end_matches('/'));
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-zäß.]{1,40}[a-z]", 1..8).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(files in prop::collection::vec((path(), prop::collection::vec(any::<u8>(), 0..1500)), 0..6),
                               link in (path(), path())) {
        let bytes = archive(|tar| {
            for (path, content) in &files {
                tar.file(path, 0o444, content.len() as u64, content.as_slice()).unwrap();
            }
            tar.link(&link.0, &link.1).unwrap();
        });
        let expected = files.into_iter().map(|(path, content)| (path, Kind::File, content));
        let expected: Vec<_> = expected.chain([(link.0, Kind::Link(link.1), Vec::new())]).collect();
        prop_assert_eq!(entries(&bytes).unwrap(), expected);
    }

    /// Whatever comes, it ends, and no path of it leads out.
    #[test]
    fn anything_may_come(mut bytes in prop::collection::vec(any::<u8>(), 0..2048), flips in prop::collection::vec((0..1536_usize, any::<u8>()), 0..4)) {
        let mut whole = archive(|tar| tar.file(&"p/".repeat(60), 0o444, 5, b"hello".as_slice()).unwrap());
        for (at, byte) in flips {
            whole[at] = byte;
        }
        whole.append(&mut bytes);
        let mut reader = Reader::new(whole.as_slice());
        while let Ok(Some(entry)) = reader.entry() {
            prop_assert!(!entry.path.starts_with('/') && !entry.path.split('/').any(|part| part == ".."));
        }
    }
}

/// As an engine writes: owners of its own, times to the nanosecond in headers of pax, names that need one.
fn of_engine(seconds: u32) -> Vec<u8> {
    const PROGRAM: &str = "
import io, sys, tarfile
seconds = int(sys.argv[1])
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.PAX_FORMAT) as all:
    def add(name, kind, content=b'', target='', more={}):
        one = tarfile.TarInfo(name)
        one.type, one.size, one.linkname, one.uid, one.gid, one.mode = kind, len(content), target, 7, 8, 0o4751
        one.mtime, one.pax_headers = seconds + 0.25, more
        all.addfile(one, io.BytesIO(content))
    add('bin', tarfile.DIRTYPE)
    add('bin/' + 'x' * 150, tarfile.REGTYPE, b'hello', more={'SCHILY.xattr.user.mood': 'good'})
    add('bin/same', tarfile.LNKTYPE, target='bin/' + 'x' * 150)
    add('bin/link', tarfile.SYMTYPE, target='same')
    add('bin/.wh.gone', tarfile.REGTYPE)
";
    let output = Command::new("python3").args(["-c", PROGRAM, &seconds.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn an_archive_is_settled_but_for_its_times() {
    let (early, late) = (of_engine(1_000_000_000), of_engine(1_700_000_000));
    assert!(early != late);
    let settled = |bytes: &[u8]| settled(bytes, Vec::new(), 5).unwrap();
    let (early, late, again) = (settled(&early), settled(&late), settled(&settled(&early)));
    assert!(early == late && again == early);
    assert_eq!(entries(&early).unwrap(), entries(&of_engine(0)).unwrap(), "nothing else is gone");
    const PROGRAM: &str = "
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as all:
    for one in all:
        print(oct(one.mode), one.uid, one.gid, one.mtime, one.pax_headers.get('SCHILY.xattr.user.mood'))
";
    let mut python = Command::new("python3");
    let python = python.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut python = python.unwrap();
    Write::write_all(&mut python.stdin.take().unwrap(), &early).unwrap();
    let said = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said.lines().collect::<BTreeSet<_>>(), ["0o4751 7 8 5 None", "0o4751 7 8 5 good"].into());
}

#[test]
fn a_damaged_archive_is_not_settled() {
    let whole = of_engine(0);
    for cut in [100, 700, 1800] {
        assert!(settled(&whole[..cut], Vec::new(), 0).is_err(), "{cut}");
    }
}
