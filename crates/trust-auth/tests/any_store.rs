//! One type for the database that a URL names.

#![cfg(any(feature = "postgres", feature = "sqlite"))]

use trust_auth::{AnyStore, StoreError};

#[tokio::test]
async fn a_url_of_another_database_or_of_a_feature_that_is_off_is_unsupported() {
    let mut urls = vec!["mysql://db.example/trusts"];
    if cfg!(not(feature = "postgres")) {
        urls.push("postgres://user:password@db.example/trusts");
    }
    for url in urls {
        let error = AnyStore::connect(url).await.unwrap_err();
        assert!(matches!(error, StoreError::UnsupportedUrl { .. }), "{error:?}");
        assert!(!error.to_string().contains("password@"), "{error}");
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn every_change_through_a_url_is_made_and_seen_by_the_authenticator() {
    use trust_auth::{AuthError, NewTrust, Route, TrustAuth};

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let missing = TrustAuth::connect(file.to_str().unwrap()).await.unwrap_err();
    assert_eq!(missing.kind(), "not_found");

    let url = format!("sqlite:{}?mode=rwc", file.display());
    let auth = TrustAuth::connect(&url).await.unwrap();
    assert!(auth.store().location().ends_with("trusts.db"), "{:?}", auth.store());
    let (trust, key) = auth.registry().register(NewTrust::new("a").unwrap()).await.unwrap();
    let which = trust.id.into();
    assert_eq!(auth.registry().list().await.unwrap(), std::slice::from_ref(&trust));
    assert_eq!(auth.authenticate(Some(key.expose())).await.unwrap(), trust);

    auth.registry().disable(&which).await.unwrap();
    let refused = auth.authenticate(Some(key.expose())).await;
    assert!(matches!(refused, Err(AuthError::Invalid)));
    auth.registry().enable(&which).await.unwrap();
    let (_, new) = auth.registry().rotate(&which).await.unwrap();
    let attempt = auth.authenticator().attempt(Some(new.expose())).await;
    assert_eq!((attempt.result.unwrap().id, attempt.route), (trust.id, Route::Scan));
    // At the same time: the store decides, and not a list that was read before.
    let import = async |name: &str| {
        auth.registry().import_key(NewTrust::new(name).unwrap(), "one key").await.is_ok()
    };
    for round in 0..5 {
        auth.registry().delete(&"b".into()).await.ok();
        auth.registry().delete(&"c".into()).await.ok();
        let (one, other) = tokio::join!(import("b"), import("c"));
        assert!(one ^ other, "{round}: {one} {other}");
    }
    auth.registry().delete(&"b".into()).await.ok();
    auth.registry().delete(&"c".into()).await.ok();
    auth.registry().delete(&which).await.unwrap();
    assert_eq!(auth.registry().listing().await.unwrap().trusts, []);

    auth.store().close().await;
    let closed = auth.authenticate(Some(new.expose())).await.unwrap_err();
    assert_eq!(
        (closed.kind(), auth.authenticator().stats().failures.of("unreachable")),
        ("unavailable", 1)
    );
}
