//! A bucket elsewhere: the parts that `from` references ask for.

use super::endpoint::{UrlError, percent_decoded, place_of};
use crate::app::ReferenceField;
use crate::instance::EnvValue;
use crate::secret::Secret;

/// Where S3 is spoken, and with which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// Holds the keys.
    url: Secret,
    /// `https://s3.eu-central-1.amazonaws.com`
    endpoint: String,
    name: String,
    region: String,
    key: Secret,
    secret: Secret,
}

/// What servers that know no regions take for one.
const REGION: &str = "us-east-1";

impl BucketUrl {
    /// `https://KEY:SECRET@HOST[:PORT]/BUCKET[?region=REGION]`, RFC 3986; `http://` for a server on a network that is trusted.
    ///
    /// # Errors
    /// What it lacks, and nothing that it holds.
    pub fn parse(url: &Secret) -> Result<Self, UrlError> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| UrlError::Encoding)?;
        let scheme = ["https://", "http://"].into_iter().find(|scheme| text.starts_with(scheme));
        let scheme = scheme.ok_or(UrlError::Scheme("https:// or http://"))?;
        let rest = &text[scheme.len()..];
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').ok_or(UrlError::Keys)?;
        let (key, secret) = login.split_once(':').ok_or(UrlError::Keys)?;
        let (key, secret) = (percent_decoded(key)?, percent_decoded(secret)?);
        if key.is_empty() || secret.is_empty() {
            return Err(UrlError::Keys);
        }
        place_of(place)?;
        let name = percent_decoded(path.strip_suffix('/').unwrap_or(path))?;
        if name.is_empty() || name.contains('/') {
            return Err(UrlError::Bucket);
        }
        let region = query.split('&').find_map(|pair| pair.strip_prefix("region="));
        let region = percent_decoded(region.filter(|region| !region.is_empty()).unwrap_or(REGION))?;
        let (key, secret, endpoint) = (Secret::new(key), Secret::new(secret), format!("{scheme}{place}"));
        Ok(Self { url: url.clone(), endpoint, name, region, key, secret })
    }

    /// The value of one part; `None`: it has none. What holds a key is secret.
    pub fn part(&self, field: ReferenceField) -> Option<EnvValue> {
        match field {
            ReferenceField::Url => Some(EnvValue::Secret(self.url.clone())),
            ReferenceField::Endpoint => Some(EnvValue::Clear(self.endpoint.clone())),
            ReferenceField::Name => Some(EnvValue::Clear(self.name.clone())),
            ReferenceField::Region => Some(EnvValue::Clear(self.region.clone())),
            ReferenceField::Key => Some(EnvValue::Secret(self.key.clone())),
            ReferenceField::Secret => Some(EnvValue::Secret(self.secret.clone())),
            ReferenceField::Host
            | ReferenceField::Port
            | ReferenceField::Database
            | ReferenceField::User
            | ReferenceField::Password => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<[&str; 5], UrlError>) {
        let text = |value: Option<EnvValue>| match value {
            Some(EnvValue::Clear(text)) => text,
            Some(EnvValue::Secret(secret)) => String::from_utf8_lossy(secret.expose()).into_owned(),
            None => "none".to_owned(),
        };
        let fields = [
            ReferenceField::Endpoint,
            ReferenceField::Name,
            ReferenceField::Region,
            ReferenceField::Key,
            ReferenceField::Secret,
        ];
        let got = BucketUrl::parse(&Secret::new(url)).map(|bucket| {
            assert_eq!(text(bucket.part(ReferenceField::Url)), url);
            assert_eq!(bucket.part(ReferenceField::Password), None);
            fields.map(|field| text(bucket.part(field)))
        });
        assert_eq!(got, expected.map(|parts| parts.map(str::to_owned)), "{url}");
    }

    #[test]
    fn urls_are_taken_apart() {
        check(
            "https://AKIA:a%2Fb%2Bc:d@s3.eu-central-1.amazonaws.com/files?region=eu-central-1",
            Ok(["https://s3.eu-central-1.amazonaws.com", "files", "eu-central-1", "AKIA", "a/b+c:d"]),
        );
        check("http://k:s@[::1]:9000/files/", Ok(["http://[::1]:9000", "files", "us-east-1", "k", "s"]));
        check("https://k:s@h/f?x=y&region=", Ok(["https://h", "f", "us-east-1", "k", "s"]));
        check("s3://k:s@h/f", Err(UrlError::Scheme("https:// or http://")));
        check("https://h/f", Err(UrlError::Keys));
        check("https://k@h/f", Err(UrlError::Keys));
        check("https://:s@h/f", Err(UrlError::Keys));
        check("https://k:s@/f", Err(UrlError::Host));
        check("https://k:s@h:0/f", Err(UrlError::Port));
        check("https://k:s@h", Err(UrlError::Bucket));
        check("https://k:s@h/f/prefix", Err(UrlError::Bucket));
        check("https://k:%zz@h/f", Err(UrlError::Percent));
    }
}
