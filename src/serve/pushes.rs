//! The upload listener, from its configuration to its tasks.

use super::ServeError;
use crate::clock;
use crate::config::upload::Upload;
use crate::http::{Shared, image_upload, listen_upload};
use crate::image::uploads::Uploads;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How often uploads that nobody came back to are looked for. They expire after hours.
const EXPIRY_PAUSE: Duration = Duration::from_secs(600);

/// Bound, and not serving yet.
pub(super) struct Pushing {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Pushing {
    pub async fn bind(upload: &Upload) -> Result<Pushing, ServeError> {
        let what = format!("{} for uploads", upload.listen);
        let failed = |source| ServeError::Bind { what, source };
        let tls = match (&upload.certificate, &upload.key) {
            (Some(certificate), Some(key)) => listen_upload::acceptor(certificate, key).map(Some),
            _ => Ok(None),
        };
        let listener = async { Ok((TcpListener::bind(upload.listen).await?, tls?)) }.await;
        listener.map(|(listener, tls)| Pushing { listener, tls }).map_err(failed)
    }

    pub fn start(
        self,
        shared: Arc<Shared>,
        tasks: &mut JoinSet<()>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        // It was there when this was bound.
        let Some(upload) = shared.config.http.upload.clone() else { return Ok(()) };
        let uploads = Uploads::open(&shared.config.state_dir.join("uploads"), upload.limits())?;
        let pushes = image_upload::Pushes::new(shared, uploads, &upload.tokens);
        let routes = image_upload::routes(pushes.clone());
        tasks.spawn(listen_upload::run(self.listener, self.tls, routes, stopped.clone()));
        tasks.spawn(async move {
            let mut pause = tokio::time::interval(EXPIRY_PAUSE);
            loop {
                pause.tick().await;
                let pushes = pushes.clone();
                // It only removes files; what it could not do it tries again.
                let _ = tokio::task::spawn_blocking(move || pushes.uploads.expire(clock::now())).await;
            }
        });
        Ok(())
    }
}
