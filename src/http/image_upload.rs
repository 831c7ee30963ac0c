//! The upload listener: CI and other builders push images to the server, with a token, piece by piece
//! (`wire::upload` has the protocol). A listener and a router of its own: machines cannot reach it, and who reaches it can
//! do nothing but push images that his token may push.

use super::Shared;
use super::body::JsonBody;
use super::guard::Door;
use super::listen::Peer;
use super::operator_images::{before_import, import_problem, is_unlisted, refuse_going, shown};
use super::problem::Problem;
use super::upload;
use crate::causes;
use crate::clock;
use crate::config::upload::Token;
use crate::image::uploads::{Taken, UploadError, Uploads};
use crate::image::{Declared, ImageRef, ImportError, ImportRequest, Imported};
use crate::upkeep;
use crate::wire::manifest::from_hex;
use crate::wire::operator::Image;
use crate::wire::upload::{Create, Upload};
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use sha2::Digest;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// A connection that says nothing for so long is taken for dead; the client goes on with another one.
const SILENCE: Duration = Duration::from_secs(60);
const PIECE_BYTES: usize = 256 << 10;
/// With as many labels as a version can have, each byte of them escaped.
const CREATE_BYTES_MAX: usize = 128 << 10;
/// A token has at least 128 bits when it is drawn well, and no header should have more than this.
const TOKEN_BYTES_MAX: usize = 512;

/// What the handlers are given.
#[derive(Debug)]
pub struct Pushes {
    pub shared: Arc<Shared>,
    pub uploads: Uploads,
    tokens: Vec<(blake3::Hash, Token)>,
    door: Arc<Door>,
}

impl Pushes {
    /// Tokens are checked by the configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>, uploads: Uploads, tokens: &[Token]) -> Arc<Pushes> {
        let digest = |token: &Token| Some((blake3::Hash::from_bytes(from_hex(&token.sha256)?), token.clone()));
        let tokens = tokens.iter().filter_map(digest).collect();
        Arc::new(Pushes { shared, uploads, tokens, door: Door::of_signatures() })
    }

    /// Whose token this is. Digests are compared, in constant time (blake3::Hash), and always all of them.
    fn owner(&self, token: &str) -> Option<&Token> {
        // Wrapped in that type only for its comparison.
        let said = blake3::Hash::from_bytes(sha2::Sha256::digest(token).into());
        self.tokens.iter().fold(None, |found, (digest, token)| if *digest == said { Some(token) } else { found })
    }
}

type Server = State<Arc<Pushes>>;
type Owner = Extension<Token>;

/// Routes of the upload listener.
pub fn routes(pushes: Arc<Pushes>) -> Router {
    let piece = get(show).patch(append).delete(give_up).layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/v1/uploads", post(create).layer(DefaultBodyLimit::max(CREATE_BYTES_MAX)))
        .route("/v1/uploads/{id}", piece)
        .route("/v1/uploads/{id}/finish", post(finish))
        .layer(middleware::from_fn_with_state(pushes.clone(), with_token))
        .with_state(pushes)
}

/// Nothing is looked at before the token is.
async fn with_token(
    State(pushes): Server,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let source = peer.remote.ip();
    if let Err(locked_out) = pushes.door.begin(source) {
        return *locked_out;
    }
    let said = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = said.and_then(|said| said.strip_prefix("Bearer ")).filter(|token| token.len() <= TOKEN_BYTES_MAX);
    let Some(owner) = token.and_then(|token| pushes.owner(token)) else {
        let said = "this needs `Authorization: Bearer TOKEN` with a token whose digest is in [[http.upload.token]]";
        return Problem::new(StatusCode::UNAUTHORIZED, said).into_response();
    };
    pushes.door.was_right(source);
    request.extensions_mut().insert(owner.clone());
    next.run(request).await
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Problem {
        let status = match &error {
            UploadError::NotThere => StatusCode::NOT_FOUND,
            UploadError::OtherOffset { .. } | UploadError::NotWhole { .. } => StatusCode::PRECONDITION_FAILED,
            UploadError::Busy => StatusCode::LOCKED,
            UploadError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::TooMany { .. } | UploadError::NoRoom { .. } | UploadError::Io { .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
        };
        Problem::new(status, causes::in_one_line(&error))
    }
}

fn bad(said: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, said.to_string())
}

/// Runs what blocks on files away from the workers.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

/// `POST /v1/uploads`.
///
/// # Errors
/// 400, 401, 403, 409 for a version that exists with a digest that cannot be told, 413, 507.
async fn create(
    State(pushes): Server,
    Extension(owner): Owner,
    JsonBody(mut wish): JsonBody<Create>,
) -> Result<Json<Upload>, Problem> {
    let image: ImageRef = wish.image.parse().map_err(bad)?;
    declared(&wish)?;
    if !owner.images.is_empty() && !owner.images.iter().any(|name| name == image.name()) {
        let (who, name) = (&owner.name, image.name());
        return Err(Problem::new(StatusCode::FORBIDDEN, format!("the token {who} may not push images named {name}")));
    }
    let most = pushes.shared.config.image.bytes_max;
    if wish.bytes == 0 || wish.bytes > most {
        let said = format!("{} bytes: a file to push has 1 to {most} ([image] bytes_max)", wish.bytes);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, said));
    }
    wish.source = wish.source.chars().filter(|c| !c.is_control()).take(100).collect();
    blocking(move || Ok(Json(pushes.uploads.create(&owner.name, &wish, clock::now())?))).await
}

fn declared(wish: &Create) -> Result<Declared, Problem> {
    let format = wish.format.as_deref().map(str::parse).transpose().map_err(bad)?;
    wish.provenance.check().map_err(bad)?;
    Ok(Declared { format, digest: Some(wish.digest.parse().map_err(bad)?), provenance: wish.provenance.clone() })
}

async fn show(State(pushes): Server, Extension(owner): Owner, Path(id): Path<String>) -> Result<Json<Upload>, Problem> {
    Ok(Json(pushes.uploads.show(&owner.name, &id)?))
}

async fn give_up(State(pushes): Server, Extension(owner): Owner, Path(id): Path<String>) -> Result<(), Problem> {
    blocking(move || {
        pushes.uploads.take(&owner.name, &id)?.give_up();
        Ok(())
    })
    .await
}

/// `?offset=`: where the piece begins.
#[derive(Debug, Deserialize)]
struct At {
    offset: u64,
}

/// `PATCH /v1/uploads/{ID}`. What came before the connection broke is kept.
///
/// # Errors
/// 404, 412, 413, 423, 507; 400 for a body that was cut.
async fn append(
    State(pushes): Server,
    Extension(owner): Owner,
    Path(id): Path<String>,
    Query(at): Query<At>,
    body: Body,
) -> Result<Json<Upload>, Problem> {
    let mut reader = upload::reader_within(body, SILENCE);
    blocking(move || {
        let mut taken = pushes.uploads.take(&owner.name, &id)?;
        taken.is_at(at.offset)?;
        let came = take_in(&mut reader, &mut taken);
        taken.sync(clock::now())?;
        drop(taken);
        came?;
        Ok(Json(pushes.uploads.show(&owner.name, &id)?))
    })
    .await
}

fn take_in(reader: &mut impl Read, taken: &mut Taken<'_>) -> Result<(), Problem> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => taken.append(&piece[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(bad(format!("the connection broke: {error}"))),
        }
    }
}

/// `POST /v1/uploads/{ID}/finish`. Goes on when the client is gone meanwhile; asked again it is answered again.
///
/// # Errors
/// 404, 409 while the version is collected, 412 when it is not whole, 423 while it is imported; else as an import. An upload
/// that is no image, or another file than was said, is removed.
async fn finish(
    State(pushes): Server,
    Extension(owner): Owner,
    Path(id): Path<String>,
) -> Result<Json<Image>, Problem> {
    // What the registry must be told blocks as well, so that nothing of it hangs on a client that waits.
    let runtime = tokio::runtime::Handle::current();
    blocking(move || {
        let mut taken = pushes.uploads.take(&owner.name, &id)?;
        let image: ImageRef = taken.wish().image.parse().map_err(bad)?;
        let shared = &pushes.shared;
        if !taken.is_finished() {
            // Before anything is marked for it.
            taken.whole()?;
        }
        let by = format!("token {}", owner.name);
        if taken.is_finished() {
            refuse_going(shared, &image)?;
            return match shared.images.show(&image) {
                Ok(record) => Ok(Json(Image { already_there: Some(true), ..shown(shared, record) })),
                Err(error) => {
                    taken.give_up();
                    Err(error.into())
                }
            };
        }
        let is_preview = runtime.block_on(before_import(shared, &image, taken.wish().preview, &by))?;
        let imported = match import(shared, &taken, &image, &owner)? {
            Ok(imported) => imported,
            Err(error) => {
                // A full disk or a damaged store says nothing about the file: it can be tried again.
                if !matches!(error, ImportError::Store(_) | ImportError::OtherwisePacked { .. }) {
                    taken.give_up();
                }
                if is_preview && is_unlisted(shared, &image) {
                    runtime.block_on(shared.registry.mark_image(image.to_string(), None, by))?;
                }
                return Err(import_problem(error));
            }
        };
        // Before the upload is over: if it cannot be done now, the client's next `finish` does it.
        runtime.block_on(upkeep::imported(shared, &image))?;
        taken.finish(clock::now())?;
        let mut answer = shown(shared, imported.record().clone());
        answer.already_there = Some(!matches!(imported, Imported::New(_)));
        tracing::info!(image = answer.image, token = owner.name, added_bytes = answer.added_bytes, "image pushed");
        Ok(Json(answer))
    })
    .await
}

/// The outer error is of words that were checked when the upload began.
fn import(
    shared: &Shared,
    taken: &Taken<'_>,
    image: &ImageRef,
    owner: &Token,
) -> Result<Result<Imported, ImportError>, Problem> {
    let declared = declared(taken.wish())?;
    let source = format!("{} (pushed with the token {})", taken.wish().source, owner.name);
    let max_image_bytes = shared.config.image.bytes_max;
    let request = ImportRequest { image, now: clock::now(), source: &source, max_image_bytes };
    Ok(shared.images.import_declared(taken.whole()?, &declared, &request, &|_| ()))
}
