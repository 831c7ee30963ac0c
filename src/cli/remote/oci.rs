//! `oci://HOST[:PORT]/NAME:TAG`: a disk image that lies in a registry as an artifact of one layer, as `oras push` makes it.
//!
//! What is taken: a manifest (OCI or Docker schema 2) with exactly one layer that is no file-system tar. That layer is the
//! file, raw or qcow2, plain or packed, whatever its media type says: the import looks at its magic. A container image is
//! refused (nothing is unpacked to look for a disk in it), and so is an index of several manifests.
//! OCI distribution specification 1.1.

use super::oci_auth::Session;
use super::url::Url;
use super::{Remote, RemoteError, success, whole};
use crate::cli::Failure;
use crate::clock;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The limit that registries have, too.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// Where an artifact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub registry: String,
    pub name: String,
    /// A tag, or `sha256:HEX`.
    pub reference: String,
}

impl Place {
    /// Takes what follows `oci://`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Place, String> {
        let form = || format!("oci://{text}: must be oci://HOST[:PORT]/NAME:TAG or oci://HOST[:PORT]/NAME@sha256:HEX");
        let (registry, rest) = text.split_once('/').ok_or_else(form)?;
        let (name, reference) = match rest.split_once('@') {
            Some((name, digest)) => (name, digest),
            None => rest.rsplit_once(':').ok_or_else(form)?,
        };
        let is_digest =
            |text: &str| text.strip_prefix("sha256:").is_some_and(|hex| crate::wire::manifest::from_hex(hex).is_some());
        let word = |text: &str, more: &[u8], bytes_max: usize| {
            let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            begins
                && text.len() <= bytes_max
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let right_name = name.split('/').all(|part| word(part, b"-._", 128)) && name.len() <= 255;
        let right_reference = if rest.contains('@') { is_digest(reference) } else { word(reference, b"-._", 128) };
        let right_registry =
            !registry.is_empty() && registry.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b));
        if !right_name || !right_reference || !right_registry {
            return Err(form());
        }
        Ok(Place { registry: registry.to_string(), name: name.to_string(), reference: reference.to_string() })
    }

    /// Plain HTTP where it was asked for, and on the loopback, where registries for tests and behind tunnels are.
    ///
    /// # Errors
    /// As [`Url::parse`].
    fn url(&self, plain: bool) -> Result<Url, String> {
        let tls = Url::parse(&format!("https://{}/", self.registry))?;
        let is_loopback = tls.host == "localhost" || tls.host == "::1" || tls.host.starts_with("127.");
        if !plain && !is_loopback {
            return Ok(tls);
        }
        Url::parse(&format!("http://{}/", self.registry))
    }
}

/// The one layer, on its way.
pub struct Layer {
    pub body: Incoming,
    pub bytes: u64,
    /// `sha256:HEX`, as the manifest says; the import holds what comes against it.
    pub digest: String,
    /// The artifact by digest, for the image's record.
    pub source: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// An index has these.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// Finds the artifact and begins to get its layer.
///
/// # Errors
/// What the registry says, or why this is no disk image.
pub async fn pull(remote: &Remote, place: &Place, plain: bool, auth_file: Option<&Path>) -> Result<Layer, Failure> {
    let base = place.url(plain)?;
    let mut session = Session::new(remote, &place.registry, auth_file)?;
    let url = base.with_path(format!("/v2/{}/manifests/{}", place.name, place.reference));
    let accept = [(ACCEPT, HeaderValue::from_static(ACCEPTED))];
    let (_, answer) = session.get(&url, &accept).await?;
    let bytes = whole(success(&url, answer).await?, MANIFEST_BYTES_MAX).await?;
    let digest = format!("sha256:{}", clock::hex(&Sha256::digest(&bytes)));
    if place.reference.contains(':') && place.reference != digest {
        return Err(format!("{url}: the manifest that came has the digest {digest}").into());
    }
    let layer = one_layer(&bytes).map_err(|why| format!("oci://{}/{}: {why}", place.registry, place.name))?;
    let url = base.with_path(format!("/v2/{}/blobs/{}", place.name, layer.digest));
    let (at, answer) = session.get(&url, &[] as &[(HeaderName, HeaderValue)]).await?;
    let answer = success(&at, answer).await?;
    has_length(&at, &answer, layer.size)?;
    let source = format!("oci://{}/{}@{digest}", place.registry, place.name);
    Ok(Layer { body: answer.into_body(), bytes: layer.size, digest: layer.digest, source })
}

fn has_length(url: &Url, answer: &Response<Incoming>, expected: u64) -> Result<(), RemoteError> {
    use hyper::body::Body;
    match answer.body().size_hint().exact() {
        Some(bytes) if bytes != expected => {
            let why = format!("the layer should have {expected} bytes, {bytes} are offered");
            Err(RemoteError::Odd { place: url.place(), why })
        }
        _ => Ok(()),
    }
}

/// The layer that is a disk image.
fn one_layer(manifest: &[u8]) -> Result<Descriptor, String> {
    let manifest: Manifest = serde_json::from_slice(manifest).map_err(|error| format!("no manifest: {error}"))?;
    if !manifest.manifests.is_empty() {
        let digests: Vec<&str> = manifest.manifests.iter().take(8).map(|one| one.digest.as_str()).collect();
        return Err(format!(
            "this is an index of {} manifests; name the one that is meant by its digest, NAME@sha256:HEX: {}",
            manifest.manifests.len(),
            printable(&digests.join(", "))
        ));
    }
    let layer = match &manifest.layers[..] {
        [layer] => layer,
        layers => {
            return Err(format!(
                "this has {} layers; a disk image is an artifact of one layer, as `oras push` makes it ({})",
                layers.len(),
                if manifest.media_type.is_empty() { MANIFEST.to_string() } else { printable(&manifest.media_type) }
            ));
        }
    };
    if layer.media_type.contains(".tar") || layer.media_type.contains("+tar") {
        return Err(format!(
            "this is a container image (its layer is {}), not a disk image; take the disk out of it and push that alone: \
             oras push HOST/NAME:TAG disk.qcow2",
            printable(&layer.media_type)
        ));
    }
    let right = layer.digest.strip_prefix("sha256:").is_some_and(|hex| crate::wire::manifest::from_hex(hex).is_some());
    if !right {
        return Err(format!("its layer has the digest {}; only sha256 is taken", printable(&layer.digest)));
    }
    Ok(layer.clone())
}

/// It comes from a registry.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(700).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, registry, name, reference) in [
            ("r.example.net/team/debian:12", "r.example.net", "team/debian", "12"),
            ("127.0.0.1:5000/d:v1", "127.0.0.1:5000", "d", "v1"),
            (&format!("h:5000/d@{digest}")[..], "h:5000", "d", &digest[..]),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!((&place.registry[..], &place.name[..], &place.reference[..]), (registry, name, reference));
        }
        for wrong in [
            "",
            "h",
            "h/",
            "h/n",
            "h/n:",
            "/n:t",
            "h/../x:t",
            "h/n:a b",
            "h/n@sha256:12",
            "h/n@x",
            "u:p@h/n:t",
            "h/n?x:t",
        ] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
        assert!(!Place::parse("127.0.0.1:5000/d:v1").unwrap().url(false).unwrap().tls);
        assert!(Place::parse("r.example.net/d:v1").unwrap().url(false).unwrap().tls);
        assert!(!Place::parse("r.example.net/d:v1").unwrap().url(true).unwrap().tls);
    }

    #[test]
    fn only_an_artifact_of_one_layer_is_a_disk_image() {
        let digest = format!("sha256:{}", "b".repeat(64));
        let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":5}}"#);
        let manifest = |layers: &[String]| format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
        let disk = layer("application/x-qemu-disk");
        assert_eq!(one_layer(manifest(std::slice::from_ref(&disk)).as_bytes()).unwrap().digest, digest);
        for (text, words) in [
            (manifest(&[]), "this has 0 layers"),
            (manifest(&[disk.clone(), disk.clone()]), "this has 2 layers"),
            (manifest(&[layer("application/vnd.oci.image.layer.v1.tar+gzip")]), "a container image"),
            (manifest(&[layer("application/vnd.docker.image.rootfs.diff.tar.gzip")]), "a container image"),
            (manifest(&[disk.replace("sha256", "sha512")]), "only sha256"),
            (format!(r#"{{"manifests":[{disk}]}}"#), "an index of 1 manifests"),
            ("{".to_string(), "no manifest"),
        ] {
            let said = one_layer(text.as_bytes()).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
