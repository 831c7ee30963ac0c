//! `regild image`: the life of versions, garbage collection, scrub, signatures.

use super::Failure;
use super::client::{Client, segment};
use super::output::{self, Output};
use crate::image::signature::{self, PublicKey, Signed};
use crate::wire::operator::{ByAndWhy, Image, MarkImage};
use crate::wire::operator_images::{GcAsked, GcReport, NewSignature, ScrubAsked, ScrubReport, Signatures};
use clap::Subcommand;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum KeepCommand {
    /// Give this version only to hosts that are named one by one: to try it out. `activate` ends it.
    Preview {
        image: String,
        #[arg(long)]
        reason: String,
    },
    /// Give no host this version any more; its data goes once no host runs it, wants it or may go back to it.
    Retire {
        image: String,
        #[arg(long)]
        reason: String,
    },
    /// Retire a version that nobody uses; refused with the users if there are any. `image gc` then frees its data.
    Remove {
        image: String,
        #[arg(long)]
        reason: String,
    },
    /// Free the data of retired versions that nobody uses, and of what the retention policy does not keep.
    Gc {
        /// Say what would go, and why the rest stays. Removes nothing.
        #[arg(long)]
        dry_run: bool,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Read everything in the store again, slowly, and mend what can be mended. Exit status 1 when damage is left.
    Scrub {
        /// Only this version.
        image: Option<String>,
        /// Take what is damaged from another image store: a directory on the server.
        #[arg(long, value_name = "STORE_DIR")]
        from: Option<PathBuf>,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Sign name, version and content. The private key stays here: only the signature goes to the server.
    Sign {
        image: String,
        /// A private ed25519 key (PEM), of `regild image keygen` or `openssl genpkey -algorithm ed25519`.
        #[arg(long, value_name = "FILE", required_unless_present = "minisig", conflicts_with = "minisig")]
        key: Option<PathBuf>,
        /// Bring a signature that minisign made of the output of `image statement`.
        #[arg(long, value_name = "FILE")]
        minisig: Option<PathBuf>,
        /// Sign only if the version has this content digest: the one that the builder of the image knows.
        #[arg(long, value_name = "DIGEST")]
        content: Option<String>,
    },
    /// Print what is signed, to the byte: `regild image statement REF > s && minisign -S -m s`.
    Statement { image: String },
    /// Who signed a version. Exit status 1 when no trusted key has.
    Verify {
        image: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Make a private key in a new file, and print the line for [image.trust] in the server's configuration.
    Keygen { file: PathBuf },
}

pub fn run(command: KeepCommand, client: &Client) -> Result<(), Failure> {
    match command {
        KeepCommand::Preview { image, reason } => mark(client, &image, "preview", reason),
        KeepCommand::Retire { image, reason } => mark(client, &image, "retired", reason),
        KeepCommand::Remove { image, reason } => {
            client.order(&path(&image, "/remove"), &ByAndWhy { by: super::operator(), reason })?;
            println!("{image} is retired, and nobody uses it; `regild image gc` frees its data");
            Ok(())
        }
        KeepCommand::Gc { dry_run, output } => gc(client, dry_run, output),
        KeepCommand::Scrub { image, from, output } => scrub(client, image, from, output),
        KeepCommand::Sign { image, key, minisig, content } => sign(client, &image, key, minisig, content),
        KeepCommand::Statement { image } => {
            let signatures: Signatures = client.get(&path(&image, "/signatures"))?;
            print!("{}", signatures.statement);
            Ok(())
        }
        KeepCommand::Verify { image, output } => verify(client, &image, output),
        KeepCommand::Keygen { file } => keygen(&file),
    }
}

fn path(image: &str, verb: &str) -> String {
    format!("/v1/images/{}{verb}", segment(image))
}

fn mark(client: &Client, image: &str, mark: &str, reason: String) -> Result<(), Failure> {
    client.order(&path(image, "/mark"), &MarkImage { mark: mark.to_string(), by: super::operator(), reason })
}

fn gc(client: &Client, dry_run: bool, output: Output) -> Result<(), Failure> {
    let report: GcReport = client.post("/v1/gc", &GcAsked { dry_run })?;
    if let Output::Json = output {
        return output::print(output, &report, &[], Vec::new());
    }
    let what = |goes: bool| match (goes, dry_run) {
        (true, true) => "would go",
        (true, false) => "went",
        (false, _) => "stays",
    };
    let versions = report
        .versions
        .iter()
        .map(|one| vec![one.image.clone(), one.stage.clone(), what(one.goes).to_string(), one.why.clone()]);
    let manifests = report.manifests.iter().map(|one| {
        let digest: String = one.digest.chars().take(12).collect();
        vec![format!("manifest {digest}"), String::new(), what(one.goes).to_string(), one.why.clone()]
    });
    let packs = report.packs.iter().map(|one| {
        let id: String = one.id.chars().take(12).collect();
        let needed = format!("{} of {} are needed", output::bytes(one.live_bytes), output::bytes(one.held_bytes));
        vec![format!("pack {id}"), String::new(), one.does.clone(), needed]
    });
    let rows = versions.chain(manifests).chain(packs).collect();
    output::print(output, &report, &["WHAT", "STAGE", "", "WHY"], rows)?;
    let freed = output::bytes(report.freed_bytes);
    println!("{freed} {}", if dry_run { "would be free" } else { "are free" });
    if let Some(why) = &report.held_back {
        println!("data stays for now: {why}");
    }
    if report.failed.is_empty() { Ok(()) } else { Err(report.failed.join("\n").into()) }
}

fn scrub(client: &Client, image: Option<String>, from: Option<PathBuf>, output: Output) -> Result<(), Failure> {
    let from = from.map(std::path::absolute).transpose()?;
    let report: ScrubReport = client.post("/v1/scrub", &ScrubAsked { image, from })?;
    if let Output::Json = output {
        output::print(output, &report, &[], Vec::new())?;
    } else {
        let read = output::bytes(report.read_bytes);
        let (records, manifests, packs) = (report.records, report.manifests, report.packs);
        println!("{read} read: {records} records, {manifests} manifests, {packs} packs, {} frames", report.frames);
        report.mended.iter().for_each(|mended| println!("mended: {mended}"));
        report.bad.iter().for_each(|bad| println!("damaged: {bad}"));
        report.refused.iter().for_each(|image| println!("no host gets {image}; `regild image show {image}` says why"));
    }
    if report.is_cut {
        return Err("the server was stopped before all was read; ask again".into());
    }
    let mend = "import the same content again, or take it from another store with --from STORE_DIR";
    if report.bad.is_empty() { Ok(()) } else { Err(format!("{} things are damaged; {mend}", report.bad.len()).into()) }
}

fn sign(
    client: &Client,
    image: &str,
    key: Option<PathBuf>,
    minisig: Option<PathBuf>,
    content: Option<String>,
) -> Result<(), Failure> {
    // Before the server hears anything: a key file that is none is the likeliest mistake.
    let key = key.map(|file| -> Result<_, Failure> { Ok(signature::private_key(&read(&file)?)?) }).transpose()?;
    let shown: Image = client.get(&path(image, ""))?;
    if let Some(content) = content.filter(|content| *content != shown.content_digest) {
        let got = &shown.content_digest;
        return Err(format!("{image} has content digest {got} on the server, not {content}; it was not signed").into());
    }
    let new = match (key, minisig) {
        (Some(key), _) => {
            // Made here from what was asked for: a server cannot have something else signed.
            let statement = signature::statement(&image.parse()?, &shown.manifest, &shown.content_digest);
            match Signed::by(&key, &statement) {
                Signed::Ed25519 { key, signature } => NewSignature::Ed25519 { key, signature },
                Signed::Minisign { text } => NewSignature::Minisign { text },
            }
        }
        (None, Some(file)) => NewSignature::Minisign { text: read(&file)? },
        (None, None) => return Err("--key FILE or --minisig FILE".into()),
    };
    let signatures: Signatures = client.post(&path(image, "/signatures"), &new)?;
    println!("{image} is signed, manifest {}", shown.manifest);
    if !signatures.trusted {
        println!("no key of [image.trust] in the server's configuration is among its signers yet");
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()).into())
}

fn verify(client: &Client, image: &str, output: Output) -> Result<(), Failure> {
    let found: Signatures = client.get(&path(image, "/signatures"))?;
    let row = |one: &crate::wire::operator_images::SignatureView| {
        let key = one.key.clone().unwrap_or_else(|| "no trusted key".to_string());
        vec![key, output::time(one.added_at), one.added_by.clone(), one.comment.clone().unwrap_or_default()]
    };
    let rows = found.signatures.iter().map(row).collect();
    output::print(output, &found, &["SIGNED BY", "BROUGHT", "BY", "COMMENT"], rows)?;
    if found.trusted {
        return Ok(());
    }
    let what = if found.signatures.is_empty() { "nobody has signed it" } else { "no trusted key has signed it" };
    let then =
        if found.required { "no host gets it" } else { "hosts get it all the same: [image.trust] does not require" };
    Err(format!("{image}: {what}; {then}").into())
}

fn keygen(file: &Path) -> Result<(), Failure> {
    let pem = signature::private_pem(crate::clock::random_bytes());
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = made.map_err(|error| format!("cannot create {}: {error}", file.display()))?;
    made.write_all(pem.as_bytes())?;
    made.sync_all()?;
    let key = PublicKey::Ed25519(signature::private_key(&pem)?.verifying_key()).text();
    println!("{} is a private key: whoever has it can sign. For the server's configuration:\n", file.display());
    println!(
        "[image.trust]\nkeys = [\"{key}\"]\n# From then on no host gets a version that is not signed; sign those that are in use first.\nrequired = true"
    );
    Ok(())
}
