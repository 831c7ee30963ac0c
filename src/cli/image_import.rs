//! `regild image import` and `push`: a file, standard input, a URL or a registry, on its way to the server.

use super::Failure;
use super::client::{Body, Client, segment};
use super::output;
use super::remote::push::{self, Push};
use super::remote::url::Url;
use super::remote::{Incomings, Remote, credentials, oci, success};
use super::sparse::SparseStream;
use crate::wire::image_facts::Provenance;
use crate::wire::operator::Image;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

/// What the maker of an image says of it. It becomes part of the version's record, which never changes.
#[derive(Debug, Args)]
struct ProvenanceArgs {
    /// What built it: a person, a job, a tool with its version.
    #[arg(long, value_name = "TEXT")]
    builder: Option<String>,
    /// The git commit that it was built from.
    #[arg(long, value_name = "TEXT")]
    commit: Option<String>,
    /// A word of your own on it, up to 32 times.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl ProvenanceArgs {
    fn said(&self) -> Result<Provenance, Failure> {
        let labels = self.labels.iter().map(String::as_str);
        Ok(Provenance::said(self.builder.as_deref(), self.commit.as_deref(), labels)?)
    }
}

/// What to import.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A file, - for standard input, http(s)://..., or oci://HOST/NAME:TAG: raw or qcow2, each plain or packed with zstd,
    /// xz or gzip. URLs are fetched by this command, not by the server.
    #[arg(value_name = "FILE|-|URL")]
    from: PathBuf,
    /// NAME:VERSION
    #[arg(long = "as", value_name = "REF")]
    name: String,
    #[command(flatten)]
    provenance: ProvenanceArgs,
    /// Give it only to hosts that are named one by one, until `image activate`.
    #[arg(long)]
    preview: bool,
    /// What it must be, raw or qcow2; without this its first bytes tell.
    #[arg(long)]
    format: Option<String>,
    /// The digest that the file must have as it is (packed or not): sha256:HEX or blake3:HEX.
    #[arg(long)]
    digest: Option<String>,
    /// Trust the authorities in this PEM file for https, in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Passwords for registries, as docker and podman keep them (default: where they do).
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Speak plain http with a registry that is not on this machine.
    #[arg(long)]
    plain_http: bool,
}

/// What to push.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// A file as for `import`.
    file: PathBuf,
    /// NAME:VERSION
    #[arg(long = "as", value_name = "REF")]
    name: String,
    /// Holds the token whose digest is in the server's [[http.upload.token]].
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    #[command(flatten)]
    provenance: ProvenanceArgs,
    /// Give it only to hosts that are named one by one, until `image activate`.
    #[arg(long)]
    preview: bool,
    /// What it must be, raw or qcow2; without this its first bytes tell.
    #[arg(long)]
    format: Option<String>,
    /// Trust the authorities in this PEM file for https, in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A stream with what is known of it.
struct Stream {
    pieces: Pieces,
    bytes: Option<u64>,
    /// Where it came from, for the image's record.
    source: String,
    digest: Option<String>,
}

enum Pieces {
    File(SparseStream),
    Remote { body: Incomings, position: u64 },
}

pub fn import(client: &Client, args: &ImportArgs) -> Result<(), Failure> {
    let provenance = args.provenance.said()?;
    let stream = open(client, args)?;
    let bar = bar("importing", stream.bytes)?;
    let mut path = format!("/v1/images/{}?source={}", segment(&args.name), segment(&stream.source));
    let ProvenanceArgs { builder, commit, labels } = &args.provenance;
    let optional = [("format", &args.format), ("digest", &stream.digest), ("builder", builder), ("commit", commit)];
    let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    for (key, value) in optional.chain(labels.iter().map(|label| ("label", label))) {
        path += &format!("&{key}={}", segment(value));
    }
    if args.preview {
        path += "&preview=true";
    }
    let body: Body = StreamBody::new(Frames { pieces: stream.pieces, bar: bar.clone() }).boxed();
    let image: Image = client.put(&path, body)?;
    bar.finish_and_clear();
    tell(&image, "imported", &provenance);
    Ok(())
}

pub fn push(server: &str, args: PushArgs) -> Result<(), Failure> {
    if !server.starts_with("http://") && !server.starts_with("https://") {
        return Err(format!(
            "--server must be the URL of the server's upload listener ([http.upload]), not {server}; on the server itself \
             use `regild image import`"
        )
        .into());
    }
    // Before the file is read.
    let provenance = args.provenance.said()?;
    let token = credentials::token(&args.token_file)?;
    let remote = Remote::new(args.ca.as_deref())?;
    let mut push = Push::new(remote, server, &token, args.file, &args.name)?;
    (push.wish.format, push.wish.preview, push.wish.provenance) = (args.format, args.preview, provenance);
    push.bar = bar("pushing", Some(push.bytes()))?;
    let image = push::run(&push)?;
    tell(&image, "pushed", &push.wish.provenance);
    Ok(())
}

fn tell(image: &Image, done: &str, said: &Provenance) {
    if image.already_there == Some(true) {
        println!("{} is there already, with the same content", image.image);
        if !said.is_empty() && *said != image.provenance {
            println!("its record never changes: builder, commit and labels stay what they were at its import");
        }
    } else {
        let [size, data, added] = [image.image_bytes, image.data_bytes, image.added_bytes].map(output::bytes);
        println!("{} {done}: {size}, {data} of data, {added} new in the store", image.image);
    }
}

fn bar(doing: &str, bytes: Option<u64>) -> Result<ProgressBar, Failure> {
    let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
    let style = match bytes {
        Some(_) => format!("{doing} {{bar:30}} {{bytes}} of {{total_bytes}} {{bytes_per_sec}} {{eta}} left {{msg}}"),
        None => format!("{doing} {{spinner}} {{bytes}} {{bytes_per_sec}} {{msg}}"),
    };
    bar.set_style(ProgressStyle::with_template(&style)?);
    Ok(bar)
}

fn open(client: &Client, args: &ImportArgs) -> Result<Stream, Failure> {
    let text = args.from.to_str().unwrap_or_default();
    if let Some(place) = text.strip_prefix("oci://") {
        let place = oci::Place::parse(place)?;
        if args.digest.is_some() {
            return Err(
                "a registry's manifest has the digest already; name the artifact by its digest: @sha256:HEX".into()
            );
        }
        let remote = Remote::new(args.ca.as_deref())?;
        let layer = client.block_on(oci::pull(&remote, &place, args.plain_http, args.auth_file.as_deref()))?;
        let pieces = client.block_on(async { remote_pieces(layer.body) });
        return Ok(Stream { pieces, bytes: Some(layer.bytes), source: layer.source, digest: Some(layer.digest) });
    }
    let digest = args.digest.clone();
    if text.starts_with("http://") || text.starts_with("https://") {
        let url = Url::parse(text)?;
        let remote = Remote::new(args.ca.as_deref())?;
        let answer = client.block_on(async {
            let (at, answer) = remote.get(&url, &[]).await?;
            success(&at, answer).await
        })?;
        let bytes = answer.body().size_hint().exact();
        let pieces = client.block_on(async { remote_pieces(answer.into_body()) });
        return Ok(Stream { pieces, bytes, source: url.place(), digest });
    }
    let (file, shown) = if text == "-" {
        use std::os::fd::AsFd;
        (File::from(io::stdin().as_fd().try_clone_to_owned()?), "standard input".to_string())
    } else {
        (open_file(&args.from)?, args.from.file_name().unwrap_or_default().to_string_lossy().into_owned())
    };
    let failed = |error: io::Error| format!("cannot read {}: {error}", args.from.display());
    let metadata = file.metadata().map_err(failed)?;
    let bytes = Some(metadata.len()).filter(|_| metadata.is_file());
    // A digest is one of the file's bytes: then they go as they are, holes and all.
    let stream = if digest.is_some() { SparseStream::plain(file) } else { SparseStream::new(file) };
    Ok(Stream { pieces: Pieces::File(stream.map_err(failed)?), bytes, source: shown, digest })
}

fn open_file(path: &Path) -> Result<File, Failure> {
    Ok(File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?)
}

/// Inside a runtime.
fn remote_pieces(body: Incoming) -> Pieces {
    Pieces::Remote { body: Incomings::new(body), position: 0 }
}

/// A stream as body frames. Files are read where they are polled: nothing else runs on this thread meanwhile.
struct Frames {
    pieces: Pieces,
    bar: ProgressBar,
}

impl futures_core::Stream for Frames {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let frames = self.get_mut();
        let (piece, position) = match &mut frames.pieces {
            Pieces::File(stream) => {
                let piece = stream.next();
                (Poll::Ready(piece), SparseStream::position(stream))
            }
            Pieces::Remote { body, position } => {
                let piece = body.poll(context);
                if let Poll::Ready(Some(Ok(bytes))) = &piece {
                    *position += bytes.len() as u64;
                }
                (piece, *position)
            }
        };
        frames.bar.set_position(position);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
