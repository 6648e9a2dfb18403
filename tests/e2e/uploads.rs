//! `examples/uploads` as a newcomer starts it.

use bowline_tests::client::curl;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, root};

#[test]
fn files_are_uploaded_over_tls_and_survive_a_restart() {
    let bowline = Bowline::new();
    let folder = root().join("examples/uploads");
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
    let page = curl(&bowline.ca(), &up.https(), &[]);
    assert!(page.status == 200 && page.text().contains("<form"), "{}", page.text());
    assert!(up.interrupt().success());

    let again = Up::start(&bowline, &folder, SOON);
    assert_eq!(again.ready["cached"], true, "unchanged: it starts without building");
    let read = curl(&bowline.ca(), &format!("{}/files/note.txt", again.https()), &[]);
    assert_eq!((read.status, read.text().as_str()), (200, "kept\n"));
    let list = curl(&bowline.ca(), &format!("{}/files", again.https()), &[]);
    assert!(list.text().contains("note.txt"), "{}", list.text());
}
