//! [`AuthBody`]: the body of a response behind an [`AuthLayer`](crate::AuthLayer).

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The service's body, or that of a refusal. So the layer fits around a service with any body,
    /// and within any layer.
    ///
    /// It is a [`Body`] if the service's is one whose data are [`Bytes`]. The default is empty.
    pub struct AuthBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjected]
    enum Kind<B> {
        Service { #[pin] body: B },
        Refusal { body: Bytes },
    }
}

impl<B> AuthBody<B> {
    pub(super) fn of_service(body: B) -> Self {
        Self { kind: Kind::Service { body } }
    }

    pub(super) fn of_refusal(body: Bytes) -> Self {
        Self { kind: Kind::Refusal { body } }
    }

    /// Returns the service's body.
    ///
    /// # Errors
    ///
    /// The text of the refusal.
    pub fn into_inner(self) -> Result<B, Bytes> {
        match self.kind {
            Kind::Service { body } => Ok(body),
            Kind::Refusal { body } => Err(body),
        }
    }
}

impl<B> Default for AuthBody<B> {
    fn default() -> Self {
        Self::of_refusal(Bytes::new())
    }
}

impl<B: Body<Data = Bytes>> Body for AuthBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjected::Service { body } => body.poll_frame(context),
            KindProjected::Refusal { body } => {
                let data = std::mem::take(body);
                Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Service { body } => body.is_end_stream(),
            Kind::Refusal { body } => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Service { body } => body.size_hint(),
            Kind::Refusal { body } => SizeHint::with_exact(body.len() as u64),
        }
    }
}

/// Shows no content.
impl<B> fmt::Debug for AuthBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Service { .. } => "AuthBody(service)",
            Kind::Refusal { .. } => "AuthBody(refusal)",
        })
    }
}
