//! The form of a request: whether it is a call of gRPC whose messages are of protobuf.
//!
//! What is not must not be carried out. Who speaks another protocol does not understand the answer.
//! And a browser sends its user's credentials along with what a foreign page has it ask; with a
//! content type like this one it asks first whether it may, and is not told that it may.

use tonic::{
    body::Body,
    codegen::http::{self, HeaderValue, Method, StatusCode, header},
};

use super::status;

/// What a request is answered with that is no call.
pub(super) fn refusal<B>(request: &http::Request<B>) -> Option<http::Response<Body>> {
    if request.method() != Method::POST {
        let mut refusal = status::not_a_call("method", "must be POST").into_http();
        *refusal.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Some(refusal);
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|content_type| is_grpc(content_type.as_bytes())) {
        return None;
    }
    let mut refusal = status::not_a_call("content-type", "must be application/grpc").into_http();
    *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Some(refusal)
}

/// Whether this is gRPC with protobuf, which need not be said, whatever its parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    let media_type = media_type.trim_ascii_end();
    [&b"application/grpc"[..], b"application/grpc+proto"]
        .iter()
        .any(|known| media_type.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    /// The status of HTTP that a request is refused with, if it is.
    fn refused(method: &str, content_type: Option<&str>) -> Option<u16> {
        let mut request = http::Request::builder().method(method).uri("/a/b");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let refusal = refusal(&request.body(()).unwrap())?;
        let status = Status::from_header_map(refusal.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        Some(refusal.status().as_u16())
    }

    #[test]
    fn grpc_with_protobuf_is_a_call() {
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC",
            "application/grpc;charset=utf-8",
            "application/grpc+proto ; a=b",
        ] {
            assert_eq!(refused("POST", Some(good)), None, "{good}");
            for method in ["GET", "PUT", "OPTIONS", "CONNECT"] {
                assert_eq!(refused(method, Some(good)), Some(405), "{method} {good}");
            }
        }
    }

    #[test]
    fn what_is_said_otherwise_is_none() {
        for bad in [
            "",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc+json",
            "application/grpcs",
            "application/json",
            "application/proto",
            "application/x-www-form-urlencoded",
            "text/plain",
            "text/plain;application/grpc",
        ] {
            assert_eq!(refused("POST", Some(bad)), Some(415), "{bad}");
        }
        assert_eq!(refused("POST", None), Some(415));
    }
}
