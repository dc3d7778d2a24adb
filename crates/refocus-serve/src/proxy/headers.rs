//! Which header fields go on, and in which order.
//!
//! Names keep the order in which they first came, values of one name keep theirs. What cannot be kept is where the
//! second line of a name stood among lines of other names: `A: 1, B: 2, A: 3` goes on as `A: 1, A: 3, B: 2`, which
//! HTTP gives the same meaning (RFC 9110, 5.3). Upper and lower case of names goes along in an extension of the
//! message where both connections were told to keep it.

use axum::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::rewriter::API_KEY;

/// Names that belong to refocus: they steer it or report about it, and never go upstream.
pub(crate) const OWN: &str = "x-refocus-";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a field concerns one connection alone (RFC 9110, 7.6.1). `TE: trailers` is let through elsewhere.
fn concerns_the_connection(name: &HeaderName) -> bool {
    [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &TE,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ]
    .contains(&name)
}

/// Whether the `Connection` field names another one.
fn is_named(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(name.as_str()))
}

/// What a request's fields become on the way to the upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upward<'a> {
    /// Name of the upstream, in the place of the client's.
    pub(crate) host: Option<&'a HeaderValue>,
    /// In the place of the client's own credentials.
    pub(crate) authorization: Option<&'a HeaderValue>,
    /// The client's credentials are for this proxy and go no further.
    pub(crate) keep_credentials: bool,
    /// Length of the body, where it is not what the client sent.
    pub(crate) length: Option<u64>,
    /// The answer has to be readable: its usage is going to be summed.
    pub(crate) plain: bool,
}

impl Upward<'_> {
    /// The fields that go upstream.
    pub(crate) fn fields(&self, from: &HeaderMap) -> HeaderMap {
        let named = from.contains_key(CONNECTION);
        let mut to = HeaderMap::with_capacity(from.len() + 2);
        for (name, value) in from {
            if name.as_str().starts_with(OWN) {
                continue;
            }
            if concerns_the_connection(name) {
                // Without it the upstream may not send trailers; without the coding the end of a body on a GET is lost.
                let trailers = name == TE && value.as_bytes().eq_ignore_ascii_case(b"trailers");
                if trailers || (name == TRANSFER_ENCODING && self.length.is_none()) {
                    to.append(name, value.clone());
                }
                continue;
            }
            if named && is_named(from, name) || self.keep_credentials && name == AUTHORIZATION {
                continue;
            }
            // A key of ours stands in the place of all that the client shows.
            if self.authorization.is_some() && name == API_KEY {
                continue;
            }
            let replaced = if name == HOST {
                self.host.cloned()
            } else if name == AUTHORIZATION {
                self.authorization.cloned()
            } else if name == CONTENT_LENGTH {
                self.length.map(HeaderValue::from)
            } else if name == ACCEPT_ENCODING && self.plain {
                Some(HeaderValue::from_static("identity"))
            } else {
                None
            };
            match replaced {
                None => drop(to.append(name, value.clone())),
                // One value stands for all that there were.
                Some(_) if to.contains_key(name) => (),
                Some(value) => drop(to.append(name, value)),
            }
        }
        let missing = [
            (HOST, self.host.cloned()),
            (AUTHORIZATION, self.authorization.cloned()),
            (CONTENT_LENGTH, self.length.map(HeaderValue::from)),
        ];
        for (name, value) in missing {
            if let Some(value) = value
                && !to.contains_key(&name)
            {
                to.append(name, value);
            }
        }
        to
    }
}

/// The fields of an answer that go back to the client.
pub(crate) fn downward(from: &HeaderMap) -> HeaderMap {
    let named = from.contains_key(CONNECTION);
    // Beside a coding a length says nothing, and must not go on (RFC 9112, 6.3).
    let coded = from.contains_key(TRANSFER_ENCODING);
    let mut to = HeaderMap::with_capacity(from.len() + 6);
    for (name, value) in from {
        let overridden = coded && name == CONTENT_LENGTH;
        if !(overridden || concerns_the_connection(name) || named && is_named(from, name)) {
            to.append(name, value.clone());
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in lines {
            all.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                HeaderValue::from_str(value).expect("a value"),
            );
        }
        all
    }

    fn lines(map: &HeaderMap) -> Vec<(&str, &str)> {
        map.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("a text"))).collect()
    }

    #[test]
    fn names_and_values_keep_their_order() {
        let from = map(&[
            ("x-b", "1"),
            ("host", "here"),
            ("connection", "keep-alive, x-secret"),
            ("x-secret", "2"),
            ("x-refocus-s2a", "on"),
            ("x-a", "3"),
            ("x-b", "4"),
            ("te", "trailers"),
            ("keep-alive", "5"),
        ]);
        let there = HeaderValue::from_static("there");
        let to = Upward { host: Some(&there), ..Upward::default() }.fields(&from);
        assert_eq!(
            lines(&to),
            [("x-b", "1"), ("x-b", "4"), ("host", "there"), ("x-a", "3"), ("te", "trailers")]
        );
    }

    #[test]
    fn replaced_fields_stay_in_their_place_and_missing_ones_come_last() {
        let from = map(&[
            ("content-length", "5"),
            ("accept-encoding", "gzip"),
            ("api-key", "a"),
            ("accept-encoding", "br"),
            ("x", "y"),
        ]);
        let kept = Upward::default().fields(&from);
        assert_eq!(kept.get("api-key"), from.get("api-key"));
        let key = HeaderValue::from_static("Bearer k");
        let to = Upward { authorization: Some(&key), length: Some(7), plain: true, ..Upward::default() }
            .fields(&from);
        assert_eq!(
            lines(&to),
            [
                ("content-length", "7"),
                ("accept-encoding", "identity"),
                ("x", "y"),
                ("authorization", "Bearer k")
            ]
        );
    }

    #[test]
    fn fields_of_the_connection_do_not_come_back() {
        let from = map(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
        ]);
        assert_eq!(lines(&downward(&from)), [("set-cookie", "a"), ("set-cookie", "b"), ("trailer", "x-sum")]);
    }

    #[test]
    fn a_length_beside_a_coding_does_not_come_back() {
        let from = map(&[("content-length", "3"), ("transfer-encoding", "chunked"), ("x", "y")]);
        assert_eq!(lines(&downward(&from)), [("x", "y")]);
        let from = map(&[("content-length", "3")]);
        assert_eq!(lines(&downward(&from)), [("content-length", "3")]);
    }
}
