use regild::registry::*;
fn rss() -> String {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .filter(|l| l.starts_with("RssAnon") || l.starts_with("VmHWM"))
        .collect::<Vec<_>>()
        .join(" ")
}
unsafe extern "C" {
    fn malloc_trim(n: usize) -> i32;
    fn malloc_stats();
}
fn main() {
    println!(
        "Host {} HostView {} State {} Order {}",
        size_of::<regild::decide::host::Host>(),
        size_of::<HostView>(),
        size_of::<regild::decide::host::State>(),
        size_of::<Option<regild::decide::host::Order>>()
    );
    let t = std::time::Instant::now();
    let config = regild::config::Config::load(std::path::Path::new("regild.toml")).unwrap();
    let db = regild::db::sled::SledDb::open(&config.state_dir).unwrap();
    println!("sled open {:?} {}", t.elapsed(), rss());
    let (registry, _w) = Registry::start(Box::new(db), &config).unwrap();
    println!("started {:?} {}", t.elapsed(), rss());
    unsafe {
        malloc_stats();
        malloc_trim(0);
    }
    println!("trimmed {:?} {}", t.elapsed(), rss());
    println!("{}", registry.read(|v| v.hosts().count()));
}
