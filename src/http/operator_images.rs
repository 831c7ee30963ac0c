//! The operator API's images: import, list, show, export.

use super::Shared;
use super::body::JsonBody;
use super::peer::Operator;
use super::problem::Problem;
use super::upload;
use crate::causes;
use crate::clock;
use crate::image::{
    Declared, ExportError, ImageRef, ImportError, ImportRequest, Imported, Record, SourceError, StoreError,
};
use crate::registry::images::{ImageFacts, Mark, MarkKind};
use crate::upkeep;
use crate::wire::image_facts::Provenance;
use crate::wire::operator as wire;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `?source=`, `preview=`, `format=`, `digest=`, `builder=` and `commit=` of an import; `label=KEY=VALUE` may be there
/// more than once, see [`labels`].
#[derive(Debug, Deserialize)]
pub struct Source {
    #[serde(default)]
    source: String,
    /// Only hosts that are named get it, until it is activated.
    #[serde(default)]
    preview: bool,
    /// `raw` or `qcow2`.
    format: Option<String>,
    /// `sha256:HEX` or `blake3:HEX` of the body.
    digest: Option<String>,
    builder: Option<String>,
    commit: Option<String>,
}

fn labels(pairs: &[(String, String)]) -> impl Iterator<Item = &str> {
    pairs.iter().filter(|(key, _)| key == "label").map(|(_, label)| label.as_str())
}

/// `GET /v1/images`: an array, by name and version.
///
/// # Errors
/// 500 when the store cannot be read.
pub async fn list(State(shared): Server) -> Result<Json<Vec<wire::Image>>, Problem> {
    let (records, damaged) = shared.images.survey()?;
    let known = Known::of(&shared);
    let broken = damaged.into_iter().map(|(image, error)| known.broken(&image, causes::in_one_line(&error)));
    let mut all: Vec<wire::Image> =
        records.into_iter().map(|record| known.listed(&shared, record)).chain(broken).collect();
    all.sort_by(|a, b| a.image.cmp(&b.image));
    Ok(Json(all))
}

/// `GET /v1/images/{NAME:VERSION}`.
///
/// # Errors
/// 400, 404.
pub async fn show(State(shared): Server, Path(name): Path<String>) -> Result<Json<wire::Image>, Problem> {
    let image = reference(&name)?;
    let mut shown = shown(&shared, shared.images.show(&image)?);
    if shown.facts.is_none() {
        // Imported before records had them.
        let looked = tokio::task::spawn_blocking(move || shared.images.facts(&image)).await;
        let broken = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot look into it: {error}"));
        shown.facts = Some(Box::new(looked.map_err(broken)??));
    }
    Ok(Json(shown))
}

/// `PUT /v1/images/{NAME:VERSION}` with the image as body: raw or qcow2, plain or packed.
///
/// # Errors
/// 400 for what is no image, 409 for other content under an existing version, 413 for one that is too large,
/// 507 when the disk is full, 500 for a store that is damaged. In each case nothing is listed and nothing is kept.
pub async fn import(
    State(shared): Server,
    Path(name): Path<String>,
    Query(query): Query<Source>,
    Query(pairs): Query<Vec<(String, String)>>,
    operator: Operator,
    body: Body,
) -> Result<Json<wire::Image>, Problem> {
    let body = upload::Offered::new(body);
    let image = reference(&name)?;
    let wrong = |error: SourceError| Problem::new(StatusCode::BAD_REQUEST, error.to_string());
    let declared = Declared {
        format: query.format.as_deref().map(str::parse).transpose().map_err(wrong)?,
        digest: query.digest.as_deref().map(str::parse).transpose().map_err(wrong)?,
        provenance: Provenance::said(query.builder.as_deref(), query.commit.as_deref(), labels(&pairs))
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?,
    };
    let by = operator.called("")?;
    let source = query.source.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    let is_preview = query.preview;
    // Goes on when the client is gone meanwhile: once the version is listed the registry must be told of it.
    let work = tokio::spawn(async move { take_in(shared, image, declared, source, (is_preview, by), body).await });
    let done = work.await.map_err(|error| failed(&error))?;
    Ok(Json(done?))
}

fn failed(error: &tokio::task::JoinError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("import failed: {error}"))
}

/// `preview`: whether it is to be one, and who says so.
async fn take_in(
    shared: Arc<Shared>,
    image: ImageRef,
    declared: Declared,
    source: String,
    preview: (bool, String),
    body: upload::Offered,
) -> Result<wire::Image, Problem> {
    let (preview, by) = preview;
    let is_preview = before_import(&shared, &image, preview, &by).await?;
    let reader = upload::reader(body.take());
    let (store, named) = (shared.clone(), image.clone());
    let work = move || {
        let max_image_bytes = store.config.image.bytes_max;
        let request = ImportRequest { image: &named, now: clock::now(), source: &source, max_image_bytes };
        store.images.import_declared(reader, &declared, &request, &|_| ())
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))?;
    let imported = match done {
        Ok(imported) => imported,
        Err(error) => {
            if is_preview && is_unlisted(&shared, &image) {
                shared.registry.mark_image(image.to_string(), None, by).await?;
            }
            return Err(import_problem(error));
        }
    };
    upkeep::imported(&shared, &image).await?;
    let mut answer = shown(&shared, imported.record().clone());
    answer.already_there = Some(!matches!(imported, Imported::New(_)));
    tracing::info!(image = answer.image, added_bytes = answer.added_bytes, "image imported");
    Ok(answer)
}

/// Only then a failed import takes its preview mark back. A version that is listed all the same (a second import brought it
/// meanwhile, or the last step failed) would be everybody's without its mark.
pub(super) fn is_unlisted(shared: &Shared, image: &ImageRef) -> bool {
    matches!(shared.images.show(image), Err(StoreError::NoImage(_)))
}

/// # Errors
/// 409 while the version is being collected.
pub(super) fn refuse_going(shared: &Shared, image: &ImageRef) -> Result<(), Problem> {
    if upkeep::is_being_collected(shared, image) {
        let error =
            format!("{image} was removed, and its data is about to go; run `regild image gc`, then import it again");
        return Err(Problem::new(StatusCode::CONFLICT, error));
    }
    Ok(())
}

/// What must be so before any import: the version is not just being collected, nor taken for collected by the next
/// collection, and one that is to be a preview is marked. True when it was marked; the mark is to be taken back when the
/// import fails and the version [`is_unlisted`].
pub(super) async fn before_import(shared: &Shared, image: &ImageRef, preview: bool, by: &str) -> Result<bool, Problem> {
    refuse_going(shared, image)?;
    let name = image.to_string();
    if shared.registry.read(|view| view.images().collected.contains_key(&name)) {
        // Its data is gone. Were it still called collected once it is listed again, a collection that runs before the
        // import's last step would take it off the list.
        shared.registry.image_restored(name).await?;
    }
    let is_preview = preview && is_unlisted(shared, image);
    if is_preview {
        // Before it is there: afterwards it would be everybody's for a moment.
        let (name, reason) = (image.to_string(), "imported as a preview".to_string());
        let mark = Mark { image: name.clone(), kind: MarkKind::Preview, by: by.to_string(), reason, at: clock::now() };
        shared.registry.mark_image(name, Some(mark), by.to_string()).await?;
    }
    Ok(is_preview)
}

/// `POST /v1/images/{NAME:VERSION}/export`: writes the image to a file on the server, raw or qcow2.
///
/// # Errors
/// 400 for a path that is not absolute, or exists and may not be replaced; 404, 500. Nothing is left then.
pub async fn export(
    State(shared): Server,
    Path(name): Path<String>,
    JsonBody(asked): JsonBody<wire::Export>,
) -> Result<Json<wire::Image>, Problem> {
    let image = reference(&name)?;
    let record = shared.images.show(&image)?;
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, what);
    if !asked.path.is_absolute() {
        return Err(bad(format!("{} is not an absolute path", asked.path.display())));
    }
    let format =
        asked.format.as_deref().unwrap_or("raw").parse().map_err(|error: SourceError| bad(error.to_string()))?;
    let store = shared.clone();
    let work = move || store.images.export_file(&image, &asked.path, format, asked.force);
    let done = tokio::task::spawn_blocking(work).await;
    let done =
        done.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("export failed: {error}")))?;
    match done {
        Ok(()) => Ok(Json(shown(&shared, record))),
        Err(ExportError::Store(error)) => Err(error.into()),
        Err(error) => {
            let status = match &error {
                ExportError::Exists { .. } | ExportError::NotAFile { .. } | ExportError::Create { .. } => {
                    StatusCode::BAD_REQUEST
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Problem::new(status, causes::in_one_line(&error)))
        }
    }
}

fn reference(name: &str) -> Result<ImageRef, Problem> {
    name.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

pub(super) fn import_problem(error: ImportError) -> Problem {
    let status = match &error {
        ImportError::OtherContent { .. }
        | ImportError::OtherContentBefore { .. }
        | ImportError::OtherwisePacked { .. } => StatusCode::CONFLICT,
        ImportError::TooLarge { .. }
        | ImportError::Source(SourceError::ImageTooLarge { .. } | SourceError::FileTooLarge { .. }) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        ImportError::Store(StoreError::Io { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        ImportError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, causes::in_one_line(&error))
}

pub(super) fn shown(shared: &Shared, record: Record) -> wire::Image {
    Known::of(shared).shown(shared, record)
}

/// What the registry knows of versions, gathered once for a whole list.
struct Known {
    hosts: HashMap<String, usize>,
    facts: Arc<ImageFacts>,
}

impl Known {
    fn of(shared: &Shared) -> Known {
        shared.registry.read(|view| {
            let mut hosts: HashMap<String, usize> = HashMap::new();
            for host in view.hosts() {
                let (desired, reported) = (&host.host.desired, &host.host.reported);
                let other = reported.iter().filter(|reported| desired.as_ref().is_none_or(|d| d.name != reported.name));
                for image in desired.iter().chain(other) {
                    match hosts.get_mut(&image.name) {
                        Some(count) => *count += 1,
                        None => drop(hosts.insert(image.name.clone(), 1)),
                    }
                }
            }
            Known { hosts, facts: view.images().clone() }
        })
    }

    /// Without its facts: a thousand versions are megabytes of them.
    fn listed(&self, shared: &Shared, mut record: Record) -> wire::Image {
        record.facts = None;
        self.shown(shared, record)
    }

    fn shown(&self, shared: &Shared, record: Record) -> wire::Image {
        let name = record.image.to_string();
        wire::Image {
            manifest: record.manifest,
            content_digest: record.content_digest,
            image_bytes: record.image_bytes,
            data_bytes: record.data_bytes,
            added_bytes: record.added_bytes,
            imported_at: record.imported_at,
            source: record.source,
            hosts: self.hosts.get(&name).copied().unwrap_or_default(),
            stage: self.facts.stage(&name).word().to_string(),
            refused: self.facts.unfit.get(&name).cloned(),
            signed_by: shared.upkeep.signed_by(&name),
            provenance: record.provenance,
            facts: record.facts,
            already_there: None,
            image: name,
        }
    }

    /// A version whose record cannot be read is listed all the same: somebody must see it.
    fn broken(&self, image: &ImageRef, why: String) -> wire::Image {
        let name = image.to_string();
        wire::Image {
            manifest: String::new(),
            content_digest: String::new(),
            image_bytes: 0,
            data_bytes: 0,
            added_bytes: 0,
            imported_at: 0,
            source: String::new(),
            hosts: self.hosts.get(&name).copied().unwrap_or_default(),
            stage: self.facts.stage(&name).word().to_string(),
            refused: Some(why),
            signed_by: Vec::new(),
            provenance: Provenance::default(),
            facts: None,
            already_there: None,
            image: name,
        }
    }
}
