//! `NAME:VERSION` from a URL, a command line or a stored record: it becomes a path under `names/`.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use regild::wire::reference::{ImageRef, PART_BYTES_MAX};

fuzz_target!(|text: &str| {
    let Ok(image) = text.parse::<ImageRef>() else { return };
    assert_eq!(image.to_string(), text, "what is shown can be typed again");
    for part in [image.name(), image.version()] {
        assert!((1..=PART_BYTES_MAX).contains(&part.len()));
        assert!(part.bytes().all(|byte| byte.is_ascii_graphic()), "{part:?}");
        // One ordinary file name: no step up, no second directory, not hidden.
        let components: Vec<_> = Path::new(part).components().collect();
        assert!(matches!(components[..], [Component::Normal(name)] if name == part), "{part:?}");
        assert!(!part.starts_with('.'));
    }
});
