//! Just enough of an HTTP server to be the far end of the agent: four routes over a store, slow when asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use regild::image::ImageStore;

/// A server on 127.0.0.1; it ends with the process or at [`Server::stop`].
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<ImageStore>,
    /// Bytes of packs sent.
    sent_bytes: AtomicU64,
    /// Pause before each range of a pack, in milliseconds.
    pause_ms: AtomicU64,
    stopped: AtomicBool,
}

impl Server {
    pub fn start(store: Arc<ImageStore>) -> Server {
        Server::start_at(store, "127.0.0.1:0".parse().expect("an address"))
    }

    /// At a given address, as a server that comes back.
    pub fn start_at(store: Arc<ImageStore>, address: SocketAddr) -> Server {
        let listener = TcpListener::bind(address).expect("a port of our own");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            store,
            sent_bytes: AtomicU64::new(0),
            pause_ms: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of_thread.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&of_thread);
                // A client that was killed in the middle is nothing to report.
                std::thread::spawn(move || serve(&shared, client).ok());
            }
        });
        Server { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }

    pub fn pause_before_ranges(&self, pause: Duration) {
        self.shared.pause_ms.store(pause.as_millis() as u64, Ordering::Relaxed);
    }

    /// Closes the port and every connection at its next request, as a killed server does.
    pub fn stop(self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(shared: &Shared, client: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut range = None;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            let header = header.trim().to_ascii_lowercase();
            if let Some((from, to)) = header.strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) {
                range = from.parse::<usize>().ok().zip(to.parse::<usize>().ok());
            }
        }
        if shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        answer(shared, &path, range, &client)?;
    }
}

fn answer(shared: &Shared, path: &str, range: Option<(usize, usize)>, client: &TcpStream) -> std::io::Result<()> {
    let store = &shared.store;
    let (kind, name) = path.strip_prefix("/images/").and_then(|path| path.split_once('/')).unwrap_or_default();
    let body = match kind {
        "refs" => name
            .parse()
            .ok()
            .and_then(|image| store.resolve(&image).ok())
            .map(|manifest| serde_json::json!({ "manifest": manifest }).to_string().into_bytes()),
        "manifests" => store.manifest_bytes(name).ok().map(|bytes| bytes.to_vec()),
        "baselines" => store.baseline_file(name).ok().map(|file| file.piece(0..file.length(), |_| ()).to_vec()),
        "packs" => store.pack_file(name).ok().map(|file| file.piece(0..file.length(), |_| ()).to_vec()),
        _ => None,
    };
    let Some(body) = body else { return reply(client, "404 Not Found", "", b"") };
    let Some((from, to)) = range else { return reply(client, "200 OK", "", &body) };
    std::thread::sleep(Duration::from_millis(shared.pause_ms.load(Ordering::Relaxed)));
    let part = &body[from..=to];
    shared.sent_bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    let content_range = format!("Content-Range: bytes {from}-{to}/{}\r\n", body.len());
    reply(client, "206 Partial Content", &content_range, part)
}

fn reply(mut client: &TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(client, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
    client.write_all(body)
}
