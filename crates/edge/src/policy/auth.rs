//! Header tokens, bearer tokens and passwords.
//!
//! A header token that is missing or wrong is 403: 401 must come with a challenge (RFC 9110, 15.5.2), and there is no
//! authentication scheme for a header of one's own choice to challenge with.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bowline_core::route::{Gate, Proof};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::answer::Reason;
use crate::h1::{Field, RequestHead};

const AUTHORIZATION: &str = "authorization";

#[derive(Debug)]
pub(super) struct Auth(Gate);

impl Auth {
    pub(super) fn new(gate: &Gate) -> Self {
        Self(gate.clone())
    }

    pub(super) fn check(&self, head: &RequestHead) -> Result<(), Reason> {
        let proven = match &self.0.proof {
            Proof::Header(name) => sole(head, name).is_some_and(|token| self.knows(token)),
            Proof::Bearer => credentials(head, b"bearer").is_some_and(|token| self.knows(token)),
            Proof::Basic => {
                let encoded = credentials(head, b"basic");
                encoded.and_then(|text| BASE64_STANDARD.decode(text).ok()).is_some_and(|user| self.knows(&user))
            }
        };
        match (&self.0.proof, proven) {
            (_, true) => Ok(()),
            (Proof::Header(_), false) => Err(Reason::TokenRefused),
            (Proof::Bearer, false) => Err(Reason::BearerWanted),
            (Proof::Basic, false) => Err(Reason::BasicWanted),
        }
    }

    /// Takes as long for a proof that is nearly right as for any other, and for the first user as for the last.
    fn knows(&self, proof: &[u8]) -> bool {
        let credentials = &self.0.credentials;
        let digest: [u8; 32] = Sha256::new().chain_update(credentials.salt).chain_update(proof).finalize().into();
        let same = |known: &[u8; 32]| known.ct_eq(&digest);
        credentials.digests.iter().fold(Choice::from(0), |found, known| found | same(known)).into()
    }

    /// A password is not for the app; tokens go on, since apps that hold the same token may look at it again.
    pub(super) fn keeps(&self, field: &Field<'_>) -> bool {
        self.keeps_any() && field.name.eq_ignore_ascii_case(AUTHORIZATION.as_bytes())
    }

    pub(super) fn keeps_any(&self) -> bool {
        match self.0.proof {
            Proof::Basic => true,
            Proof::Header(_) | Proof::Bearer => false,
        }
    }
}

/// The value of a field that is there once: of two, the app might believe the other one.
fn sole<'a>(head: &'a RequestHead, name: &'a str) -> Option<&'a [u8]> {
    let mut values = head.all(name);
    values.next().filter(|_| values.next().is_none())
}

/// What follows the scheme (RFC 9110, 11.4), whose name has no case.
fn credentials<'a>(head: &'a RequestHead, scheme: &[u8]) -> Option<&'a [u8]> {
    let (named, rest) = sole(head, AUTHORIZATION)?.split_at_checked(scheme.len())?;
    (named.eq_ignore_ascii_case(scheme) && rest.starts_with(b" ")).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{GateStep, RequestGate};
    use bowline_core::route::Credentials;

    fn auth(proof: Proof, secrets: &[&str]) -> Auth {
        let salt = [7; 16];
        let digest = |secret: &&str| Sha256::new().chain_update(salt).chain_update(secret).finalize().into();
        Auth(Gate { proof, credentials: Credentials { salt, digests: secrets.iter().map(digest).collect() } })
    }

    fn check(auth: &Auth, fields: &str, expected: Result<(), Reason>) {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let GateStep::Head { head, .. } = RequestGate::new().read(text.as_bytes(), &mut Default::default()) else {
            panic!("{text} is no request")
        };
        assert_eq!(auth.check(&head), expected, "{fields}");
    }

    #[test]
    fn a_header_token_must_be_there_once_and_whole() {
        let auth = auth(Proof::Header("x-auth-token".to_owned()), &["s3cret"]);
        let no = Err(Reason::TokenRefused);
        check(&auth, "X-Auth-Token: s3cret\r\n", Ok(()));
        check(&auth, "x-AUTH-token:s3cret\r\n", Ok(()));
        check(&auth, "", no);
        check(&auth, "X-Auth-Token: s3cre\r\n", no);
        check(&auth, "X-Auth-Token: s3cret2\r\n", no);
        check(&auth, "X-Auth-Token:\r\n", no);
        check(&auth, "X_Auth_Token: s3cret\r\n", no);
        check(&auth, "X-Auth-Token: s3cret\r\nX-Auth-Token: s3cret\r\n", no);
        check(&auth, "X-Auth-Token: other\r\nX-Auth-Token: s3cret\r\n", no);
    }

    #[test]
    fn a_bearer_token_follows_its_scheme() {
        let auth = auth(Proof::Bearer, &["s3cret"]);
        let no = Err(Reason::BearerWanted);
        check(&auth, "Authorization: Bearer s3cret\r\n", Ok(()));
        check(&auth, "authorization: bEARER   s3cret\r\n", Ok(()));
        check(&auth, "", no);
        check(&auth, "Authorization: s3cret\r\n", no);
        check(&auth, "Authorization: Bearers3cret\r\n", no);
        check(&auth, "Authorization: Basic s3cret\r\n", no);
        check(&auth, "Authorization: Bearer s3cret, Bearer x\r\n", no);
        check(&auth, "Authorization: Bearer s3cret\r\nAuthorization: Bearer s3cret\r\n", no);
    }

    #[test]
    fn any_user_of_the_list_gets_in_with_the_right_password() {
        let auth = auth(Proof::Basic, &["ann:one", "bob:t:wo"]);
        let basic = |user: &str| format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(user));
        let no = Err(Reason::BasicWanted);
        check(&auth, &basic("ann:one"), Ok(()));
        check(&auth, &basic("bob:t:wo"), Ok(()));
        check(&auth, &basic("ann:t:wo"), no);
        check(&auth, &basic("ann"), no);
        check(&auth, "Authorization: Basic !!!\r\n", no);
        check(&auth, "Authorization: Basic\r\n", no);
    }

    #[test]
    fn without_a_digest_nobody_gets_in() {
        let auth = auth(Proof::Header("x-t".to_owned()), &[]);
        check(&auth, "X-T: \r\n", Err(Reason::TokenRefused));
    }
}
