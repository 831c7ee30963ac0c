//! Names in TFTP requests: keys of a table or nothing.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use regild::tftp::BootFiles;

fuzz_target!(|input: (String, String, u8)| {
    let (name, odd, slashes) = input;
    let served = ["ipxe.efi", "undionly.kpxe", "local-boot.efi"];
    let mut files: Vec<_> =
        served.iter().map(|name| ((*name).to_owned(), Bytes::from_static(name.as_bytes()))).collect();
    let table = BootFiles::new(files.clone());
    if let Some(bytes) = table.get(&name) {
        let plain = name.trim_start_matches(['/', '\\']);
        assert_eq!(bytes, plain.as_bytes(), "{name:?} gave other bytes");
        assert!(served.contains(&plain), "{name:?} is no boot file");
    }
    // Whatever a table is made of can be fetched by its name, with any slashes before it; names have a length.
    files.push((odd.clone(), Bytes::from_static(b"odd")));
    let slashes: String = (0..slashes % 9).map(|bit| if slashes >> (bit % 8) & 1 == 1 { '/' } else { '\\' }).collect();
    let asked = format!("{slashes}{odd}");
    let found = BootFiles::new(files).get(&asked);
    assert!(found == Some(Bytes::from_static(b"odd")) || (found.is_none() && asked.len() > 100), "{asked:?}");
});
