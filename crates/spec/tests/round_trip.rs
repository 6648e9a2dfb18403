//! What is printed or stored reads as the same app.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

mod generated;

use bowline_core::app::App;
use bowline_spec::{Defaults, canonical, parse, print};
use proptest::prelude::*;

fn reread(app: &App, text: &str) -> App {
    let defaults = Defaults { folder_name: "folder".to_owned(), ..Default::default() };
    let parsed = parse(text, "bowline.toml", &app.environment.name, &defaults);
    parsed.unwrap_or_else(|e| panic!("{}\n\n{text}", e.render(false))).app
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_app_reads_the_same(app in generated::app()) {
        let text = print(&app);
        prop_assert_eq!(reread(&app, &text), app, "{}", text);
    }

    #[test]
    fn a_stored_app_reads_the_same(app in generated::app()) {
        let stored = canonical::to_json(&app);
        let read = canonical::from_json(&stored);
        prop_assert_eq!(read.as_ref(), Ok(&app), "{}", stored);
        prop_assert_eq!(canonical::to_json(&app), stored, "one app, one text");
    }
}
