fn rss() -> String {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .filter(|l| l.starts_with("RssAnon") || l.starts_with("VmHWM"))
        .collect::<Vec<_>>()
        .join(" ")
}
fn main() {
    let every: usize = std::env::var("TOUCH").map_or(1, |v| v.parse().unwrap());
    let t = std::time::Instant::now();
    let cap: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let db = sled::Config::new()
        .path("state/store")
        .cache_capacity(cap)
        .flush_every_ms(None)
        .segment_size(4 << 20)
        .open()
        .unwrap();
    println!("open {:?} {}", t.elapsed(), rss());
    for prefix in ["host/", "host/", "history/", "lease/"] {
        let (mut n, mut b) = (0, 0);
        for p in db.scan_prefix(prefix) {
            let (k, v) = p.unwrap();
            n += 1;
            b += k.len() + v.len();
            if std::env::var("TOUCH").is_ok() && n % every == 0 {
                db.contains_key(&k).unwrap();
            }
        }
        println!("{prefix} {n} {b} {:?} {}", t.elapsed(), rss());
    }
    println!("{}", db.size_on_disk().unwrap());
}
