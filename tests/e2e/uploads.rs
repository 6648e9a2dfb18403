//! `examples/uploads` as a newcomer starts it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bowline_tests::client::curl;
use bowline_tests::s3::S3;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, binary, copy, path, root, text};

/// As it is checked out.
fn example(bowline: &Bowline) -> PathBuf {
    let (from, to) = (root().join("examples/uploads"), bowline.folder("uploads"));
    for file in ["Cargo.toml", "Cargo.lock", "bowline.toml"] {
        std::fs::copy(from.join(file), to.join(file)).expect("a file of the example");
    }
    copy(&from.join("src"), &to.join("src"));
    to
}

/// What its README says to change, and two instances.
fn with_bucket(folder: &Path) {
    let file = folder.join("bowline.toml");
    let mut toml = std::fs::read_to_string(&file).expect("a file of the example");
    for (from, to) in [
        ("[volume.files]\nservices = [\"web\"]\n", "[bucket.files]\nurl = { secret = \"bucket\" }\n"),
        ("[env]\n", "[env]\nUPLOADS_BUCKET = { from = \"bucket.files.url\" }\n"),
        ("[service.web]\n", "[service.web]\nscale = 2\n"),
    ] {
        assert!(toml.contains(from), "{from}");
        toml = toml.replace(from, to);
    }
    std::fs::write(file, toml).expect("a file of the example");
}

/// Ten at once under one name, small and large: each is there as it was sent, under a name of its own.
fn uploads_at_once(bowline: &Bowline, base: &str) {
    let sent = std::thread::scope(|scope| {
        let uploads = (0..10_u8).map(|number| {
            scope.spawn(move || {
                let size = if number % 5 == 0 { 12 << 20 } else { 1000 };
                let content = vec![b'a' + number; size];
                let file = bowline.folder(&format!("at-once-{number}")).join("same.txt");
                std::fs::write(&file, &content).expect("a test's file");
                let form = format!("file=@{}", file.display());
                let created = curl(&bowline.ca(), &format!("{base}/files"), &["-F", &form]);
                assert_eq!(created.status, 201, "{}", created.text());
                (created.json()["url"].as_str().expect("its address").to_owned(), content)
            })
        });
        let uploads: Vec<_> = uploads.collect();
        uploads.into_iter().map(|upload| upload.join().expect("it is uploaded")).collect::<Vec<_>>()
    });
    assert_eq!(sent.iter().map(|(url, _)| url).collect::<BTreeSet<_>>().len(), sent.len());
    for (url, content) in sent {
        let read = curl(&bowline.ca(), &format!("{base}{url}"), &[]);
        assert!(read.status == 200 && read.body == content, "{url}: {}", read.status);
    }
}

/// `make load`, as its README says it. How long a file takes here is no figure.
fn bears_a_load(bowline: &Bowline, base: &str) {
    let (example, url) = (root().join("examples/uploads"), format!("URL={base}"));
    let args = ["-C", path(&example), "load", &url, "RATE=20/s", "TIME=2s", "EXPECT=p50<60s"];
    let output = bowline.command_of(Path::new("make"), &args).env("BOWLINE", binary()).env_remove("MAKEFLAGS").output();
    let output = output.expect("make");
    let said = text(&output);
    // A generator that a busy machine delays says so, and ends with 1.
    let late = said.contains("not valid: the generator itself was late");
    assert!((output.status.success() || late) && said.contains("40 answered  0 failed"), "{said}");
}

#[test]
fn files_are_uploaded_over_tls_and_survive_a_restart_and_may_lie_in_a_bucket() {
    let bowline = Bowline::new();
    let folder = example(&bowline);
    let up = Up::start(&bowline, &folder, BUILD);
    let files = bowline.folder("files");
    std::fs::write(files.join("note.txt"), "kept\n").expect("a test's file");
    std::fs::write(files.join("tool.exe"), b"MZ\x90\0").expect("a test's file");
    std::fs::write(files.join("fake.png"), "not a picture").expect("a test's file");
    let upload = |base: &str, name: &str| {
        let form = format!("file=@{}", files.join(name).display());
        curl(&bowline.ca(), &format!("{base}/files"), &["-F", &form])
    };
    let created = upload(&up.https(), "note.txt");
    assert_eq!(created.status, 201, "{}", created.text());
    let (name, size) = (created.json()["name"].clone(), created.json()["size"].clone());
    assert_eq!((name.as_str(), size.as_u64()), (Some("note.txt"), Some(5)));
    assert_eq!(upload(&up.https(), "tool.exe").status, 415);
    assert_eq!(upload(&up.https(), "fake.png").status, 415);
    bears_a_load(&bowline, &up.https());
    let page = curl(&bowline.ca(), &up.https(), &[]);
    assert!(page.status == 200 && page.text().contains("<form"), "{}", page.text());
    assert!(up.interrupt().success());

    let again = Up::start(&bowline, &folder, SOON);
    assert_eq!(again.ready["cached"], true, "unchanged: it starts without building");
    let read = curl(&bowline.ca(), &format!("{}/files/note.txt", again.https()), &[]);
    assert_eq!((read.status, read.text().as_str()), (200, "kept\n"));
    let list = curl(&bowline.ca(), &format!("{}/files", again.https()), &[]);
    assert!(list.text().contains("note.txt"), "{}", list.text());
    assert!(again.interrupt().success());

    let s3 = S3::start("files");
    with_bucket(&folder);
    let value = files.join("bucket-url");
    std::fs::write(&value, s3.url("files")).expect("a test's file");
    let set = bowline.run(&["secret", "set", "uploads", "bucket", "--file", value.to_str().expect("UTF-8")]);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    for (edge, files) in [("bowline", 11), ("envoy", 22)] {
        let shared = Up::start_with(&bowline, &folder, &["--edge", edge], BUILD);
        let created = upload(&shared.https(), "note.txt");
        assert_eq!(created.status, 201, "{edge}: {}", created.text());
        assert_eq!(std::fs::read(s3.folder("files").join("note.txt")).expect("it is in the bucket"), b"kept\n");
        assert_eq!(upload(&shared.https(), "tool.exe").status, 415, "{edge}");
        assert_eq!(upload(&shared.https(), "fake.png").status, 415, "{edge}");
        uploads_at_once(&bowline, &shared.https());
        let list = curl(&bowline.ca(), &format!("{}/files?limit=100", shared.https()), &[]);
        assert_eq!(list.json()["files"].as_array().expect("a list").len(), files, "{edge}: {}", list.text());
        assert!(shared.interrupt().success());
    }
    let left = std::fs::read_dir(s3.folder("files").join(".receiving")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "temporary files stay");
}
