use proptest::prelude::*;

use super::*;

const BEARER: &str =
    r#"Bearer realm="https://auth.example/token?a=b",service="registry, \"x\"",scope="repository:shop:pull""#;

fn at(seconds: u64) -> Mono {
    Mono(Duration::from_secs(seconds))
}

fn password() -> Option<Credentials> {
    Some(Credentials::Password { user: "ann".into(), password: Secret::new("sesame:1") })
}

fn auth(credentials: Option<Credentials>) -> Auth {
    Auth::new(credentials, vec!["repository:shop:pull,push".into()])
}

fn challenge(auth: &mut Auth, values: &[&str]) -> Result<Step, AuthError> {
    auth.challenged(values.iter().copied())
}

fn sent(step: Step) -> Option<String> {
    match step {
        Step::Send(authorization) => authorization.map(|secret| secret.expose().to_owned()),
        Step::Ask(question) => panic!("{question:?}"),
    }
}

fn asked(step: Step) -> Question {
    match step {
        Step::Ask(question) => question,
        Step::Send(authorization) => panic!("{authorization:?}"),
    }
}

#[test]
fn who_asks_is_told_to_who_wants_to_know() {
    let mut auth = auth(password());
    assert_eq!(sent(auth.begin(at(0))), None, "nobody is told a password who did not ask");
    let step = challenge(&mut auth, &["Digest realm=\"x\"", "Basic realm=\"x\""]).unwrap();
    assert_eq!(sent(step).as_deref(), Some("Basic YW5uOnNlc2FtZTox"));
    assert_eq!(sent(auth.begin(at(9_999))).as_deref(), Some("Basic YW5uOnNlc2FtZTox"));
    assert_eq!(challenge(&mut auth, &["Basic realm=\"x\""]), Err(AuthError::Refused("ann".into())));
}

#[test]
fn a_token_is_asked_for_once_and_held_until_shortly_before_its_end() {
    let mut auth = auth(password());
    auth.begin(at(0));
    let question = asked(challenge(&mut auth, &[BEARER]).unwrap());
    let expected = "https://auth.example/token?a=b&service=registry%2C%20%22x%22&scope=repository%3Ashop%3Apull%2Cpush";
    assert_eq!(question.url, expected);
    assert_eq!(question.authorization.as_ref().map(Secret::expose), Some("Basic YW5uOnNlc2FtZTox"));
    let step = auth.answered(200, br#"{"access_token":"t1","expires_in":3600}"#, at(10)).unwrap();
    assert_eq!(sent(step).as_deref(), Some("Bearer t1"));
    assert_eq!(sent(auth.begin(at(10 + 3600 - 31))).as_deref(), Some("Bearer t1"));
    // A push of an hour.
    assert_eq!(asked(auth.begin(at(10 + 3600 - 30))), question);
    let step = auth.answered(200, br#"{"token":"t2"}"#, at(4_000)).unwrap();
    assert_eq!(sent(step).as_deref(), Some("Bearer t2"));
    assert_eq!(sent(auth.begin(at(4_000 + 53))).as_deref(), Some("Bearer t2"));
    asked(auth.begin(at(4_000 + 54)));
    // The question broke off: it is asked again.
    asked(auth.begin(at(4_001)));
    // A token that lives no time at all serves the request that it was asked for.
    let step = auth.answered(200, br#"{"token":"t3","expires_in":0}"#, at(4_001)).unwrap();
    assert_eq!(sent(step).as_deref(), Some("Bearer t3"));
}

#[test]
fn a_right_that_is_wanted_for_a_request_is_asked_for() {
    let mut auth = auth(None);
    auth.begin(at(0));
    let wide = r#"Bearer realm="https://a.example/",scope="repository:shop:push repository:other:pull""#;
    let question = asked(challenge(&mut auth, &[wide]).unwrap());
    let expected = "https://a.example/?scope=repository%3Ashop%3Apull%2Cpush&scope=repository%3Aother%3Apull";
    assert_eq!((question.url.as_str(), question.authorization), (expected, None));
}

#[test]
fn a_kept_login_is_exchanged() {
    let mut auth = auth(Some(Credentials::Identity(Secret::new("i&d"))));
    auth.begin(at(0));
    let question = asked(challenge(&mut auth, &[r#"Bearer realm="https://a.example/t",service="s""#]).unwrap());
    let form = "service=s&scope=repository%3Ashop%3Apull%2Cpush&grant_type=refresh_token&client_id=bowline&refresh_token=i%26d";
    assert_eq!(
        (question.url.as_str(), question.form.as_ref().map(Secret::expose)),
        ("https://a.example/t", Some(form))
    );
    let mut basic = self::auth(Some(Credentials::Identity(Secret::new("x"))));
    basic.begin(at(0));
    assert_eq!(challenge(&mut basic, &["Basic"]), Err(AuthError::Nobody));
}

#[test]
fn what_is_refused_is_refused() {
    let error = |credentials: Option<Credentials>, values: &[&str]| {
        let mut auth = auth(credentials);
        auth.begin(at(0));
        challenge(&mut auth, values).unwrap_err()
    };
    assert_eq!(error(None, &["Basic realm=\"x\""]), AuthError::Nobody);
    assert_eq!(error(None, &[]), AuthError::Unknown);
    assert_eq!(error(None, &["Negotiate"]), AuthError::Unknown);
    assert_eq!(error(None, &["Bearer service=\"x\""]), AuthError::Unknown);
    assert_eq!(error(None, &["Bearer realm=\"x"]), AuthError::Unknown);
    let answered = |credentials: Option<Credentials>, status: u16, body: &str| {
        let mut auth = auth(credentials);
        auth.begin(at(0));
        challenge(&mut auth, &[BEARER]).unwrap();
        auth.answered(status, body.as_bytes(), at(0)).unwrap_err()
    };
    assert_eq!(answered(None, 401, ""), AuthError::Nobody);
    assert_eq!(answered(password(), 403, ""), AuthError::Refused("ann".into()));
    assert_eq!(answered(None, 500, ""), AuthError::Tokens(500));
    for body in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\r\nX: y"}"#, r#"{"token":7}"#] {
        assert_eq!(answered(None, 200, body), AuthError::NoToken, "{body}");
    }
    // A token that was just given is not enough: it is not asked for again and again.
    let mut auth = auth(password());
    auth.begin(at(0));
    challenge(&mut auth, &[BEARER]).unwrap();
    auth.answered(200, br#"{"token":"t"}"#, at(0)).unwrap();
    assert_eq!(challenge(&mut auth, &[BEARER]), Err(AuthError::Refused("ann".into())));
    // With the next request it may be.
    auth.begin(at(1));
    asked(challenge(&mut auth, &[BEARER]).unwrap());
}

#[test]
fn what_is_secret_is_not_shown() {
    let mut auth = auth(password());
    auth.begin(at(0));
    let question = challenge(&mut auth, &[BEARER]).unwrap();
    auth.answered(200, br#"{"token":"hunter2"}"#, at(0)).unwrap();
    let shown = format!("{auth:?}{question:?}{:?}", auth.send());
    assert!(!shown.contains("sesame") && !shown.contains("hunter2") && !shown.contains("YW5u"), "{shown}");
}

proptest! {
    #[test]
    fn a_value_of_a_challenge_is_read_as_it_is_written(values in prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 0..4)) {
        let text: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        prop_assert_eq!(parse(&format!("BEARER {}", text.join(" , "))), Some(("bearer".to_owned(), values)));
    }

    /// Whatever a registry says, a request ends: one challenge, one question.
    #[test]
    fn no_challenge_goes_round_in_circles(value in ".{0,80}", status in any::<u16>(), body in ".{0,80}") {
        let mut auth = auth(password());
        let mut step = Ok(auth.begin(at(0)));
        for _ in 0..4 {
            step = match step {
                Ok(Step::Send(_)) => challenge(&mut auth, &[&value, BEARER]),
                Ok(Step::Ask(_)) => auth.answered(status, body.as_bytes(), at(0)),
                Err(_) => return Ok(()),
            };
        }
        prop_assert!(step.is_err());
    }
}
