//! No bytes make the parser panic; what it prints and stores reads as the same app.
//!
//! `cargo +nightly fuzz run parse -- -max_total_time=60`, with `tests/files/` as a corpus to begin with.
#![no_main]

use bowline_core::id::EnvName;
use bowline_spec::{Defaults, canonical, decode, parse, print, server};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = match decode(bytes, "bowline.toml") {
        Ok(text) => text,
        Err(errors) => return drop(errors.render(true)),
    };
    let env = EnvName::new("beta").expect("a name");
    let defaults = Defaults { folder_name: "folder".to_owned(), ..Default::default() };
    match parse(&text, "bowline.toml", &env, &defaults) {
        Err(errors) => drop(errors.render(true)),
        Ok(parsed) => {
            let printed = print(&parsed.app);
            assert_eq!(parse(&printed, "bowline.toml", &env, &defaults).expect("valid").app, parsed.app);
            assert_eq!(canonical::from_json(&canonical::to_json(&parsed.app)).as_ref(), Ok(&parsed.app));
        }
    }
    if let Err(errors) = server::parse(&text, "server.toml") {
        drop(errors.render(false));
    }
    drop(canonical::from_json(&text));
});
